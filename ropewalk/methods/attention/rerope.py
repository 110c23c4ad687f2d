"""ReRoPE and Leaky ReRoPE: exact positions near, all further keys at one distance, or at slowly growing ones.

Source: https://kexue.fm/archives/9708. The official code always multiplies logits by log-n; here that is a method of
its own: ``rerope+log-n``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from ropewalk.attention.regions import Layer, Region, zero
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import AttentionMethod
from ropewalk.methods.base import require_above
from ropewalk.methods.ranges import Range


@dataclass(frozen=True)
class ReRoPE(AttentionMethod):
    """Distances are min(m - n, w).

    Attributes:
        window: w in tokens, below the trained window L; None means L / 4.
    """

    window: int | None = None

    name: ClassVar[str] = "rerope"
    tunable: ClassVar[Mapping[str, Range]] = {
        "window": Range(1 / 12, 3 / 4, of="window", whole=True),
    }

    def __post_init__(self) -> None:
        require_above(0, self, "window")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        w = self.near(layer)
        near = Region(lo=lambda m: m - w + 1)
        far = Region(hi=lambda m: m - w + 1, q_pos=lambda m: torch.full_like(m, w), k_pos=zero)
        return near, far

    def near(self, layer: Layer) -> int:
        """The window w, in tokens."""
        return layer.window // 4 if self.window is None else self.window

    def check(self, layer: Layer) -> None:
        if self.near(layer) >= layer.window:
            raise UserError(
                f"{self.name}: window is {self.near(layer)}, expected less than the {layer.window} trained tokens",
                f"Choose a window such as {layer.window // 4}.",
            )


@dataclass(frozen=True)
class LeakyReRoPE(ReRoPE):
    """Distances grow with slope 1/k beyond w: w + (m - n - w) / k.

    Attributes:
        slope_divisor: k; None takes the one at which the target's largest distance is the trained window.
    """

    slope_divisor: float | None = None

    name: ClassVar[str] = "leaky-rerope"
    tunable: ClassVar[Mapping[str, Range]] = {
        "window": Range(1 / 12, 3 / 4, of="window", whole=True),
        "slope_divisor": Range(1, 4, of="scale"),
    }

    def __post_init__(self) -> None:
        require_above(0, self, "window", "slope_divisor")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        w, k = self.near(layer), self._divisor(layer)
        near = Region(lo=lambda m: m - w + 1)
        far = Region(hi=lambda m: m - w + 1, q_pos=lambda m: (m + w * (k - 1)) / k, k_pos=lambda n: n / k)
        return near, far

    def check(self, layer: Layer) -> None:
        super().check(layer)
        w, k = self.near(layer), self._divisor(layer)
        farthest = w + (layer.target - w) / k
        if farthest > layer.window + 1e-6:
            raise UserError(
                f"{self.name}: at {layer.target} tokens the largest distance is w + (T - w) / k = {farthest:.0f}, the "
                f"model was trained on {layer.window}",
                f"Choose slope_divisor >= {(layer.target - w) / (layer.window - w):.4g}.",
            )

    def _divisor(self, layer: Layer) -> float:
        if self.slope_divisor is not None:
            return self.slope_divisor
        w = self.near(layer)
        return max(1.0, (layer.target - w) / max(1, layer.window - w))
