"""A table without lines, which leaves columns out, or is no table, rather than breaking what stands in them."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

READABLE = 36  # characters of a line of words


class Columns(Table):
    """Names in the first column, and headings that say what the others are: ``>`` aligns one to the right.

    Those marked ``?`` are whole or not there: in a terminal too narrow for all of them the last ones are left out, and
    named below the table. The others wrap between words, names last of all. Where not even words fit beside each other,
    every row is a name with lines below it.
    """

    def __init__(self, *headings: str, gap: int) -> None:
        super().__init__(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
        self._gap, self._optional = gap, [heading.startswith("?") for heading in headings]
        for i, heading in enumerate(headings):
            name = heading.removeprefix("?")
            self.add_column(
                name.removeprefix(">"),
                justify="right" if name.startswith(">") else "left",
                no_wrap=i == 0 or self._optional[i],
                overflow="fold",
            )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        kept, left_out = list(self.columns), list[Column]()
        optional = [column for column, may_go in zip(self.columns, self._optional, strict=True) if may_go]
        while optional and self._needed(kept) > options.max_width:
            left_out.insert(0, optional.pop())
            kept.remove(left_out[0])
        widths = self._widths(kept, options.max_width)
        if widths is None:
            yield from self._below_each_other(console)
            return
        shown = copy(self)
        shown.columns = [
            replace(column, _index=i, width=width, no_wrap=False)
            for i, (column, width) in enumerate(zip(kept, widths, strict=True))
        ]
        yield from Table.__rich_console__(shown, console, options)
        if left_out:
            names = ", ".join(" ".join(str(column.header).split()) for column in left_out)
            yield Text(f"in a wider terminal, or in a pipe: {names}", "dim")

    def _widths(self, columns: list[Column], width: int) -> list[int] | None:
        """Of the columns, so that no word is broken and names have a line before others; None if there is no room."""
        least = [self._longest(column, words=True) for column in columns]
        most = [self._longest(column, words=False) for column in columns]
        left = width - self._gap * (len(columns) - 1) - sum(least)
        if left < 0:
            return None
        wanting = sorted(range(1, len(columns)), key=lambda i: most[i] - least[i])
        for n, i in enumerate([0, *wanting]):
            more = min(most[i] - least[i], left if i == 0 else left // (len(columns) - n))
            least[i] += more
            left -= more
        return least

    def _below_each_other(self, console: Console) -> RenderResult:
        first, *others = self.columns
        for name, *cells in zip(first.cells, *(column.cells for column in others), strict=True):
            if said := _plain(name, console).strip():  # a row without a name goes on with the one before it
                yield Text(said, "bold")
            for column, cell in zip(others, cells, strict=True):
                heading = " ".join(str(column.header).split())
                if said := _plain(cell, console).strip():
                    yield Padding(f"{heading}: {said}" if heading else said, (0, 0, 0, 2))

    def _needed(self, columns: list[Column]) -> int:
        """The width in which names and optional columns are whole, and words are read with ease."""
        total = self._gap * (len(columns) - 1)
        for column in columns:
            width = self._longest(column, words=False)
            total += width if column.no_wrap else min(width, READABLE)
        return total

    @staticmethod
    def _longest(column: Column, words: bool) -> int:
        """Of the lines of a column, or of what cannot be broken in it."""
        cells = (str(cell) for cell in (column.header, *column.cells))
        apart = words and (not column.no_wrap or column._index == 0)
        return max(
            (cell_len(one) for cell in cells for one in (cell.split() if apart else cell.split("\n"))), default=0
        )


def _plain(cell: RenderableType, console: Console) -> str:
    return console.render_str(cell).plain if isinstance(cell, str) else str(cell)
