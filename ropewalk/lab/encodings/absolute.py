"""Absolute positions, added to the embeddings: a learned table, or sinusoids (arXiv 1706.03762).

Beyond the window they are read by what LongEmbed (arXiv 2404.12096) does to tables: interpolated, grouped, recurrent.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ropewalk.carriers.table_rows import grouped, interpolated, recurrent
from ropewalk.common.errors import UserError
from ropewalk.lab.encoding import Encoding, Shape, Standing

READ = {"pi": interpolated, "grouped": grouped, "recurrent": recurrent}


class Absolute(Encoding):
    """Something of each position is added to the embedding."""

    ways = tuple(READ)

    def rows(self, standing: Standing) -> Tensor:
        """Where the tokens that ask are read, float64 [Q], whole or between two positions.

        Raises:
            UserError: if texts are longer than was said.
        """
        p = standing.queries
        if not self.way or self.reach <= self.shape.window:
            return p.double()
        if len(p) and int(p[-1]) >= self.reach:
            raise UserError(
                f"positions were spread for {self.reach:,} tokens, and one stands at {int(p[-1]):,}",
                f"Say model.extended({self.way!r}, {int(p[-1]) + 1}).",
            )
        return READ[self.way](self.shape.window, self.reach).to(p.device)[p]


class Learned(Absolute):
    """A row of a table for each position of the window."""

    ends = True

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.table = nn.Parameter(torch.empty(shape.window, shape.width))

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        for one in weights.values():
            one.normal_(std=0.02)

    def embedded(self, x: Tensor, standing: Standing) -> Tensor:
        rows = self.rows(standing)
        if len(rows) and float(rows.max()) > len(self.table) - 1:
            raise UserError(
                f"a table of {len(self.table):,} positions has no row {int(rows.max()):,}",
                f"Read it in a way: {', '.join(self.ways)}.",
            )
        low, share = rows.floor().long(), (rows - rows.floor()).to(x.dtype)[:, None]
        return x + (1 - share) * self.table[low] + share * self.table[(low + 1).clamp_max(len(self.table) - 1)]


class Sinusoidal(Absolute):
    """Sines and cosines of 10000^(-2i/d) radians per token, beside embeddings times sqrt d."""

    def embedded(self, x: Tensor, standing: Standing) -> Tensor:
        return x * self.shape.width**0.5 + sinusoids(self.rows(standing), self.shape.width).to(x.dtype)


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """Sines, then cosines, float64 [P, width]."""
    inv_freq = 10_000 ** (-torch.arange(0, width, 2, device=positions.device, dtype=torch.float64) / width)
    angles = positions.double()[:, None] * inv_freq
    return torch.cat([angles.sin(), angles.cos()], -1)
