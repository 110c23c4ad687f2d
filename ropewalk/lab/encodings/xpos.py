"""xPos: a rotation whose pairs decay with the distance (arXiv 2212.10554), and blockwise causal attention beyond."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ropewalk.lab.encoding import Indices, Standing
from ropewalk.lab.encodings.rotary import Rotary, turned

GAMMA, DECAY = 0.4, 512  # tokens after which a pair has decayed by zeta


class XPos(Rotary):
    """RoPE, times zeta_i^(distance / 512).

    In the way "bca" a query sees its own block of half a window, and the one before.
    """

    ways = ("bca",)

    def query(self, q: Tensor, standing: Standing) -> Tensor:
        return self._decayed(q, standing.queries, 1)

    def key(self, k: Tensor, standing: Standing) -> Tensor:
        return self._decayed(k, standing.positions, -1)

    def _decayed(self, x: Tensor, positions: Tensor, sign: int) -> Tensor:
        zeta = zetas(self.shape.head_width).to(x.device)
        power = zeta ** (sign * (positions[:, None] - self.reach // 2) / DECAY)  # centred, for the range of floats
        return turned(x, positions, self.frequencies()) * power.repeat(1, 2).to(x.dtype)

    def first_seen(self, i: Indices) -> Indices:
        block = max(self.shape.window // 2, 1)
        return np.maximum(i // block - 1, 0) * block if self.way == "bca" else super().first_seen(i)


def zetas(width: int, gamma: float = GAMMA) -> Tensor:
    """zeta_i = (i / (d/2) + gamma) / (1 + gamma), float64 [d/2]."""
    return (torch.arange(width // 2, dtype=torch.float64) / (width // 2) + gamma) / (1 + gamma)
