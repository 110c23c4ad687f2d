"""T5's bias: a learned number for every head and bucket of distances, wider ones further off (arXiv 1910.10683)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ropewalk.lab.encoding import Additive, Shape

BUCKETS, FARTHEST = 32, 128


class T5Bias(Additive):
    """One table for all layers."""

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.table = nn.Parameter(torch.empty(BUCKETS, shape.heads))

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        for one in weights.values():
            one.normal_(std=self.shape.width**-0.5)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.table,)

    def added(self, distance: Tensor, *weights: Tensor) -> Tensor:
        (table,) = weights
        return table[bucket(distance)].movedim(-1, 0)


def bucket(distance: Tensor, buckets: int = BUCKETS, farthest: int = FARTHEST) -> Tensor:
    """The bucket of a distance, int64: half of them are of one distance, the others grow to ``farthest``."""
    exact = buckets // 2
    far = (distance.clamp_min(1) / exact).log() / math.log(farthest / exact) * (buckets - exact)
    return torch.where(distance < exact, distance, (exact + far.long()).clamp_max(buckets - 1))
