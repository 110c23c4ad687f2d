"""FIRE: a small network of the distance, on a log scale, as a share of the query's position (arXiv 2310.04418)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ropewalk.attention.bias import Bias
from ropewalk.lab.encoding import Encoding, Shape, Standing

INNER = 32
C, EPSILON = 0.1, 1e-6


class FIRE(Encoding):
    """b(i, j) = MLP(psi(i - j) / psi(max(i, threshold))), psi(x) = ln(|c x| + 1); the first threshold is the window."""

    shared = False

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.c, self.threshold = nn.Parameter(torch.empty(())), nn.Parameter(torch.empty(()))
        self.into, self.inner = nn.Parameter(torch.empty(INNER)), nn.Parameter(torch.empty(INNER))
        self.out, self.rest = nn.Parameter(torch.empty(shape.heads, INNER)), nn.Parameter(torch.empty(shape.heads))

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        for name, one in weights.items():
            if name in ("c", "threshold"):
                one.fill_(C if name == "c" else 1.0)
            else:  # as torch begins linear layers
                bound = INNER**-0.5 if name in ("out", "rest") else 1.0
                one.uniform_(-bound, bound)

    def bias(self, q: Tensor, k: Tensor, standing: Standing) -> Bias | None:
        def of(
            rows: slice,
            keys: slice,
            c: Tensor,
            threshold: Tensor,
            into: Tensor,
            inner: Tensor,
            out: Tensor,
            rest: Tensor,
        ) -> Tensor:
            far = share(standing.distances(rows, keys), standing.queries[rows, None], c, threshold * self.shape.window)
            return torch.einsum("qki,hi->hqk", (far[..., None] * into + inner).relu(), out)[None] + rest[:, None, None]

        return Bias(of, (self.c, self.threshold, self.into, self.inner, self.out, self.rest))


def share(distance: Tensor, query: Tensor, c: Tensor, threshold: Tensor) -> Tensor:
    """psi(distance) / psi(max(query, |threshold|)), 0 to 1."""
    longest = torch.maximum(query.to(threshold.dtype), threshold.abs())
    return torch.log1p((c * distance).abs()) / (torch.log1p((c * longest).abs()) + EPSILON)
