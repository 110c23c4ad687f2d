"""NTK-by-parts: keep what turns often inside the window, interpolate what turns less than once, blend between.

Section 3.2 of arXiv 2309.00071; with other bounds it is Llama 3's scaling.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.ranges import Range
from ropewalk.rope.spec import Frequencies, RopeSpec


def kept_by_turns(rope: RopeSpec, low: float, high: float) -> Tensor:
    """Share of each frequency that is kept: 0 below ``low`` turns, 1 above ``high``, linear between; [d/2]."""
    return ((torch.tensor(rope.turns, dtype=torch.float64) - low) / (high - low)).clamp(0, 1)


@dataclass(frozen=True)
class NTKByParts(FrequencyMethod):
    """w' = (1 - g) w / s + g w, with g the kept share by turns; training-free.

    Attributes:
        low: dimensions with fewer turns inside L are divided by s.
        high: dimensions with more turns are kept.
    """

    low: float = 1.0
    high: float = 32.0

    name: ClassVar[str] = "ntk-by-parts"
    tunable: ClassVar[Mapping[str, Range]] = {
        "low": Range(0.125, 2),
        "high": Range(2.5, 256),
    }

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise UserError(f"{self.name}: low is {self.low}, high is {self.high}, expected 0 < low < high")
        require_above(0, self, "high")

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        kept = kept_by_turns(rope, self.low, self.high)
        return Frequencies((1 - kept) * rope.inv_freq / rope.scale(target) + kept * rope.inv_freq)

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any]:
        return {
            "rope_type": "llama3",
            "factor": rope.scale(target),
            "low_freq_factor": self.low,
            "high_freq_factor": self.high,
            "original_max_position_embeddings": rope.window,
        }


@dataclass(frozen=True)
class Llama3(NTKByParts):
    """The scaling of Llama 3.1 and later: by parts between 1 and 4 turns."""

    high: float = 4.0

    name: ClassVar[str] = "llama3"
