"""Giraffe's bases: linear, power and truncated (arXiv 2308.10882)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ropewalk.common.errors import UserError
from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.ranges import Range
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class Giraffe(FrequencyMethod):
    """All but the linear basis want fine-tuning.

    Attributes:
        basis: "linear" divides by stretch * s; "power" multiplies w_i by (1 - 2i/d) ** k; "truncated" keeps fast
            dimensions, clamps a middle band to one slow frequency and stops the slowest.
        k: exponent of the power basis; 0 changes nothing.
        period: tokens per turn below which a dimension is kept by the truncated basis; None means the window.
        stretch: the linear basis may use a larger scale at test time than in training (the paper: about 2).
    """

    basis: Literal["linear", "power", "truncated"] = "truncated"
    k: float = 0.1
    period: int | None = None
    stretch: float = 1.0

    name: ClassVar[str] = "giraffe"

    def __post_init__(self) -> None:
        if self.basis not in ("linear", "power", "truncated"):
            raise UserError(f"giraffe: basis is {self.basis!r}, expected linear, power or truncated")
        require_above(0, self, "period", "stretch")
        if not 0 <= self.k < math.inf:
            raise UserError(f"giraffe: k is {self.k!r}, expected a number of at least 0")

    @property
    def tunable(self) -> Mapping[str, Range]:  # type: ignore[override]
        return {
            "linear": {"stretch": Range(0.25, 4)},
            "power": {"k": Range(0.01, 10)},
            "truncated": {"period": Range(1 / 8, 8, of="window", whole=True)},
        }[self.basis]

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        w = rope.inv_freq
        if self.basis == "linear":
            return Frequencies(w / (self.stretch * rope.scale(target)))
        if self.basis == "power":
            share = 1 - torch.arange(0, rope.rotary_dim, 2, dtype=torch.float64) / rope.rotary_dim
            return Frequencies(w * share**self.k)
        period = self.period or rope.window
        slowest = 2 * math.pi / period
        clamped = torch.where(w >= slowest / 8, slowest / 16, 0.0)
        return Frequencies(torch.where(w >= slowest, w, clamped))

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any] | None:
        if self.basis != "linear" or self.stretch != 1.0:
            return None  # a factor other than target / window would read back as another window
        return {"rope_type": "linear", "factor": rope.scale(target)}
