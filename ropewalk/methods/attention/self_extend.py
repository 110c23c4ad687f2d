"""SelfExtend: exact positions near, grouped positions far (arXiv 2401.01325)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import AttentionMethod
from ropewalk.methods.base import require_above
from ropewalk.methods.ranges import Range


@dataclass(frozen=True)
class SelfExtend(AttentionMethod):
    """Keys less than ``window`` away keep their distance; further ones are met at m // G - n // G + W - W // G.

    Floors are taken everywhere (the official prefill divides W / G without one, its decoding does not).

    Attributes:
        group: G; None takes the smallest that keeps all distances in 2/3 of the trained window L, the authors' rule.
        window: W in tokens; None means L / 4.
    """

    group: int | None = None
    window: int | None = None

    name: ClassVar[str] = "self-extend"
    tunable: ClassVar[Mapping[str, Range]] = {
        "group": Range(1, 4, of="scale", whole=True),
        "window": Range(1 / 16, 3 / 4, of="window", whole=True),
    }

    def __post_init__(self) -> None:
        require_above(0, self, "group", "window")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        g, w = self._sizes(layer)
        near = Region(lo=lambda m: m - w + 1)
        far = Region(hi=lambda m: m - w + 1, q_pos=lambda m: m // g + w - w // g, k_pos=lambda n: n // g)
        return near, far

    def reach(self, layer: Layer) -> int:
        """Tokens whose distances all stay inside the window: (L - W) G + W."""
        g, w = self._sizes(layer)
        return (layer.window - w) * g + w

    def check(self, layer: Layer) -> None:
        g, w = self._sizes(layer)
        if w >= layer.window:
            raise UserError(
                f"{self.name}: window is {w}, which leaves nothing of the trained {layer.window} tokens for groups",
                f"Choose a window below {layer.window}, for example {layer.window // 4}.",
            )
        if self.reach(layer) < layer.target:
            least = math.ceil((layer.target - w) / (layer.window - w))
            raise UserError(
                f"{self.name}: group={g}, window={w} reach (L - W) G + W = {self.reach(layer)} tokens with "
                f"L = {layer.window}, {layer.target} were asked for",
                f"Choose a group of at least {least}.",
            )

    def _sizes(self, layer: Layer) -> tuple[int, int]:
        w = layer.window // 4 if self.window is None else self.window
        room = max(1, 2 * layer.window // 3 - w)
        return max(1, math.ceil((layer.target - w) / room)) if self.group is None else self.group, w
