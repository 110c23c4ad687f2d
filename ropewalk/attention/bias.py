"""Biases: what is added to logits, a block of queries at a time, with the exact gradient of what it depends on.

No n x n tensor is held. The gradient of a block's logits goes through the bias's own vector-Jacobian product, for which
the block is computed a second time, so that whatever a bias is made of can be trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.attention.tiles import Tile

Of = Callable[..., Tensor]  # rows, keys: slice; then ``Bias.tensors`` -> [B or 1, H or 1, rows, keys]


@dataclass(frozen=True, eq=False)
class Bias:
    """What is added to the logits of queries and keys.

    Attributes:
        of: from indices of some queries and of some keys, two slices, and ``tensors`` to what is added, [B or 1, H or
            1, rows, keys]. Of pairs that are not seen too it gives a finite number, with finite slopes.
        tensors: all that it has a gradient for: parameters, and what is said of every token.
    """

    of: Of
    tensors: tuple[Tensor, ...] = ()


@dataclass(frozen=True, eq=False)
class OnTile:
    """A bias on one tile, for one set of heads.

    Attributes:
        of: as in ``Bias``.
        tensors: as in ``Bias``.
        tile: of the scores.
        heads: query heads [first, last), or None: all.
        sums: gradients of ``tensors``, which are added to in place.
    """

    of: Of
    tensors: Sequence[Tensor]
    tile: Tile
    heads: tuple[int, int] | None = None
    sums: Sequence[Tensor] = ()

    def rows(self, first: int, n: int) -> Tensor:
        """What is added to the rows ``first`` .. ``first + n`` of the tile, [B or 1, H or 1, n, keys]."""
        return self._of(first, n, self.tensors)

    def learn(self, first: int, gradient: Tensor) -> None:
        """Take the gradient of some rows' logits, [B, H, n, keys].

        Raises:
            RuntimeError: if gradients of gradients are asked for.
        """
        if torch.is_grad_enabled():
            raise RuntimeError("a bias has no second derivatives; leave out create_graph=True")
        with torch.enable_grad():
            leaves = [one.detach().requires_grad_(one.is_floating_point()) for one in self.tensors]
            added = self._of(first, gradient.shape[-2], leaves)
        wanted = [(leaf, total) for leaf, total in zip(leaves, self.sums, strict=True) if leaf.requires_grad]
        if not wanted or not added.requires_grad:
            return
        asked = gradient.sum_to_size(added.shape).to(added.dtype)
        found = torch.autograd.grad(added, [leaf for leaf, _ in wanted], asked, allow_unused=True)
        for (_, total), one in zip(wanted, found, strict=True):
            if one is not None:
                total.add_(one)

    def _of(self, first: int, n: int, tensors: Sequence[Tensor]) -> Tensor:
        start = self.tile.q0 + first
        added = self.of(slice(start, start + n), slice(self.tile.k0, self.tile.k1), *tensors)
        return added if self.heads is None or added.shape[1] == 1 else added[:, slice(*self.heads)]
