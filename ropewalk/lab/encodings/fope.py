"""FoPE: each pair turns by a fixed random Fourier series of the trained frequencies (arXiv 2412.17739)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ropewalk.lab.encoding import Shape, Standing, float_like
from ropewalk.lab.encodings.rotary import Rotary
from ropewalk.rope.rotation import rotate

GAIN = 0.3  # of the noise


class FoPE(Rotary):
    """Frequencies that make no turn in the window are dropped: their pairs do not turn. Series differ by head."""

    shared, ways = False, ()

    def __init__(self, shape: Shape):
        super().__init__(shape)
        kept = self.rope.critical_dimension
        self.cosines, self.sines = (
            nn.Parameter(torch.empty(shape.heads, kept, kept), requires_grad=False) for _ in range(2)
        )

    @property
    def trained(self) -> Tensor:
        """The frequencies that make a turn in the window, float64 [kept]."""
        return self.rope.inv_freq[: self.rope.critical_dimension]

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        for one in weights.values():
            one.copy_(torch.eye(one.shape[-1]) + torch.randn(one.shape) * GAIN / math.sqrt(max(one.shape[-1], 1)))

    def query(self, q: Tensor, standing: Standing) -> Tensor:
        return self._turned(q, standing.queries)

    def key(self, k: Tensor, standing: Standing) -> Tensor:
        return self._turned(k, standing.positions)

    def _turned(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, None] * self.trained.to(x.device)
        rest = x.shape[-1] // 2 - angles.shape[-1]
        cos = angles.cos().to(**float_like(x)) @ self.cosines.mT
        sin = angles.sin().to(**float_like(x)) @ self.sines.mT
        cos, sin = (nn.functional.pad(one, (0, rest), value=value)[None] for one, value in ((cos, 1.0), (sin, 0.0)))
        return rotate(x, cos, sin, "half")
