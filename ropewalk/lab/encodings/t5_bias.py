"""T5's bias: a learned number for every head and bucket of distances, wider ones further off (arXiv 1910.10683)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ropewalk.lab.encoding import ALIGN, Additive, Shape, Standing

BUCKETS, FARTHEST = 32, 128


class T5Bias(Additive):
    """One table for all layers.

    In the way "align" all logits are divided by one temperature, under which long rows are attended as sharply as rows
    of the window without it (arXiv 2311.00684).

    Attributes:
        temperature: of that way.
        seen: how sharp the attention of each layer was is added to it; None if nobody asks.
    """

    ways = fitted = (ALIGN,)

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.table = nn.Parameter(torch.empty(BUCKETS, shape.heads))
        self.temperature = 1.0
        self.seen: list[float] | None = None

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        for one in weights.values():
            one.normal_(std=self.shape.width**-0.5)

    def weights(self) -> tuple[Tensor, ...]:
        return (self.table,)

    def added(self, distance: Tensor, *weights: Tensor) -> Tensor:
        (table,) = weights
        bias = table[bucket(distance)].movedim(-1, 0)
        return bias / self.temperature if self.way == ALIGN else bias

    def query(self, q: Tensor, standing: Standing) -> Tensor:
        return q / self.temperature if self.way == ALIGN else q

    def attended(self, q: Tensor, k: Tensor, v: Tensor, standing: Standing) -> Tensor:
        if self.seen is not None:
            self.seen.append(self._sharpness(q, k, standing))
        return super().attended(q, k, v, standing)

    def _sharpness(self, q: Tensor, k: Tensor, standing: Standing) -> float:
        """The largest weight of a query, in the mean over heads and queries."""
        everything = slice(None)
        logits = self.query(q, standing) @ k.mT * self.scale
        logits = logits + self.added(standing.distances(everything, everything), *self.weights())
        seen = standing.positions <= standing.queries[:, None]
        return float(logits.masked_fill(~seen, -torch.inf).softmax(-1).amax(-1).mean())


def bucket(distance: Tensor, buckets: int = BUCKETS, farthest: int = FARTHEST) -> Tensor:
    """The bucket of a distance, int64: half of them are of one distance, the others grow to ``farthest``."""
    exact = buckets // 2
    far = (distance.clamp_min(1) / exact).log() / math.log(farthest / exact) * (buckets - exact)
    return torch.where(distance < exact, distance, (exact + far.long()).clamp_max(buckets - 1))
