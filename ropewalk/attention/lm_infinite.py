"""LM-Infinite: the first tokens and the last W, no distance above W (arXiv 2308.16137)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ropewalk.attention.base import POSITIONS, VISIBILITY, AttentionMethod
from ropewalk.attention.regions import Layer, Region, zero
from ropewalk.contract import require_above
from ropewalk.errors import UserError


@dataclass(frozen=True)
class LMInfinite(AttentionMethod):
    """Keys less than W away keep their distance; of the further ones, only the first tokens are seen, at distance W.

    Attributes:
        window: W in tokens; None means the trained window.
        sinks: how many of the first tokens stay visible; the paper uses 10 to 100.
    """

    window: int | None = None
    sinks: int = 10

    name: ClassVar[str] = "lm-infinite"
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY})

    def __post_init__(self) -> None:
        require_above(0, self, "window")
        require_above(-1, self, "sinks")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        w, g = self._window(layer), self.sinks
        near = Region(lo=lambda m: m - w + 1)
        first = Region(hi=lambda m: (m - w + 1).clamp(0, g), q_pos=lambda m: torch.full_like(m, w), k_pos=zero)
        return near, first

    def check(self, layer: Layer) -> None:
        if self._window(layer) > layer.window:
            raise UserError(
                f"{self.name}: window is {self._window(layer)}, expected at most the {layer.window} trained tokens"
            )

    def _window(self, layer: Layer) -> int:
        return layer.window if self.window is None else self.window
