"""E2-LLM: one training for every factor, by a random scale and offset of the positions (arXiv 2401.06951)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.training.positions.training_positions import Picks, TrainingPositions, require_whole


@dataclass(frozen=True)
class E2LLM(TrainingPositions):
    """Token m stands at (m + t) / g: as if it were in a text g times as long, squeezed into the trained window.

    Positions are fractions, so the model keeps the rope that it was trained with; afterwards it is interpolated to
    whatever length is wanted, up to the target.

    Attributes:
        scale: g; None draws it from 1 .. target / L, once per step.
        sinks: tokens at the beginning that no offset moves.
        trained: L, the window that the positions are squeezed into; None: the window of the samples.
    """

    scale: int | None = None
    sinks: int = 4
    trained: int | None = None

    name: ClassVar[str] = "e2"
    rope: ClassVar[Literal["extended", "trained"]] = "trained"

    def __post_init__(self) -> None:
        require_whole(self, "sinks", 0)
        for option in ("scale", "trained"):
            if getattr(self, option) is not None:
                require_whole(self, option, 1)

    @classmethod
    def examples(cls) -> tuple[TrainingPositions, ...]:
        return cls(), cls(trained=128)

    def reach(self, window: int, target: int) -> int:
        return self.trained or window

    def require(self, window: int, target: int) -> None:
        super().require(window, target)
        if not window <= self.reach(window, target) <= target:
            raise UserError(
                f"{self.id}: samples of {window:,} tokens are squeezed into {self.trained:,} on the way to {target:,}, "
                "expected window <= trained <= target"
            )
        if self.scale is not None and self.scale > self._largest(window, target):
            raise UserError(
                f"{self.id}: scale is {self.scale}, expected at most {self._largest(window, target)} for a target of "
                f"{target:,} tokens"
            )

    def for_step(self, window: int, target: int, rng: np.random.Generator) -> E2LLM:
        if self.scale is not None:
            return self
        return replace(self, scale=int(rng.integers(1, self._largest(window, target), endpoint=True)))

    def _largest(self, window: int, target: int) -> int:
        """Target / L, rounded up."""
        return -(-target // self.reach(window, target))

    def draw(self, tokens: int, window: int, target: int, rng: np.random.Generator) -> Picks:
        scale = self.for_step(window, target, rng).scale
        assert scale is not None
        offset = int(rng.integers(0, scale * self.reach(window, target) - window, endpoint=True))
        m = np.arange(min(tokens, window))
        return Picks.of_text(m, np.where(m < self.sinks, m, m + offset) / scale)
