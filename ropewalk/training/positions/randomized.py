"""Randomised positions: a sorted random subset of the target's (arXiv 2305.16843)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ropewalk.training.positions.training_positions import Picks, TrainingPositions


@dataclass(frozen=True)
class RandomizedPositions(TrainingPositions):
    """Neighbours are hardly ever at distance 1, so language models get worse: the negative control of all others."""

    name: ClassVar[str] = "randpos"

    def draw(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        n = min(tokens, window)
        return Picks.of_text(np.arange(n), np.sort(rng.choice(target, n, replace=False, shuffle=False)))
