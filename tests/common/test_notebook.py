"""What a terminal shows, as HTML: the same words, tables as tables, and nothing of it read as markup."""

from __future__ import annotations

import io
from html.parser import HTMLParser

import pytest
import rich.console
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ropewalk.common.notebook import Notebook
from ropewalk.common.terminal import Terminal


class Cells(HTMLParser):
    """Rows of tables, and the text around them."""

    def __init__(self, page: str):
        super().__init__()
        self.rows: list[list[str]] = []
        self.around = ""
        self.open: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        else:
            self.around += data


def shown(console: Console) -> None:
    table = Table("name", caption=Text.assemble("what it ", ("means", "dim")))
    table.add_column(Text("length", "bold"))
    table.add_row("<b>&[red]", Text.assemble("7\n", ("6…8", "dim")))
    table.add_row("a long name " * 30, "8")
    console.print("before", end="", style="bold")
    console.print(" <i> the table")
    console.print(table)
    console.print("after ", 1)


def test_tables_are_tables_between_the_lines_of_text():
    page = Notebook()
    shown(page)
    found = Cells(page.html())
    assert found.rows == [["name", "length"], ["<b>&[red]", "7\n6…8"], ["a long name " * 30, "8"]]
    assert found.around == "before <i> the table\nwhat it meansafter  1\n"
    assert page.html().count("font-weight: bold") == 2


def test_a_notebook_says_every_word_of_the_terminal():
    page, terminal = Notebook(), Terminal(file=io.StringIO(), width=1000, color_system=None)
    shown(page)
    shown(terminal)
    words = " ".join([*(cell for row in Cells(page.html()).rows for cell in row), Cells(page.html()).around])
    for word in terminal.file.getvalue().split():
        assert word in words or not word.isalnum()


def test_in_a_notebook_nothing_is_displayed_line_by_line(monkeypatch):
    outside = Notebook()
    shown(outside)
    monkeypatch.setattr(rich.console, "_is_jupyter", lambda: True)
    monkeypatch.setattr("rich.jupyter.display", lambda *_: pytest.fail("displayed by rich"))
    page = Notebook()
    shown(page)
    assert page.html() == outside.html()
    file = io.StringIO()
    shown(Terminal(file=file))
    assert "before <i> the table" in file.getvalue()
