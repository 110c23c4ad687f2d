"""PoSE, positional skip-wise training: chunks of one text, with jumps between their positions (arXiv 2309.10400)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.training.positions.training_positions import Ints, Picks, TrainingPositions, require_whole


@dataclass(frozen=True)
class PoSE(TrainingPositions):
    """The first chunk stands at 0; every later one is shifted by a random jump, so that all distances occur.

    Attributes:
        chunks: K; the paper's tables are of 2.
        within: tokens are taken from the first ``within`` windows of a text.
    """

    chunks: int = 2
    within: int = 5

    name: ClassVar[str] = "pose"

    def __post_init__(self) -> None:
        require_whole(self, "chunks", 2)
        require_whole(self, "within", 1)

    @classmethod
    def examples(cls) -> tuple[TrainingPositions, ...]:
        return cls(), cls(chunks=4)

    def shortest(self, window: int, target: int) -> int:
        return self.chunks

    def require(self, window: int, target: int) -> None:
        super().require(window, target)
        require_chunks(self, self.chunks, window)

    def draw(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        text = min(tokens, self.within * window)
        return Picks.of_text(*in_chunks(min(text, window), text, target, self.chunks, rng))


def require_chunks(positions: TrainingPositions, chunks: int, room: int) -> None:
    """Refuse samples with room for fewer tokens than chunks.

    Raises:
        UserError: naming both.
    """
    if room < chunks:
        raise UserError(f"{positions.id}: {room} tokens of a text in {chunks} chunks, expected one each at least")


def in_chunks(n: int, text: int, target: int, chunks: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """``n`` tokens in chunks, whose contents jump ahead in the text, and their positions ahead in the target.

    A chunk has from one token to its even share, rounded up, of those that are left; the last has the rest. For two
    chunks that is the paper's law; for more it leaves the lengths open.

    Returns:
        index and position, int64 [n] each.
    """
    lengths: list[int] = []
    for left in range(chunks, 1, -1):
        rest = n - sum(lengths)
        lengths.append(int(rng.integers(1, -(-rest // left), endpoint=True)))
    lengths.append(n - sum(lengths))
    contents, jumps = (_rising(limit, chunks, rng) for limit in (text - n, target - n))
    return np.arange(n) + np.repeat(contents, lengths), np.arange(n) + np.repeat(jumps, lengths)


def _rising(limit: int, count: int, rng: np.random.Generator) -> list[int]:
    """0, and from then on each drawn from the one before it to ``limit``."""
    found = [0]
    while len(found) < count:
        found.append(int(rng.integers(found[-1], limit, endpoint=True)))
    return found
