"""Keys picked by content: gathered, met by a block of queries at stated positions, merged with what regions show.

Regions say by position alone what a query sees. Methods that retrieve look at queries and keys first: they are handed
the text of one layer and give back index lists, block of queries by block, so that nothing is ever n x n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.kernels import ROWS, Backend, dense
from ropewalk.attention.key_memo import Growing
from ropewalk.attention.merge import merge
from ropewalk.attention.regions import PLAIN, Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.rope.rotation import Turn


@dataclass(frozen=True, eq=False)
class Recalled:
    """Keys that a block of queries sees.

    Attributes:
        rows: the block, of the queries of this forward pass.
        index: which keys, int64 [B, 1 or Hkv or H, n], none twice; -1 stands for no key.
        at: a region, whose maps turn both (its bounds play no role); or positions of the queries [rows] and of the
            keys [n].
        visible: bool, broadcastable to [B, H, rows, n]; None if each query of the block sees each key.
    """

    rows: slice
    index: Tensor
    at: Region | tuple[Tensor, Tensor]
    visible: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Text:
    """One layer's view of one text (and of rows with the same structure) in one forward pass. Key n is at position n.

    In a cache of which a method says what stays (``retain``), keys are those that stayed and the new ones behind them.

    Attributes:
        layer: the layer, as the model has it.
        regions: what is seen without regard to content.
        query: unrotated, [B, H, Q, D]; the queries are those of the last Q tokens.
        key: unrotated, [B, Hkv, K, D].
        value: [B, Hkv, K, Dv].
        scale: of the logits.
        turn: how the layer rotates; None if it does not.
        queries: all queries as a region turns them.
        keys: all keys as a region turns them; kept from step to step, so regions should be those of ``regions``.
        memory: lives as long as the cache goes on. Notes must be trimmed to ``past`` tokens: it may have been cropped.
        evicted: tokens of the text whose keys are gone.
        retain: makes the cache forget all keys but those of an index, int64 [B, Hkv, n]; None where keys stay.
    """

    layer: Layer
    regions: tuple[Region, ...]
    query: Tensor
    key: Tensor
    value: Tensor
    scale: float
    turn: Turn | None
    queries: Callable[[Region], Tensor]
    keys: Callable[[Region], Tensor]
    memory: dict[str, Any]
    evicted: int = 0
    retain: Callable[[Tensor], None] | None = None

    @property
    def length(self) -> int:
        """Tokens of the text so far: K, and those whose keys are gone."""
        return self.key.shape[-2] + self.evicted

    @property
    def past(self) -> int:
        """Tokens before this forward pass."""
        return self.length - self.query.shape[-2]

    def blocks(self, size: int) -> Iterator[slice]:
        """The queries, cut where positions are multiples of ``size``."""
        start = self.past
        while start < self.length:
            end = min((start // size + 1) * size, self.length)
            yield slice(start - self.past, end - self.past)
            start = end

    def turned(self, x: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys [B, heads, P, D] rotated to ``positions`` [P]."""
        return x if self.turn is None else self.turn.by(x, self.turn.tables(positions[None]))

    def so_far(self, name: str, new: Tensor) -> Tensor:
        """One vector per token of the whole text, [B, heads, K, D], of which the Q ``new`` ones are given.

        Must be called in every forward pass.

        Raises:
            UserError: if those of earlier forward passes are not known.
        """
        grown = self.memory.setdefault(name, Growing())
        if grown.length < self.past:
            raise UserError(
                f"keys are picked by the queries of the whole text, of which {self.past - grown.length} tokens are in "
                "the cache without them: it was reordered, copied or filled in another way",
                "Read the text with this cache from its first token on, while the method is on, and without beams.",
            )
        grown.narrow(0, self.past)
        found: Tensor = grown.extended(new, self.past)
        return found

    def arange(self, start: int, end: int) -> Tensor:
        """Positions or indices start .. end - 1, where the keys are."""
        return torch.arange(start, end, device=self.key.device)


def members(chosen: Tensor) -> Tensor:
    """Indices of what is True, rising, with as many -1 before them as rows differ: bool [..., K] -> int64 [..., n]."""
    most = int(chosen.sum(-1).max()) if chosen.numel() else 0
    numbered = chosen * torch.arange(1, chosen.shape[-1] + 1, device=chosen.device)
    return numbered.topk(most, -1).values.flip(-1) - 1


def gathered(x: Tensor, index: Tensor) -> Tensor:
    """Tokens of [B, Hkv, K, D] by indices [B, 1 or Hkv or H, n]: [B, Hkv or H, n, D]."""
    heads = max(x.shape[1], index.shape[1])
    batch = torch.arange(x.shape[0], device=x.device)[:, None, None]
    head = torch.arange(heads, device=x.device)[None, :, None] * x.shape[1] // heads
    return x[batch, head, index]


def meet(recalled: Recalled, text: Text, out: Tensor, lse: Tensor, backend: Backend) -> None:
    """Merge recalled keys into the output [B, H, Q, Dv] and log-sum-exp [B, H, Q] of the queries, in place."""
    rows, index, at = recalled.rows, recalled.index.clamp_min(0), recalled.at
    if index.shape[-1] == 0:
        return
    if isinstance(at, Region):
        q, k = text.queries(at)[:, :, rows], gathered(text.keys(at), index)
    else:
        q, k = text.turned(text.query[:, :, rows], at[0]), text.turned(gathered(text.key, index), at[1])
    v, mask = gathered(text.value, index), _mask(recalled, text)
    if mask is None:
        part = backend.forward(q, k, v, False, text.scale)
    else:
        rows_of = mask.expand(*mask.shape[:2], q.shape[-2], -1).split(ROWS, -2)
        part = dense(backend).masked(q, k, v, rows_of, text.scale)
    merge(out[:, :, rows], lse[:, :, rows], *part)


def _mask(recalled: Recalled, text: Text) -> Tensor | None:
    """What of the index is a key, is visible, and lies inside the model's own window or chunk."""
    mask, index = recalled.visible, recalled.index
    if bool((index < 0).any()):
        shown = for_rows(index >= 0, text)
        mask = shown if mask is None else mask & shown
    if text.layer.sliding is not None or text.layer.chunk is not None:
        m = torch.arange(text.past, text.length)[recalled.rows]
        first = text.layer.clip(PLAIN)[0].lo(m).to(index.device)
        inside = for_rows(index, text) >= first[:, None]
        mask = inside if mask is None else mask & inside
    return mask


def for_rows(x: Tensor, text: Text) -> Tensor:
    """[B, 1 or Hkv or H, n] -> [B, 1 or H, 1, n]."""
    heads = text.query.shape[1]
    return (x if x.shape[1] in (1, heads) else x.repeat_interleave(heads // x.shape[1], 1))[:, :, None]
