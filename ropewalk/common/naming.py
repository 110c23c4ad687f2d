"""Names as people write them: in any case, and with -, _, a blank or nothing between their words."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any


def plain(name: str) -> str:
    """What two spellings of a name have in common: its letters and digits."""
    return re.sub(r"[\W_]", "", name.casefold())


def find(word: str, known: Iterable[str]) -> str | None:
    """The one of the ``known`` names that ``word`` spells; None if none is."""
    names = list(known)
    return word if word in names else {plain(name): name for name in names}.get(plain(word))


def spelled(name: str, options: dict[str, Any]) -> str:
    """``name``, or ``name(option=value, ...)``."""
    return name + (f"({', '.join(f'{k}={v!r}' for k, v in options.items())})" if options else "")


def counted(n: int, noun: str) -> str:
    """``1 text``, ``1,200 texts``."""
    return f"{n:,} {noun}{'s' * (n != 1)}"
