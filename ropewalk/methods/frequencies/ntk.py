"""NTK-aware scaling: a larger base, so that the slowest dimension is interpolated by s and the fastest not at all.

First described in posts by bloc97; section 3.1 of arXiv 2309.00071.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.ranges import Range
from ropewalk.rope.spec import Frequencies, RopeSpec


def ntk_base(base: float, rotary_dim: int, alpha: float) -> float:
    """B' = b * alpha ** (d / (d - 2)): the last dimension's frequency is divided by alpha exactly."""
    return base * alpha ** (rotary_dim / (rotary_dim - 2))


def rebased(rope: RopeSpec, base: float) -> Frequencies:
    """The frequencies of ``rope`` with another base; factors that the model was trained with stay."""
    exponents = rope.base_inv_freq.new_tensor(range(0, rope.rotary_dim, 2)) / rope.rotary_dim
    return Frequencies(rope.inv_freq * (rope.base / base) ** exponents)


@dataclass(frozen=True)
class NTKAware(FrequencyMethod):
    """Training-free. Dimensions past the critical one are still extrapolated, so the usable window stays below s * L.

    Attributes:
        stretch: the formula uses stretch * target / window; 2 is the usual training-free choice.
    """

    stretch: float = 1.0

    name: ClassVar[str] = "ntk-aware"
    tunable: ClassVar[Mapping[str, Range]] = {
        "stretch": Range(0.5, 4),
    }

    def __post_init__(self) -> None:
        require_above(0, self, "stretch")

    def base(self, rope: RopeSpec, target: int) -> float:
        return ntk_base(rope.base, rope.rotary_dim, max(1.0, self.stretch * rope.scale(target)))

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return rebased(rope, self.base(rope, target))

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.base(rope, target)}
