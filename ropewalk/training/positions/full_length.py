"""Full length: every token at its own place, in samples as long as the target (arXiv 2306.15595)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.training.positions.training_positions import Picks, TrainingPositions


@dataclass(frozen=True)
class FullLength(TrainingPositions):
    """Samples of ``target`` tokens: what every other way is compared with, at the full price."""

    name: ClassVar[str] = "full"
    skips: ClassVar[bool] = False

    def window_for(self, trained: int, target: int) -> int:
        return target

    def shortest(self, window: int, target: int) -> int:
        return target

    def require(self, window: int, target: int) -> None:
        super().require(window, target)
        if window != target:
            raise UserError(
                f"full: samples of {window:,} tokens, expected {target:,}, the target",
                "Leave the window out, or train on short samples: pose.",
            )

    def draw(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        return Picks.of_text(np.arange(target), np.arange(target))
