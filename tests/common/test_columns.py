"""What does not fit in a terminal is left out whole, and said."""

from __future__ import annotations

import io

import pytest

import ropewalk
from ropewalk.common.results import columns
from ropewalk.common.terminal import Terminal
from ropewalk.methods.catalogue import CATALOGUE

URL = "github.com/someone/something"


def shown(width: int | None) -> str:
    table = columns("name", "what it does", "?>size", "?paper")
    table.add_row("a-long-name", "words and words and more words than fit in a line of a few characters", "12", URL)
    terminal = Terminal(file=io.StringIO(), width=width, color_system=None)
    terminal.print(table)
    return terminal.file.getvalue()


FITS = [(100, [URL, "12"], ""), (60, ["12"], "paper"), (50, [], "size, paper")]


@pytest.mark.parametrize(("width", "whole", "missing"), FITS)
def test_columns_go_from_the_last_on_and_are_named(width, whole, missing):
    text = shown(width)
    assert max(map(len, text.splitlines())) <= width
    assert [word for word in (URL, "12") if word in text] == whole
    assert (f"in a pipe: {missing}" in text) == bool(missing)
    assert "a-long-name" in text and all(word in text for word in "words and more than fit a few characters".split())


def test_without_a_terminal_all_of_it_is_there(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert len(shown(None).splitlines()) == 2 and URL in shown(None)


def test_the_catalogue_says_what_each_method_does_in_every_width(monkeypatch):
    for width in ("80", "120", ""):
        monkeypatch.setenv("COLUMNS", width)
        words = repr(ropewalk.list_methods()).split()
        for entry in CATALOGUE:
            assert set(entry.summary.split()) <= set(words)
            assert width or entry.paper in ("", *words)
    monkeypatch.setenv("COLUMNS", "80")
    assert (
        "in a pipe" not in ropewalk.list_methods()._repr_html_() and "mrRoPE" in ropewalk.list_methods()._repr_html_()
    )


@pytest.mark.parametrize("width", [25, 30, 40, 50, 60, 80])
def test_no_word_and_no_number_is_broken_in_any_width(width):
    table = columns("", ">as it came", ">extended, untrained", ">last against as it came")
    table.add_row("perplexity at 362 to 511", "4,133", "4,094", "0.0367x (0.0351 to 0.0384)")
    table.add_row("", "0 %", "10 %", "")
    terminal = Terminal(file=io.StringIO(), width=width, color_system=None)
    terminal.print(table)
    text = terminal.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    words = "perplexity 362 4,133 4,094 0.0367x (0.0351 0.0384) untrained against 10".split()
    assert all(word in text.replace(":", "").split() for word in words)


@pytest.mark.parametrize("width", [40, 60])
def test_names_and_numbers_stay_whole_in_a_narrow_terminal(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    found = ropewalk.inspect("demo")
    (row,) = (line for line in repr(found).splitlines() if line.startswith("all "))
    assert row.split()[:3] == ["all", "default", f"{found.specs['all'].base:,.0f}"] and len(row) <= width
    assert ("in a pipe" in repr(found)) == (width == 40)


def test_the_list_of_tasks_breaks_no_word(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    words = repr(tasks := ropewalk.list_tasks()).split()
    assert all(one.name in words and set(one.title.split()) <= set(words) for one in tasks)
