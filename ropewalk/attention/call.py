"""One layer's attention in one forward pass: rotate by region, attend, merge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.backends import Backend, per_query_head
from ropewalk.attention.cache import KeyMemo
from ropewalk.attention.kernel import Part, attend
from ropewalk.attention.layout import Group, Index, Layout, View
from ropewalk.attention.regions import Map, Region, zero
from ropewalk.attention.tiles import Tile, tiles
from ropewalk.rope.rotation import Place, Style, rotate, tables


@dataclass(frozen=True, eq=False)
class Turn:
    """How a layer rotates.

    Attributes:
        inv_freq: radians per token, float32 [d/2], or [kv heads, d/2] where heads differ.
        scale: attention factor.
        style: which dimensions form a pair.
        place: whether the rotated dimensions come first or last.
    """

    inv_freq: Tensor
    scale: float
    style: Style
    place: Place

    def tables(self, positions: Tensor, blend: bool = False) -> tuple[Tensor, Tensor]:
        """Cosines and sines at ``positions`` [R, P], [R, 1 or kv heads, P, d/2]."""
        return tables(positions.to(self.inv_freq.device), self.inv_freq, self.scale, blend)

    def by(self, x: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
        """``x`` [B, H, P, D] turned by tables."""
        return rotate(x, *cos_sin, style=self.style, place=self.place)


@dataclass(frozen=True, eq=False)
class Call:
    """What a layer's attention is given.

    Attributes:
        query: unrotated, its temperature applied, [B, H, Q, D].
        key: unrotated, all that is written, [B, Hkv, K, D].
        value: [B, Hkv, K, Dv].
        regions: who sees whom, and where.
        layout: of the forward pass.
        view: the positions of this layer's keys.
        turn: how the layer rotates; None if it does not.
        memo: the layer's rotated keys of earlier steps; None where nothing is cached.
        scale: of the logits.
        backend: computes the tiles.
        sinks: logits of a key without value, [H], or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    regions: tuple[Region, ...]
    layout: Layout
    view: View
    turn: Turn | None
    memo: KeyMemo | None
    scale: float
    backend: Backend
    sinks: Tensor | None = None

    def attend(self) -> Tensor:
        """Output, [B, H, Q, Dv]; 0 for padding."""
        maps = {(region.q_pos, region.blend) for region in self.regions}
        queries = {name: self._queries(*name) for name in maps}
        keys: dict[tuple[Map, bool], Tensor] = {}
        out: Tensor | None = None
        for group in self.view.groups:
            found = self._group(group, queries, keys)
            if group.is_everything:
                return found
            if out is None:
                out = found.new_zeros(*self.query.shape[:-1], self.value.shape[-1])
            out = _placed(out, found, group)
        return self.value.new_zeros(*self.query.shape[:-1], self.value.shape[-1]) if out is None else out

    def _group(
        self, group: Group, queries: dict[tuple[Map, bool], Tensor], keys: dict[tuple[Map, bool], Tensor]
    ) -> Tensor:
        cut = self.layout.once(("tiles", group, self.regions), lambda: _tiles(group, self.regions))
        asked = list(dict.fromkeys((region.q_pos, region.blend) for region, _ in cut))
        met = list(dict.fromkeys((region.k_pos, region.blend) for region, _ in cut))
        for name in met:  # maps that nobody meets yet are not computed
            if name not in keys:
                keys[name] = self._keys(*name)
        q = [_pick(queries[name], group.rows, group.queries) for name in asked]
        k = [_pick(keys[name], group.rows, group.keys) for name in met]
        v = _pick(self.value, group.rows, group.keys)
        if any(region.heads is not None for region in self.regions):
            k, v = [per_query_head(x, self.query) for x in k], per_query_head(v, self.query)
        parts = [
            Part(asked.index((region.q_pos, region.blend)), met.index((region.k_pos, region.blend)), tile, region.heads)
            for region, tile in cut
        ]
        return attend(parts, q, k, v, self.scale, self.backend, self.sinks)

    def _queries(self, q_pos: Map, blend: bool) -> Tensor:
        """All queries under a map, [B, H, Q, D]."""
        turn = self.turn
        if turn is None:
            return self.query
        name = ("q table", turn, q_pos, blend)
        return turn.by(self.query, self.layout.once(name, lambda: turn.tables(q_pos(self.layout.positions), blend)))

    def _keys(self, k_pos: Map, blend: bool) -> Tensor:
        """All keys under a map, [B, Hkv, K, D]; those of earlier steps are not rotated again."""
        turn = self.turn
        if turn is None or (k_pos is zero and turn.scale == 1.0):
            return self.key

        def turned(new: Tensor, have: int) -> Tensor:
            name = ("k table", turn, k_pos, blend, have, self.view)
            table = self.layout.once(name, lambda: turn.tables(k_pos(self.view.positions[:, have:]), blend))
            return turn.by(new, table)

        kept = self.memo is not None and not any(region.passing for region in self.regions if region.k_pos is k_pos)
        return self.memo.rotated((k_pos, blend), self.key, turned) if kept and self.memo else turned(self.key, 0)


def _tiles(group: Group, regions: tuple[Region, ...]) -> list[tuple[Region, Tile]]:
    m, n = group.m, group.n.contiguous()
    cut = []
    for region in regions:
        lo, hi = (np.asarray(torch.searchsorted(n, bound(m))) for bound in (region.lo, region.hi))
        cut += [(region, tile) for tile in tiles(lo, hi)]
    return cut


def _pick(x: Tensor, rows: Index, tokens: Index) -> Tensor:
    """Rows and tokens of [B, H, P, D]; a view where both are slices."""
    x = x[rows]
    return x[:, :, tokens]


def _placed(out: Tensor, found: Tensor, group: Group) -> Tensor:
    """``out`` with a group's rows and tokens filled in; out of place, so that gradients pass."""
    sizes = (group.rows, out.shape[0]), (group.queries, out.shape[2])
    rows, tokens = (x if isinstance(x, Tensor) else torch.arange(size)[x] for x, size in sizes)
    return out.transpose(1, 2).index_put((rows[:, None], tokens[None]), found.transpose(1, 2)).transpose(1, 2)
