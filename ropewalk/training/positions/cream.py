"""CREAM: a head, a tail, and a middle whose place follows a truncated Gaussian (arXiv 2406.07138)."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.training.positions.training_positions import Picks, TrainingPositions


@dataclass(frozen=True)
class CREAM(TrainingPositions):
    """Favours the middle of the target, where models lose things. s = target / window is a whole number.

    A coin per sample says how long head and tail are: a third of the window each ("relativity"), or 4 s tokens
    ("continuity").

    Attributes:
        official: draw the middle's place as the authors' code does: mean 9 whatever s is, rounded down, what falls
            outside put on the ends. The default is the Gaussian of mean 1 + s truncated to [2, 2 s], rounded to the
            nearest.
    """

    official: bool = False

    name: ClassVar[str] = "cream"

    @classmethod
    def examples(cls) -> tuple[TrainingPositions, ...]:
        return cls(), cls(official=True)

    def shortest(self, window: int, target: int) -> int:
        return window

    def require(self, window: int, target: int) -> None:
        super().require(window, target)
        if target % window:
            raise UserError(
                f"cream: a target of {target:,} tokens, expected a multiple of the window of {window:,}",
                f"Take {target // window * window} or {(target // window + 1) * window}.",
            )
        if 8 * target // window >= window:
            raise UserError(
                f"cream: head and tail of {4 * target // window} tokens leave no middle in a window of {window}",
                "Take longer samples.",
            )

    def draw(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        s = target // window
        edge = window // 3 if rng.random() < 0.5 else 4 * s
        middle = window - 2 * edge
        alpha = self.alpha(rng.random(), s)
        last = int(rng.integers(edge + (middle - 1) * alpha // 2, alpha * window // 2 - edge - 1, endpoint=True))
        end = last + 1 if last < tokens - edge else tokens - edge  # where the text is long enough, tokens of that place
        head, tail, core = np.arange(edge), np.arange(-edge, 0), np.arange(-middle, 0)
        return Picks.of_text(
            np.concatenate([head, end + core, tokens + tail]), np.concatenate([head, last + 1 + core, target + tail])
        )

    def alpha(self, u: float, s: int) -> int:
        """Twice the number of windows in which the middle lies, 2 .. 2 s, at quantile ``u`` of its distribution."""
        if self.official:
            return min(max(floor(NormalDist(9, 3).inv_cdf(max(u, 1e-300))), 2), 2 * s)
        bell = NormalDist(1 + s, 3)
        low, high = bell.cdf(2), bell.cdf(2 * s)
        return min(max(round(bell.inv_cdf(max(low + u * (high - low), 1e-300))), 2), 2 * s)
