"""MrRoPE, mixed radix: between YaRN's bounds the divisor is a power of s whose exponent rises from pair to pair.

Source: https://github.com/mattian7/mrRoPE, there called YaRN-radix.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from ropewalk.common.errors import UserError
from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.yarn import ramp_ends
from ropewalk.methods.ranges import Range
from ropewalk.rope.formulas import yarn_magnitude
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class MrRoPE(FrequencyMethod):
    """w' = w / s^e: e is 0 up to the pair lo, 1 from the pair hi on, and rises between; training-free.

    Of the official code's four ways to rise, the two that its paper names are here. There, the uniform one keeps to 32
    turns and 1, whatever the bounds are, and bounds that are one pair divide by zero. As there and in YaRN, hi may lie
    behind the last pair, which then turns more than ``beta_slow`` times inside L and is divided by less than s.

    Attributes:
        beta_fast: pairs with more turns inside L are kept; lo is the last of them.
        beta_slow: pairs with fewer turns are divided by s; hi is the first of them.
        rise: "progressive", (i - lo) (i - lo + 1) / ((hi - lo) (hi - lo + 1)), or "uniform", (i - lo) / (hi - lo).
        attention_factor: multiplier of cos and sin; None means 0.1 ln s + 1, as in YaRN.
    """

    beta_fast: float = 32.0
    beta_slow: float = 1.0
    rise: Literal["progressive", "uniform"] = "progressive"
    attention_factor: float | None = None

    name: ClassVar[str] = "mr-rope"
    tunable: ClassVar[Mapping[str, Range]] = {
        "beta_fast": Range(5, 256),
        "beta_slow": Range(0.125, 4),
        "attention_factor": Range(0.9, 1.45),
    }

    def __post_init__(self) -> None:
        if not 0 < self.beta_slow <= self.beta_fast:
            raise UserError(
                f"{self.name}: beta_slow is {self.beta_slow}, beta_fast is {self.beta_fast}, expected 0 < slow <= fast"
            )
        require_above(0, self, "beta_fast", "attention_factor")

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        s = rope.scale(target)
        low, high = ramp_ends(rope, self.beta_fast, self.beta_slow)
        band = max(1, high - low)
        steps = (torch.arange(rope.rotary_dim // 2, dtype=torch.float64) - low).clamp(0, band)
        exponent = steps / band
        if self.rise == "progressive":
            exponent = exponent * (steps + 1) / (band + 1)
        t = yarn_magnitude(s) if self.attention_factor is None else self.attention_factor
        return Frequencies(rope.inv_freq / s**exponent, t)
