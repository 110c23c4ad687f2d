"""YaRN: NTK-by-parts and a constant logit temperature folded into cos and sin (arXiv 2309.00071)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.parts import kept_by_turns
from ropewalk.methods.ranges import Range
from ropewalk.rope.formulas import yarn_magnitude
from ropewalk.rope.spec import Frequencies, RopeSpec

DEFAULT_BETAS = (32.0, 1.0)


def ramp_ends(rope: RopeSpec, beta_fast: float, beta_slow: float, truncate: bool = True) -> tuple[float, float]:
    """Indices of the dimensions that make ``beta_fast`` and ``beta_slow`` turns; ``truncate`` makes them whole."""
    low, high = rope.index_of_turns(beta_fast), rope.index_of_turns(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, rope.rotary_dim - 1)


def kept_by_index(rope: RopeSpec, beta_fast: float, beta_slow: float, truncate: bool) -> Tensor:
    """Share of each frequency that is kept, linear in the dimension's index: the ramp of all public code; [d/2]."""
    low, high = ramp_ends(rope, beta_fast, beta_slow, truncate)
    if low == high:
        high += 0.001
    index = torch.arange(rope.rotary_dim // 2, dtype=torch.float64)
    return 1 - ((index - low) / (high - low)).clamp(0, 1)


@dataclass(frozen=True)
class YaRN(FrequencyMethod):
    """The best closed form without training; costs a little on short text.

    Attributes:
        beta_fast: dimensions with more turns inside L are kept.
        beta_slow: dimensions with fewer turns are divided by s.
        attention_factor: multiplier of cos and sin; None means 0.1 ln s + 1.
        truncate: round the ramp's ends to whole dimensions (code's ramp only).
        ramp: "code" is linear in the index, as in all implementations; "paper" is linear in the turns.
    """

    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True
    ramp: Literal["code", "paper"] = "code"

    name: ClassVar[str] = "yarn"
    tunable: ClassVar[Mapping[str, Range]] = {
        "beta_fast": Range(5, 256),
        "beta_slow": Range(0.125, 4),
        "attention_factor": Range(0.9, 1.45),
    }
    raises: ClassVar[frozenset[str]] = frozenset({"yarn"})

    def __post_init__(self) -> None:
        if not 0 < self.beta_slow <= self.beta_fast or (self.ramp == "paper" and self.beta_slow == self.beta_fast):
            raise UserError(
                f"yarn: beta_slow is {self.beta_slow}, beta_fast is {self.beta_fast}, expected 0 < slow <= fast"
            )
        require_above(0, self, "beta_fast", "attention_factor")

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        s, (fast, slow) = rope.scale(target), self.betas(rope)
        if self.ramp == "code":
            kept = kept_by_index(rope, fast, slow, bool(rope.yarn.get("truncate", self.truncate)))
        else:
            kept = kept_by_turns(rope, slow, fast)
        above, below = (
            yarn_magnitude(s, rope.yarn.get(key, default))
            for key, default in (("mscale", 1.0), ("mscale_all_dim", 0.0))
        )
        t = above / below if self.attention_factor is None else self.attention_factor
        return Frequencies(rope.inv_freq / s * (1 - kept) + rope.inv_freq * kept, t)

    def betas(self, rope: RopeSpec) -> tuple[float, float]:
        """Bounds in turns, fast and slow: those of a trained-in YaRN, unless others than the defaults are asked for."""
        if (self.beta_fast, self.beta_slow) != DEFAULT_BETAS:
            return self.beta_fast, self.beta_slow
        return rope.yarn.get("beta_fast", self.beta_fast), rope.yarn.get("beta_slow", self.beta_slow)

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any] | None:
        if self.ramp != "code" or not self.truncate or self.attention_factor is not None:
            return None  # engines differ in whether they read these
        betas = self.betas(rope)
        return {
            "rope_type": "yarn",
            "factor": rope.scale(target),
            "original_max_position_embeddings": rope.window,
            **({"truncate": False} if "truncate" in rope.yarn else {}),
            **(
                {}
                if betas == DEFAULT_BETAS and "beta_fast" not in rope.yarn
                else dict(zip(("beta_fast", "beta_slow"), betas, strict=True))
            ),
        }
