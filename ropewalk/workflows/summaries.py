"""What both summarisers of BooookScore share: how long a summary may be, and that it ends with a sentence."""

from __future__ import annotations

import re

CHUNK, SUMMARY = 2048, 900  # tokens
WORDS_PER_TOKEN = 0.65
END = re.compile(r"(?:[.!?]|([。！？]))[\"')\]”’]*")  # white space follows, but for the second kind


def words(tokens: float) -> int:
    """Words that a model is asked for, where it may write so many tokens."""
    return max(1, int(WORDS_PER_TOKEN * tokens))


def ends(summary: str) -> bool:
    """Whether it ends where a sentence does."""
    text = summary.rstrip()
    return any(match.end() == len(text) for match in END.finditer(text))


def whole(summary: str) -> str:
    """Without the sentence that has no end, if there is one that has."""
    text = summary.rstrip()
    stops = [match.end() for match in END.finditer(f"{text} ") if match[1] or f"{text} "[match.end()].isspace()]
    return text[: stops[-1]] if stops else text
