"""Text reaches a terminal as text: no markup, no commands, in every kind of thing that is printed."""

from __future__ import annotations

import io
import logging

import pytest
from rich.table import Table
from rich.text import Text

from ropewalk.common.notebook import Notebook
from ropewalk.common.terminal import Log, Terminal, visible

NASTY = "[/bold][/x][red]\x1b[2J\x1b]0;title\x07\x9b31m\u202e:smile:\ud800\x00"
SHOWN = r"[/bold][/x][red]\x1b[2J\x1b]0;title\x07\x9b31m\u202e:smile:\ud800\x00"


def printed(*what: object, **how: object) -> str:
    terminal = Terminal(file=io.StringIO(), width=200, force_terminal=True, color_system="truecolor")
    terminal.print(*what, soft_wrap=True, **how)
    return terminal.file.getvalue()


def test_what_a_terminal_obeys_is_shown():
    assert visible(NASTY) == SHOWN
    assert visible("tab\t line\n é 漢 🪢") == "tab\t line\n é 漢 🪢"


def test_strings_are_plain():
    assert printed(NASTY) == SHOWN + "\n"


def test_styled_text_keeps_its_style_and_loses_its_commands():
    assert printed(Text("\x1b[2J", "bold"), NASTY, sep="") == rf"{chr(27)}[1m\x1b[2J{chr(27)}[0m{SHOWN}" + "\n"


@pytest.mark.parametrize("place", ["cell", "heading", "title"])
def test_tables_are_plain(place):
    table = Table(NASTY if place == "heading" else "a", title=NASTY if place == "title" else None)
    table.add_row(NASTY if place == "cell" else " " * 80)
    terminal = Terminal(file=io.StringIO(), width=200, color_system=None)
    terminal.print(table)
    assert SHOWN in terminal.file.getvalue() and not set(terminal.file.getvalue()) & set("\x1b\x07\x9b\x00\ud800")


def test_a_notebook_escapes_markup_of_either_kind():
    page = Notebook()
    page.print(NASTY + "<script>")
    assert "[/bold][/x][red]" in page.html() and "<script>" not in page.html() and "\x1b" not in page.html()


def test_log_records_are_plain(capsys):
    Log().emit(logging.makeLogRecord({"msg": "%s", "args": (NASTY,)}))
    assert capsys.readouterr().err == SHOWN + "\n"


def test_without_a_terminal_no_line_is_broken(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    terminal = Terminal(file=io.StringIO())
    terminal.print(table := Table("a", "b"))
    table.add_row("word " * 100, "word " * 100)
    terminal.print(table)
    assert max(map(len, terminal.file.getvalue().splitlines())) > 1000


def test_in_a_terminal_text_is_left_to_it_and_tables_are_not():
    terminal = Terminal(file=io.StringIO(), width=40, force_terminal=True, color_system=None)
    terminal.print("ropewalk word " * 10)
    table = Table("a")
    table.add_row("word " * 100)
    terminal.print(table)
    first, *rest = terminal.file.getvalue().splitlines()
    assert first == "ropewalk word " * 10 and max(map(len, rest)) == 40
