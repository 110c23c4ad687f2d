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
    """The hint with the known words nearest to ``word``, or the nearest of far ones; empty if none is like it."""
    words, like = list(known), difflib.get_close_matches
    near = like(word, words, n=3, cutoff=0.7) or like(word, words, n=1, cutoff=0.4)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
