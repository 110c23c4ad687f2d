"""STRING: far keys take well-trained distances inside the window a second time (arXiv 2410.18745)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ropewalk.attention.regions import Layer, Region, zero
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import AttentionMethod
from ropewalk.methods.base import require_above
from ropewalk.methods.ranges import Range

LOCAL = 128  # tokens; the paper tries 128, 256 and 512


@dataclass(frozen=True)
class STRING(AttentionMethod):
    """Distances d below S stay; further ones become d - S + W, so that W .. S - 1 occur twice.

    Distances near the trained window L are rare in training, and the paper replaces them inside the window. Past
    L + S - W tokens it says nothing; here W .. L - 1 then occur again and again, so that every length is reached and
    no distance leaves the window. The official code also multiplies all logits by (0.1 ln 2 + 1)^2 without a word, and
    its prefill counts distance S twice (its decoding does not); neither is done here.

    Attributes:
        shift: S in tokens; None means L / 3.
        local: W, the distance of the nearest shifted key; None means 128, or L / 8 where that is less.
    """

    shift: int | None = None
    local: int | None = None

    name: ClassVar[str] = "string"
    tunable: ClassVar[Mapping[str, Range]] = {
        "shift": Range(1 / 8, 7 / 8, of="window", whole=True),
        "local": Range(1 / 64, 1 / 8, of="window", whole=True),
    }

    def __post_init__(self) -> None:
        require_above(0, self, "shift", "local")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        s, w = self._sizes(layer)
        near = Region(lo=lambda m: m - s + 1)
        span = layer.window - w  # distances that occur again
        times = max(1, math.ceil((layer.target - s) / span))
        return near, *(self._far(s + i * span, w, None if i == times - 1 else span) for i in range(times))

    def _far(self, start: int, w: int, span: int | None) -> Region:
        """Keys ``start`` and more away, ``span`` of them if it is given, at distances w, w + 1, .."""
        lo = zero if span is None else lambda m: m - start - span + 1
        return Region(lo=lo, hi=lambda m: m - start + 1, q_pos=lambda m: m - start + w)

    def check(self, layer: Layer) -> None:
        s, w = self._sizes(layer)
        if not w <= s <= layer.window or w == layer.window:
            raise UserError(
                f"{self.name}: shift is {s}, local is {w}, expected local <= shift <= {layer.window}, the trained "
                "window, and a smaller local",
                f"Choose shift={layer.window // 3}.",
            )

    def _sizes(self, layer: Layer) -> tuple[int, int]:
        return (
            max(1, layer.window // 3) if self.shift is None else self.shift,
            max(1, min(LOCAL, layer.window // 8)) if self.local is None else self.local,
        )
