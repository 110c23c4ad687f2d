"""Where an option's value is worth looking for: a range, in units of the model and of the target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ropewalk.rope.spec import RopeSpec


@dataclass(frozen=True)
class Range:
    """Values of an option that ``ropewalk fit`` tries, on a log scale.

    An option that is None by default has its own rule, whose value lies near the middle of the range.

    Attributes:
        low: least value.
        high: largest one.
        of: what both are multiples of: "window" (the trained one, in tokens), "scale" (target / window), "base" (the
            model's rope_theta), "pairs" (of rotated dimensions); empty: they are values as they stand.
        whole: whether only whole numbers, from 1 on, are values.
    """

    low: float
    high: float
    of: Literal["", "window", "scale", "base", "pairs"] = ""
    whole: bool = False

    def bounds(self, rope: RopeSpec, to: int) -> tuple[float, float]:
        """The least and the largest value for a model and a target in tokens."""
        units = {"window": rope.window, "scale": rope.scale(to), "base": rope.base, "pairs": rope.rotary_dim / 2}
        low, high = (bound * units.get(self.of, 1.0) for bound in (self.low, self.high))
        return (max(1.0, math.ceil(low)), max(1.0, math.floor(high))) if self.whole else (low, high)
