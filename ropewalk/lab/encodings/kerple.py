"""Kerple: biases that are conditionally positive definite kernels, with learned shapes (arXiv 2205.09921)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ropewalk.lab.encoding import Additive, Shape, by_head

LEAST = 0.01  # of both parameters


class Kerple(Additive):
    """-p ln(1 + a distance), p and a of every head and layer."""

    shared = False

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.p, self.a = (nn.Parameter(torch.empty(shape.heads)) for _ in range(2))

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        for name, one in weights.items():
            one.uniform_(0, 2 if name == "p" else 1)

    def weights(self) -> tuple[Tensor, ...]:
        return self.p, self.a

    def added(self, distance: Tensor, *weights: Tensor) -> Tensor:
        p, a = (by_head(one.clamp_min(LEAST), distance) for one in weights)
        return -p * torch.log1p(a * distance)


class KerplePower(Kerple):
    """-a distance^p, 0 < p <= 2."""

    def added(self, distance: Tensor, *weights: Tensor) -> Tensor:
        p, a = (by_head(one.clamp_min(LEAST), distance) for one in weights)
        return -a * distance.to(a.dtype) ** p.clamp_max(2)
