"""What a verb answers: a table for a person at a prompt, one in a notebook, and JSON for a program."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


class Result:
    """An answer that can show itself. Subclasses are frozen dataclasses with ``repr=False``, and write ``show``."""

    @property
    def sound(self) -> bool:
        """False where problems were found; a shell command then exits with 1."""
        return True

    def show(self, console: Console) -> None:
        """Print for a person."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values, as ``--json`` prints them."""
        return asdict(self)  # type: ignore[call-overload]

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, default=str)

    def __repr__(self) -> str:
        from ropewalk.common.terminal import Terminal

        out = io.StringIO()
        self.show(Terminal(file=out, color_system=None))
        return out.getvalue().rstrip()

    def _repr_html_(self) -> str:
        from ropewalk.common.notebook import Notebook

        page = Notebook()
        self.show(page)
        return page.html()


def columns(*headings: str, gap: int = 2) -> Table:
    """A table without lines, whose names (the first column) stay whole; ``>`` aligns a column to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, gap, 0, 0))
    for i, heading in enumerate(headings):
        side = "right" if heading.startswith(">") else "left"
        table.add_column(heading.removeprefix(">"), justify=side, no_wrap=i == 0, overflow="fold")  # type: ignore[arg-type]
    return table
