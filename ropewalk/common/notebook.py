"""What is printed for a terminal, as HTML for a notebook: tables become tables, the rest stays lines of text."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

from rich.table import Table

from ropewalk.common.terminal import Terminal

TEXT = '<pre style="margin: 0; white-space: pre-wrap">{code}</pre>'
CELL = "text-align: {}; vertical-align: top; white-space: pre-wrap"


class Notebook(Terminal):
    """A console that keeps what is printed to it, for ``html``."""

    def __init__(self) -> None:
        super().__init__(file=io.StringIO(), record=True, width=120)
        self._parts: list[str] = []

    def print(self, *objects: Any, **how: Any) -> None:
        for table in (one for one in objects if isinstance(one, Table)):
            self._flush()
            self._parts.append(self._table(table))
        others = [one for one in objects if not isinstance(one, Table)]
        if others or not objects:
            super().print(*others, **how)

    def html(self) -> str:
        """All of it."""
        self._flush()
        return f"<div>{''.join(self._parts)}</div>"

    def _flush(self) -> None:
        """Keep the lines that were printed since the last table."""
        text = self.export_html(inline_styles=True, code_format=TEXT)
        if text != TEXT.format(code=""):
            self._parts.append(text)

    def _styled(self, cell: Any) -> str:
        """A cell with its style."""
        one = Terminal(file=io.StringIO(), record=True, width=10_000)
        one.print(cell, end="")
        return one.export_html(inline_styles=True, code_format="{code}").strip("\n")

    def _table(self, table: Table) -> str:
        styles = [CELL.format(column.justify) for column in table.columns]

        def row(tag: str, cells: Iterable[Any]) -> str:
            made = zip(styles, cells, strict=True)
            return "<tr>" + "".join(f'<{tag} style="{s}">{self._styled(cell)}</{tag}>' for s, cell in made) + "</tr>"

        head = row("th", (column.header for column in table.columns))
        body = (row("td", cells) for cells in zip(*(column.cells for column in table.columns), strict=True))
        caption = f"<p>{self._styled(table.caption)}</p>" if table.caption else ""
        return f"<table><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>{caption}"
