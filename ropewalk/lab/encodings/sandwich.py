"""Sandwich: the inner product of two sinusoidal encodings, as a bias without parameters (arXiv 2212.10356)."""

from __future__ import annotations

import torch
from torch import Tensor

from ropewalk.lab.encoding import Additive, by_head

WIDTH = 128  # of the sinusoids, whatever that of the model


class Sandwich(Additive):
    """What ``sandwich`` says of the distance, over 8h/H: later heads reach further."""

    def added(self, distance: Tensor, *weights: Tensor) -> Tensor:
        heads = self.shape.heads
        table = sandwich(torch.arange(int(distance.max()) + 1, device=distance.device))
        steps = 8 * torch.arange(1, heads + 1, device=distance.device, dtype=torch.float64) / heads
        return table[distance] / by_head(steps, distance)


def sandwich(distance: Tensor) -> Tensor:
    """The sum over k = 1 .. D/2 of cos(distance / 10000^(2k/D)) - 1, float64, shaped like ``distance``."""
    k = torch.arange(1, WIDTH // 2 + 1, device=distance.device, dtype=torch.float64)
    return ((distance[..., None] / 10_000 ** (2 * k / WIDTH)).cos() - 1).sum(-1)
