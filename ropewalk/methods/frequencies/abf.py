"""Adjusted base frequency: raise the base and continue pretraining (arXiv 2309.16039); rules for the base's size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.ntk import ntk_base, rebased
from ropewalk.methods.ranges import Range
from ropewalk.rope.spec import Frequencies, RopeSpec


def critical_base(base: float, window: int, target: int) -> float:
    """B ** (ln(T / 2 pi) / ln(L / 2 pi)): the critical dimension at T is that of L ("Liu" rule, arXiv 2310.05209)."""
    return float(base ** (math.log(target / (2 * math.pi)) / math.log(window / (2 * math.pi))))


def bound_base(rotary_dim: int, target: int, grid: float = 1.02) -> float:
    """Smallest base on a 2 % grid with sum_i cos(m w_i) >= 0 for all m <= target (arXiv 2405.14591)."""
    base, exponents = 1000.0, torch.arange(0, rotary_dim, 2, dtype=torch.float64) / rotary_dim
    while not _non_negative(base**-exponents, target):
        base *= grid
    return base


def _non_negative(inv_freq: torch.Tensor, target: int, chunk: int = 4096) -> bool:
    for start in range(0, target + 1, chunk):
        positions = torch.arange(start, min(start + chunk, target + 1), dtype=torch.float64)
        if bool((torch.outer(positions, inv_freq).cos().sum(1) < 0).any()):
            return False
    return True


@dataclass(frozen=True)
class AdjustedBase(FrequencyMethod):
    """Hurts before training; wants continued pretraining on long data.

    Attributes:
        base: the new rope_theta (the paper: 500000 for 32k); None takes it from ``rule``.
        rule: "critical" (the critical dimension stays), "ntk" (b * s ** (d / (d - 2))), or "bound" (the lower bound for
            retrieval; never below the model's own base).
    """

    base: float | None = None
    rule: Literal["critical", "ntk", "bound"] = "critical"

    name: ClassVar[str] = "abf"
    tunable: ClassVar[Mapping[str, Range]] = {
        "base": Range(1, 100, of="base"),
    }

    def __post_init__(self) -> None:
        require_above(1, self, "base")

    def new_base(self, rope: RopeSpec, target: int) -> float:
        if self.base is not None:
            return self.base
        if self.rule == "critical":
            return critical_base(rope.base, rope.window, max(target, rope.window))
        if self.rule == "ntk":
            return ntk_base(rope.base, rope.rotary_dim, rope.scale(target))
        return max(rope.base, bound_base(rope.rotary_dim, target))

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return rebased(rope, self.new_base(rope, target))

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.new_base(rope, target)}
