"""One sequence over several processes: each holds some of the tokens, and in attention all tokens of some heads.

Queries, keys and values change places on the way in, [all heads, some tokens] for [some heads, all tokens], and the
output on the way back (DeepSpeed-Ulysses, arXiv 2309.14509). So whoever attends sees whole texts, and documents,
positions and regions are what they are in one process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed._functional_collectives import all_to_all_single_autograd

from ropewalk.attention.regions import Region


@dataclass(frozen=True, eq=False)
class Spread:
    """The processes of one sequence; the r-th has the r-th part of its tokens, and of the heads.

    Attributes:
        group: of torch.distributed.
        rank: of this process in it.
        count: of its processes.
    """

    group: Any
    rank: int
    count: int

    def to_heads(self, x: Tensor) -> Tensor:
        """[B, H, n, D] of these tokens -> [B, H / P, P n, D] of these heads; differentiable."""
        b, h, n, d = x.shape
        parts = x.reshape(b, self.count, h // self.count, n, d).movedim(1, 0)
        return self._exchanged(parts).movedim(0, 2).reshape(b, h // self.count, self.count * n, d)

    def to_tokens(self, x: Tensor) -> Tensor:
        """The way back: [B, H / P, P n, D] -> [B, H, n, D]."""
        b, h, n, d = x.shape
        parts = x.reshape(b, h, self.count, n // self.count, d).movedim(2, 0)
        return self._exchanged(parts).movedim(0, 1).reshape(b, h * self.count, n // self.count, d)

    def _exchanged(self, parts: Tensor) -> Tensor:
        """Part p goes to process p, and the one that came from there takes its place; [P, ...]."""
        each = [1] * self.count
        found: Tensor = all_to_all_single_autograd(parts.contiguous(), each, each, self.group)
        return found

    def joined(self, x: Tensor) -> Tensor:
        """The columns of all processes, [R, n] -> [R, P n]; without gradients."""
        parts = [torch.empty_like(x) for _ in range(self.count)]
        dist.all_gather(parts, x.contiguous(), group=self.group)
        return torch.cat(parts, 1)

    def heads(self, of: int) -> slice:
        """Those of ``of`` heads that are attended here."""
        return slice(self.rank * of // self.count, (self.rank + 1) * of // self.count)

    def regions(self, regions: tuple[Region, ...], heads: int) -> tuple[Region, ...]:
        """Regions of a layer of ``heads`` heads, as the heads that are attended here have them."""
        here, found = self.heads(heads), []
        for region in regions:
            first, last = region.heads or (0, heads)
            first, last = max(first, here.start) - here.start, min(last, here.stop) - here.start
            if first < last:
                found.append(replace(region, heads=None if region.heads is None else (first, last)))
        return tuple(found)
