"""A table without lines, which leaves columns out rather than breaking what stands in them."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Column, Table
from rich.text import Text

READABLE = 36  # characters of a line of words


class Columns(Table):
    """Names in the first column, and headings that say what the others are: ``>`` aligns one to the right.

    Those marked ``?`` are whole or not there: in a terminal too narrow for all of them the last ones are left out, and
    named below the table. The others wrap.
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
        shown = copy(self)
        shown.columns = [replace(column, _index=i) for i, column in enumerate(kept)]
        yield from Table.__rich_console__(shown, console, options)
        if left_out:
            names = ", ".join(" ".join(str(column.header).split()) for column in left_out)
            yield Text(f"in a wider terminal, or in a pipe: {names}", "dim")

    def _needed(self, columns: list[Column]) -> int:
        """The width in which names and optional columns are whole, and words are read with ease."""
        total = self._gap * (len(columns) - 1)
        for column in columns:
            lines = (line for cell in (column.header, *column.cells) for line in str(cell).split("\n"))
            width = max(map(cell_len, lines))
            total += width if column.no_wrap else min(width, READABLE)
        return total
