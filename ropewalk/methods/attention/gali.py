"""Greedy Attention Logit Interpolation, GALI (arXiv 2502.02659)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import AttentionMethod
from ropewalk.methods.base import require_above
from ropewalk.methods.ranges import Range


@dataclass(frozen=True)
class GALI(AttentionMethod):
    """As few interpolated positions as possible, and logits interpolated between whole positions, not angles.

    When a text has grown to N > L tokens, its oldest tokens share positions i, i + 1/g, ..; the newest keep whole
    ones. A logit at a fractional position is the blend of those at the two whole ones, with a weight that depends on
    the key alone: so it is plain attention to keys that are blends of two rotations, and no score matrix is needed.
    The paper's optional noise is left out: it makes results irreproducible.

    The text grows chunk by chunk, as in the paper, and here by whole chunks: the queries of a chunk see positions for
    the length at its end, so that a text gives the same in one forward and token by token. A prefill holds one
    rotated copy of the keys per chunk beyond the window.

    Attributes:
        local_window: tokens at the end that keep whole positions at least; None means L / 4 (128 in the paper).
        chunk: tokens by which the text grows; None means ``local_window``, so that queries stand at whole positions
            (the official code takes 3000).
    """

    local_window: int | None = None
    chunk: int | None = None

    name: ClassVar[str] = "gali"
    tunable: ClassVar[Mapping[str, Range]] = {
        "local_window": Range(1 / 12, 3 / 4, of="window", whole=True),
    }

    def __post_init__(self) -> None:
        require_above(0, self, "local_window", "chunk")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        size, first = self.chunk or self._local(layer), layer.window
        ends = [first, *range(first + size, max(layer.target, first) + size, size)]
        return tuple(self._grown(layer, end, 0 if end == first else end - size, end == ends[-1]) for end in ends)

    def _grown(self, layer: Layer, end: int, begin: int, last: bool) -> Region:
        """What queries begin <= m < end see in a text of ``end`` tokens; the last chunk takes all that follow."""
        at = positions(end, layer.window, self._local(layer))
        beyond = at[-1] + 1 - end  # past the target, positions go on token by token

        def map_of(p: Tensor) -> Tensor:
            return torch.where(p < end, at[p.clamp_max(end - 1)], p + beyond)

        def hi(m: Tensor) -> Tensor:
            return torch.where((m >= begin) & (last | (m < end)), m + 1, 0)

        return Region(hi=hi, q_pos=lambda m: map_of(m).ceil(), k_pos=map_of, blend=True, passing=True)

    def check(self, layer: Layer) -> None:
        if self._local(layer) >= layer.window:
            raise UserError(
                f"{self.name}: local_window is {self.local_window}, expected less than the trained {layer.window}"
            )

    def _local(self, layer: Layer) -> int:
        return max(1, layer.window // 4) if self.local_window is None else self.local_window


def positions(n: int, window: int, local: int) -> Tensor:
    """Positions of n tokens, all below ``window``, float64 [n]: 0, 1/g, 2/g, .. and whole numbers at the end.

    g = ceil((n - local) / (window - local)); of the L whole positions, as many of the first as are needed are split.
    """
    if n <= window:
        return torch.arange(n, dtype=torch.float64)
    g = math.ceil((n - local) / (window - local))
    full, rest = divmod(n - window, g - 1)  # whole positions split into g, and what the next one is split into
    counts = torch.ones(window, dtype=torch.int64)
    counts[:full] = g
    if rest:
        counts[full] = 1 + rest
    whole = torch.arange(window).repeat_interleave(counts)
    step = torch.arange(n) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return whole.double() + step.double() / g
