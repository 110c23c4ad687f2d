"""What a verb answers: a table for a person at a prompt, one in a notebook, and JSON for a program."""

from __future__ import annotations

import io
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.common.columns import Columns


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
        self.show(Terminal(file=out, color_system=None, width=Terminal().width))
        return out.getvalue().rstrip()

    def _repr_html_(self) -> str:
        from ropewalk.common.notebook import Notebook

        page = Notebook()
        self.show(page)
        return page.html()


def sentences(console: Console, *told: str, style: str | None = None) -> None:
    """Print sentences, broken between words; what is to be copied, commands and names, is printed as a line instead."""
    for one in told:
        console.print(one, style=style, soft_wrap=False)


def columns(*headings: str, gap: int = 2) -> Columns:
    """A table without lines; see ``Columns`` for the marks of headings."""
    from ropewalk.common.columns import Columns

    return Columns(*headings, gap=gap)
