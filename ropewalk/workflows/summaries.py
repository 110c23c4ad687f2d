"""What both summarisers of BooookScore share: how long a summary may be, and that it ends with a sentence."""

from __future__ import annotations

import re

from ropewalk.workflows.strategy import Model

CHUNK, SUMMARY = 2048, 900  # tokens
WORDS_PER_TOKEN = 0.65
END = re.compile(r"(?:[.!?]|([。！？]))[\"')\]”’]*")  # white space follows, but for the second kind


def words(tokens: float) -> int:
    """Words that a model is asked for, where it may write so many tokens."""
    return max(1, int(WORDS_PER_TOKEN * tokens))


def fills(model: Model, summary: str, room: int) -> bool:
    """Whether a summary takes all of its room, so that it may have been cut there; a list need not end in a stop."""
    return len(model.spans(summary.rstrip())) >= room - 1


def whole(model: Model, summary: str, room: int) -> str:
    """Where it fills its room, without the sentence that has no end, if there is one that has."""
    text = summary.rstrip()
    if not fills(model, text, room):
        return text
    stops = [match.end() for match in END.finditer(f"{text} ") if match[1] or f"{text} "[match.end()].isspace()]
    return text[: stops[-1]] if stops else text
