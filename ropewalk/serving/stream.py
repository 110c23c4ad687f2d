"""Tokens become text while they are made: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

CONTEXT = 8  # last tokens of the prompt that decide whether the first word begins with a space
INCOMPLETE = "\ufffd"  # what bytes of a character that is not complete are decoded to


class TextStream:
    """Decodes one token after another.

    Attributes:
        stopped: a stop string was found; it and what follows it are not given out.
    """

    def __init__(self, decode: Callable[[list[int]], str], prompt: Sequence[int], stop: Sequence[str] = ()):
        self.stopped = False
        self._decode, self._stop = decode, stop
        self._before = list(prompt[-CONTEXT:])  # the tokens of the last text, for what joins them to the next
        self._tokens: list[int] = []  # tokens whose text is not complete
        self._held = ""  # text that may be the start of a stop string

    def add(self, token: int) -> str:
        """The text that is certain now; may be empty."""
        self._tokens.append(token)
        fresh = self._fresh()
        if fresh.endswith(INCOMPLETE):
            return ""
        self._before, self._tokens = self._tokens, []
        return self._certain(fresh)

    def end(self) -> str:
        """The text that was held back; no token follows."""
        text = self._certain(self._fresh()) + self._held
        self._tokens, self._held = [], ""
        return text

    def _fresh(self) -> str:
        return self._decode(self._before + self._tokens)[len(self._decode(self._before)) :]

    def _certain(self, fresh: str) -> str:
        text = self._held + fresh
        found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of ``text`` that ``stop`` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
