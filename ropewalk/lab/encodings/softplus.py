"""Length-scaled softplus attention, and its re-weighting (arXiv 2501.13428): another normalisation than softmax.

Positions are RoPE's, as in the paper's models.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ropewalk.lab.encoding import Standing
from ropewalk.lab.encodings.rotary import Rotary

ROWS = 256  # queries whose weights are held at once
POWER, OFFSET = 3, 1.0


class Softplus(Rotary):
    """Weights are softplus(ln d ln i q.k) of normalised q and k, over their sum; i counts the tokens that are seen.

    In the way "reweight" they are sharpened: relu(i a - 1)^3, over the sum again.
    """

    ways = ("reweight",)

    def attended(self, q: Tensor, k: Tensor, v: Tensor, standing: Standing) -> Tensor:
        q, k = F.normalize(self.query(q, standing), dim=-1), F.normalize(self.key(k, standing), dim=-1)
        power = POWER if self.way == "reweight" else None
        counts = torch.arange(standing.past + 1, len(standing.positions) + 1, device=q.device)

        def some(q: Tensor, k: Tensor, v: Tensor, counts: Tensor) -> Tensor:
            return weights(q, k, counts, power) @ v

        parts = [  # computed a second time in the backward pass, as the kernels of softmax are
            checkpoint(some, rows, k, v, seen, use_reentrant=False)
            for rows, seen in zip(q.split(ROWS, dim=2), counts.split(ROWS), strict=True)
        ]
        return torch.cat(parts, 2)


def weights(q: Tensor, k: Tensor, counts: Tensor, power: float | None = None, offset: float = OFFSET) -> Tensor:
    """Weights of some queries, [B, H, rows, K].

    Args:
        q: of length 1, [B, H, rows, D].
        k: of length 1, [B, H, K, D].
        counts: tokens that each query sees, int64 [rows].
        power: of the re-weighting; None leaves it out. A row that it leaves nothing of stays as it was.
        offset: that the re-weighting takes off.
    """
    i = counts[:, None].to(q.dtype)
    seen = torch.arange(k.shape[-2], device=q.device) < counts[:, None]
    a = F.softplus(math.log(q.shape[-1]) * i.log() * (q @ k.mT)) * seen
    a = a / a.sum(-1, keepdim=True)
    if power is None:
        return a
    b = (i * a - offset).relu() ** power * seen
    total = b.sum(-1, keepdim=True)
    return torch.where(total > 0, b / total.masked_fill(total == 0, 1), a)
