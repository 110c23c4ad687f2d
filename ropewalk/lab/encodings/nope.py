"""NoPE: no encoding, the causal mask alone tells positions (arXiv 2305.19466); beyond the window, hotter heads help."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ropewalk.lab.encoding import TEMPERATURES, Encoding, Shape, Standing


class NoPE(Encoding):
    """Says nothing of positions.

    In the way "temperatures" the logits of each head of each layer are multiplied by a number that is fitted to rows of
    the length that is read, all else frozen (arXiv 2404.12224).
    """

    shared = False
    ways = fitted = (TEMPERATURES,)

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.temperature = nn.Parameter(torch.empty(shape.heads), requires_grad=False)

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        for one in weights.values():
            one.fill_(1.0)

    def query(self, q: Tensor, standing: Standing) -> Tensor:
        return q * self.temperature[:, None, None].to(q.dtype) if self.way == TEMPERATURES else q
