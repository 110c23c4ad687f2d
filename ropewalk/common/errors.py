"""The one exception that a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something the user can mend: says what was seen, what was expected, and the command that mends it.

    Attributes:
        message: key, value seen, value expected.
        mend: the command or edit that mends it; may be empty.
    """

    def __init__(self, message: str, mend: str = ""):
        super().__init__(message if not mend else f"{message}\n{mend}")
        self.message = message
        self.mend = mend


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """The hint with the known word nearest to ``word``; empty if none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.4)
    return f"; did you mean {near[0]!r}?" if near else ""
