"""The one exception that a user is meant to read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ropewalk.common.naming import plain

T = TypeVar("T")

WORD, LONGEST, FIRST, LAST = 60, 300, 500, 300  # characters


def cut(text: str, most: int = WORD) -> str:
    """A value, as far as a message can hold it."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


def readable(message: str) -> str:
    """A message without what no eye reads: values of files may have thousands of characters, with spaces or without."""
    message = re.sub(rf"\S{{{LONGEST + 1},}}", lambda word: cut(word[0]), message)
    left_out = len(message) - FIRST - LAST
    return message if left_out <= WORD else f"{message[:FIRST]}... ({left_out:,} characters) ...{message[-LAST:]}"


class UserError(Exception):
    """Something the user can mend: says what was seen, what was expected, and the command that mends it.

    The message is cut to what can be read, the mend never: it is to be run.

    Attributes:
        message: key, value seen, value expected.
        mend: the command or edit that mends it; may be empty.
    """

    def __init__(self, message: str, mend: str = ""):
        message = readable(message)
        super().__init__(message if not mend else f"{message}\n{mend}")
        self.message = message
        self.mend = mend


def out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch says that the memory of this machine or of a device is used up."""
    words = ("out of memory", "allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def did_you_mean(word: str, known: Iterable[str], about: Mapping[str, str] | None = None) -> str:
    """The hint with the known words nearest to ``word``; empty if none is like it.

    Those spelled much like it come first, then those with a part in common, those of which it is said (``about``: a
    word -> a text), and the nearest of those spelled somewhat like it.
    """
    if len(word) > WORD:  # no name is that long, and comparing takes seconds
        return ""
    keys, key, like = {plain(one): one for one in known}, plain(word), difflib.get_close_matches
    parts = [one for one in keys if min(len(one), len(key)) > 2 and (one in key or key in one)]
    said = [one for one in keys if _stem(word) in map(_stem, re.findall(r"\w+", (about or {}).get(keys[one], "")))]
    near = like(key, keys, n=3, cutoff=0.7) or parts[:3] or said[:3] or like(key, keys, n=1, cutoff=0.6)
    return f"; did you mean {' or '.join(repr(keys[one]) for one in near)}?" if near else ""


def _stem(word: str) -> str:
    return plain(word).removesuffix("s")


def one_of(noun: str, word: str, known: Mapping[str, T]) -> T:
    """What a word stands for in a list.

    Raises:
        UserError: naming the word, what is like it, and what there is.
    """
    if word not in known:
        raise UserError(f"unknown {noun} {word!r}{did_you_mean(word, known)}", f"There are {', '.join(known)}.")
    return known[word]
