"""The one edge between texts and a terminal: names, keys and values come from files that anybody may have written."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

# What a terminal obeys instead of showing it, reorders text by, or cannot encode; tabs and line ends stay.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

UNBOUNDED = 1 << 16  # columns


def visible(text: str) -> str:
    r"""``text`` with escapes (``\x1b``) in place of what would not be seen."""
    return UNSEEN.sub(lambda match: ascii(match[0])[1:-1], text)


class Terminal(Console):
    """A console to which every string is plain text; styles come as ``rich.text.Text`` or ``style=``.

    In a notebook it writes where it is told to, as everywhere: rich would display every line there, a second time.
    A pipe or a file has no width, where rich would take 80 columns: whoever reads it breaks lines, or searches them.
    """

    def __init__(self, **how: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, force_jupyter=False, **how)
        if self._width is None and not self.is_terminal:
            self._width = UNBOUNDED

    def print(self, *objects: Any, **how: Any) -> None:
        """Print; lines of text are left to the terminal to break, so that a command is copied whole."""
        how.setdefault("soft_wrap", all(isinstance(one, (str, Text)) for one in objects))
        super().print(*objects, **how)

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(visible(text), **how)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


class Log(logging.Handler):
    """Log records, on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        Terminal(stderr=True).print(self.format(record))
