"""A text cut into chunks of a number of tokens, at ends of sentences where there are some; no character is lost."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

ENDS = re.compile(r"(?:[.!?][\"')\]]*(?=\s)|\n\s*\n|[。！？])\s*")  # behind sentences, and behind paragraphs
LINES, WORDS = re.compile(r"\n"), re.compile(r"\s+")


@dataclass(frozen=True)
class Chunk:
    """A part of a text.

    Attributes:
        text: its characters.
        start: of the first, in the whole text.
        tokens: how many begin in it.
    """

    text: str
    start: int
    tokens: int

    @property
    def stop(self) -> int:
        return self.start + len(self.text)


def chunks(text: str, spans: Sequence[tuple[int, int]], size: int) -> list[Chunk]:
    """Chunks of at most ``size`` tokens, each as long as ends of sentences allow, which joined are the text.

    A sentence of more tokens is cut at the end of a line, or else between words, or else between tokens.

    Args:
        text: that is cut.
        spans: first character, and the one behind the last, of each of its tokens.
        size: tokens, at least 1.
    """
    begins = [start for start, _ in spans]
    stops = [[match.end() for match in kind.finditer(text)] for kind in (ENDS, LINES, WORDS)]
    found: list[Chunk] = []
    start = 0
    while start < len(text):
        first = bisect_left(begins, start)
        if len(begins) - first <= size:
            stop = len(text)
        else:
            most = begins[first + size]
            least = begins[first + max(1, size // 2)]  # a chunk of half its size is better cut inside a sentence
            cuts = (ends[i] for ends in stops if (i := bisect_right(ends, most) - 1) >= 0 and ends[i] > least)
            stop = max(next(cuts, most), start + 1)
        found.append(Chunk(text[start:stop], start, bisect_left(begins, stop) - first))
        start = stop
    return found


def sentence_chunks(text: str, spans: Sequence[tuple[int, int]], size: int) -> list[Chunk]:
    """The sentences of a text, those of more than ``size`` tokens in several, which joined are the text."""
    begins = [start for start, _ in spans]
    found: list[Chunk] = []
    start = 0
    for sentence in sentences(text):
        first, last = bisect_left(begins, start), bisect_left(begins, start + len(sentence))
        if last - first <= size:
            found.append(Chunk(sentence, start, last - first))
        else:
            own = [(begin - start, end - start) for begin, end in spans[first:last]]
            found += [Chunk(part.text, part.start + start, part.tokens) for part in chunks(sentence, own, size)]
        start += len(sentence)
    return found


def sentences(text: str) -> list[str]:
    """The sentences of a text, which joined are the text."""
    stops = [0, *(match.end() for match in ENDS.finditer(text)), len(text)]
    return [text[a:b] for a, b in pairwise(stops) if b > a]
