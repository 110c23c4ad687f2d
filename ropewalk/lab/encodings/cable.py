"""Cable: every token adds a penalty of its own to all attention across it (arXiv 2503.08067)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropewalk.lab.encoding import Encoding, Shape, Standing


class Cable(Encoding):
    """b_i - b_j, where b sums up -softplus(x_t W) over the tokens up to t.

    b_i is the same for all keys of a query, so that -b_j is enough: one more dimension of the keys, which meets a 1.
    """

    shared = False

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.weight = nn.Parameter(torch.empty(shape.heads, shape.width))

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        for one in weights.values():
            one.normal_(std=self.shape.width**-0.5)

    def kept(self, k: Tensor, hidden: Tensor, past: Tensor | None) -> Tensor:
        """Keys, and behind them -b_j."""
        penalty = F.softplus(hidden @ self.weight.T).to(torch.promote_types(k.dtype, torch.float32))
        so_far = penalty.cumsum(1).transpose(1, 2)[..., None]
        if past is not None:
            so_far = so_far + past[:, :, -1:, -1:]
        return torch.cat([k, so_far.to(k.dtype)], -1)

    def query(self, q: Tensor, standing: Standing) -> Tensor:
        return torch.cat([q, torch.full_like(q[..., :1], 1 / self.scale)], -1)
