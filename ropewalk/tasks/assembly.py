"""Contexts out of token ids: haystacks of exact length, and needles planted in them."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, pairwise

from ropewalk.common.errors import UserError
from ropewalk.tasks.passkey import FILLER
from ropewalk.texts.pieces import TokenUnits

NOISE = ("".join(FILLER) + "\n",)  # the filler sentences, one line; the unit that is repeated
NEAR = 64  # tokens; a needle moves no further back than this to stand behind a sentence


def padding(units: TokenUnits, n_tokens: int, filler: tuple[str, ...] = NOISE) -> list[int]:
    """``n_tokens`` of a filler that end where it does; the cut is at the start."""
    cut = -n_tokens % sum(len(units.ids(unit)) for unit in filler)
    return units.filler(filler, n_tokens + cut)[cut:]


def stretch(text: Sequence[int], start: int, n_tokens: int) -> list[int]:
    """``n_tokens`` of a text from ``start`` on; the text is repeated where it is too short."""
    cut = list(text[start : start + n_tokens])
    while len(cut) < n_tokens:
        cut += text[: n_tokens - len(cut)]
    return cut


def fill(n_tokens: int, lines: Iterable[list[int]], units: TokenUnits) -> tuple[list[int], Callable[[int], int]]:
    """As many of the lines as ``n_tokens`` hold, behind noise that makes up the rest.

    Returns:
        The token ids, and the function from a place in them to the last one before it where a line starts or ends.

    Raises:
        UserError: if there are too few lines.
    """
    ids: list[int] = []
    breaks = [0]
    for line in lines:
        if len(ids) + len(line) > n_tokens:
            break
        ids += line
        breaks.append(len(ids))
    else:
        raise UserError(f"{n_tokens} tokens need more than {len(breaks) - 1} different lines, there are no more")
    pad = n_tokens - len(ids)
    return padding(units, pad) + ids, lambda at: pad + breaks[max(0, bisect_right(breaks, at - pad) - 1)]


def behind_sentence(text: Sequence[int], at: int, ends: frozenset[int]) -> int:
    """The nearest place at or before ``at`` that follows one of ``ends`` or starts the text; ``at`` if none is near."""
    for place in range(at, max(-1, at - NEAR), -1):
        if place == 0 or text[place - 1] in ends:
            return place
    return at


def shuffled(text: Sequence[int], ends: frozenset[int], rng: random.Random) -> list[int]:
    """The sentences of a text in random order; the first and the last one, which may be cut, stay where they are."""
    breaks = [0, *(i + 1 for i, token in enumerate(text) if token in ends), len(text)]
    sentences = [list(text[start:end]) for start, end in pairwise(breaks)]
    between = sentences[1:-1]
    rng.shuffle(between)
    return joined([*sentences[:1], *between, *sentences[1:][-1:]])


def plant(hay: list[int], needles: Sequence[tuple[int, list[int]]]) -> list[int]:
    """The hay with each needle before its position; needles at one position keep their order."""
    planted: list[int] = []
    last = 0
    for at, ids in sorted(needles, key=lambda needle: needle[0]):
        planted += hay[last:at]
        planted += ids
        last = at
    return planted + hay[last:]


def joined(pieces: Sequence[list[int]]) -> list[int]:
    """All ids in one list."""
    return list(chain.from_iterable(pieces))
