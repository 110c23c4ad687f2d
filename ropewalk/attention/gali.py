"""Greedy Attention Logit Interpolation, GALI (arXiv 2502.02659)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ropewalk.attention.base import AttentionMethod
from ropewalk.attention.regions import Layer, Region
from ropewalk.contract import require_above
from ropewalk.errors import UserError


@dataclass(frozen=True)
class GALI(AttentionMethod):
    """As few interpolated positions as possible, and logits interpolated between whole positions, not angles.

    The oldest tokens share positions i, i + 1/g, ..; the newest keep whole ones. A logit at a fractional position
    is the blend of those at the two whole ones, with a weight that depends on the key alone: so it is plain attention
    to keys that are blends of two rotations, and no score matrix is needed. The paper's optional noise is left out: it
    makes results irreproducible.

    Positions depend on the length of the whole text, so old keys are rotated anew in every step.

    Attributes:
        local_window: tokens at the end that keep whole positions at least.
    """

    local_window: int = 128

    name: ClassVar[str] = "gali"
    length_dependent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_above(0, self, "local_window")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        at = positions(layer.length, layer.window, self.local_window)
        return (Region(q_pos=lambda m: at[m].ceil(), k_pos=lambda n: at[n], blend=True),)

    def check(self, layer: Layer) -> None:
        if self.local_window >= layer.window:
            raise UserError(
                f"{self.name}: local_window is {self.local_window}, expected less than the trained {layer.window}"
            )


def positions(n: int, window: int, local: int) -> Tensor:
    """Positions of n tokens, all below ``window``, float64 [n]: 0, 1/g, 2/g, .. and whole numbers at the end.

    g = ceil((n - local) / (window - local)); of the L whole positions, as many of the first as are needed are split.
    """
    if n <= window:
        return torch.arange(n, dtype=torch.float64)
    g = math.ceil((n - local) / (window - local))
    full, rest = divmod(n - window, g - 1)  # whole positions split into g, and what the next one is split into
    counts = torch.ones(window, dtype=torch.int64)
    counts[:full] = g
    if rest:
        counts[full] = 1 + rest
    whole = torch.arange(window).repeat_interleave(counts)
    step = torch.arange(n) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return whole.double() + step.double() / g
