"""One layer's attention in one forward pass: rotate by region, attend, merge."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ropewalk.attention.attending import Attending
from ropewalk.attention.forward import ALL, Group, Index, Layout, View
from ropewalk.attention.kernels import Backend, per_query_head
from ropewalk.attention.key_memo import KeyMemo
from ropewalk.attention.merge import Own, Part, accumulate, attend, finish, nothing
from ropewalk.attention.recall import Text, meet
from ropewalk.attention.regions import Layer, Map, Region, zero
from ropewalk.attention.tiles import Tile, tiles
from ropewalk.common.errors import UserError
from ropewalk.rope.rotation import Turn

if TYPE_CHECKING:
    from ropewalk.attention.memory_cache import MemoryLayer

Turned = dict[tuple[Map, bool], Tensor]  # queries or keys under each map


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
        layer: the layer itself, for methods that pick keys by content.
        choosing: methods that pick keys by content; where there is none, regions are all.
        own: where gradients of ``key`` and ``value`` go, if not into their graphs; for layers that are not turned here.
        held: the cache's layer, if a method says which of its keys stay.
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
    sinks: Tensor | None
    layer: Layer
    choosing: tuple[Attending, ...] = ()
    own: Own | None = None
    held: MemoryLayer | None = None

    def attend(self) -> Tensor:
        """Output, [B, H, Q, Dv]; 0 for padding."""
        if self.choosing and torch.is_grad_enabled() and any(x.requires_grad for x in (self.query, self.key)):
            names = ", ".join(method.id for method in self.choosing)
            raise UserError(f"{names}: keys are picked by content, which has no gradient", "Use torch.no_grad().")
        queries: Turned = {}
        keys: Turned = {}
        out: Tensor | None = None
        for group in self.view.groups:
            found = self._chosen(group, queries, keys) if self.choosing else self._group(group, queries, keys)
            if group.is_everything:
                return found
            if out is None:
                out = found.new_zeros(*self.query.shape[:-1], self.value.shape[-1])
            out = _placed(out, found, group)
        return self.value.new_zeros(*self.query.shape[:-1], self.value.shape[-1]) if out is None else out

    def _group(self, group: Group, queries: Turned, keys: Turned) -> Tensor:
        own = None if self.own is None else _own(self.own, group)
        return attend(*self._parts(group, queries, keys), self.scale, self.backend, self.sinks, own)

    def _chosen(self, group: Group, queries: Turned, keys: Turned) -> Tensor:
        """As ``_group``, with keys that are picked by content."""
        text = self._text(group, queries, keys)
        left = [kept for method in self.choosing if (kept := method.keep(text)) is not None]
        if left:
            out, lse = nothing(text.query, text.value.shape[-1])
        else:
            parts = self._parts(group, queries, keys)
            seen = accumulate(*parts, self.scale, self.backend) if parts[0] else None
            out, lse = seen or nothing(text.query, text.value.shape[-1])
        for recalled in chain(*left, *(method.recall(text) for method in self.choosing)):
            meet(recalled, text, out, lse, self.backend)
        return finish(out, lse, self.sinks, self.query.dtype)[0]

    def _text(self, group: Group, queries: Turned, keys: Turned) -> Text:
        rows = tuple(group.rows.tolist()) if isinstance(group.rows, Tensor) else (group.rows.start, group.rows.stop)
        evicted = 0 if self.held is None else int(group.n[0])
        places = torch.arange(evicted, evicted + len(group.n))
        if not torch.equal(group.n, places) or not torch.equal(group.m, places[-len(group.m) :]):
            raise UserError(
                "keys are picked by content in whole texts, at positions 0, 1, 2, ..; this one has gaps",
                "Leave out position_ids, or a cache that evicts.",
            )
        notes = {} if self.memo is None else self.memo.notes.setdefault(rows, {})
        return Text(
            self.layer,
            self.regions,
            _pick(self.query, group.rows, group.queries),
            _pick(self.key, group.rows, group.keys),
            _pick(self.value, group.rows, group.keys),
            self.scale,
            self.turn,
            lambda region: _pick(self._queries(queries, region), group.rows, group.queries),
            lambda region: _pick(self._keys(keys, region), group.rows, group.keys),
            notes if self.held is None else self.held.notes,
            evicted,
            None if self.held is None else self.held.retain,
        )

    def _parts(
        self, group: Group, queries: Turned, keys: Turned
    ) -> tuple[list[Part], list[Tensor], list[Tensor], Tensor]:
        """What the regions show: tiles, rotated queries and keys, values."""
        cut = self.layout.once(("tiles", group, self.regions), lambda: _tiles(group, self.regions))
        asked = {(region.q_pos, region.blend): region for region, _ in cut}
        met = {(region.k_pos, region.blend): region for region, _ in cut}  # maps that nobody meets are not computed
        q = [_pick(self._queries(queries, region), group.rows, group.queries) for region in asked.values()]
        k = [_pick(self._keys(keys, region), group.rows, group.keys) for region in met.values()]
        v = _pick(self.value, group.rows, group.keys)
        if any(region.heads is not None for region in self.regions):
            k, v = [per_query_head(x, self.query) for x in k], per_query_head(v, self.query)
        places = list(asked), list(met)
        parts = [
            Part(
                places[0].index((region.q_pos, region.blend)),
                places[1].index((region.k_pos, region.blend)),
                tile,
                region.heads,
            )
            for region, tile in cut
        ]
        return parts, q, k, v

    def _queries(self, known: Turned, region: Region) -> Tensor:
        """All queries as a region turns them, [B, H, Q, D]."""
        turn, q_pos, blend = self.turn, region.q_pos, region.blend
        if turn is None:
            return self.query
        if (q_pos, blend) not in known:
            name = ("q table", turn, q_pos, blend)
            table = self.layout.once(name, lambda: turn.tables(q_pos(self.layout.positions), blend))
            known[q_pos, blend] = turn.by(self.query, table)
        return known[q_pos, blend]

    def _keys(self, known: Turned, region: Region) -> Tensor:
        """All keys as a region turns them, [B, Hkv, K, D]; those of earlier steps are not rotated again."""
        turn, k_pos, blend = self.turn, region.k_pos, region.blend
        if turn is None or (k_pos is zero and turn.scale == 1.0):
            return self.key

        def turned(new: Tensor, have: int) -> Tensor:
            name = ("k table", turn, k_pos, blend, have, self.view)
            table = self.layout.once(name, lambda: turn.tables(k_pos(self.view.positions[:, have:]), blend))
            return turn.by(new, table)

        if (k_pos, blend) not in known:
            memo = None if region.passing else self.memo
            known[k_pos, blend] = (
                turned(self.key, 0) if memo is None else memo.rotated((k_pos, blend), self.key, turned)
            )
        return known[k_pos, blend]


def _tiles(group: Group, regions: tuple[Region, ...]) -> list[tuple[Region, Tile]]:
    m, n = group.m, group.n.contiguous()
    cut = []
    for region in regions:
        lo, hi = (np.asarray(torch.searchsorted(n, bound(m))) for bound in (region.lo, region.hi))
        cut += [(region, tile) for tile in tiles(lo, hi)]
    return cut


def _pick(x: Tensor, rows: Index, tokens: Index) -> Tensor:
    """Rows and tokens of [B, H, P, D]; a view where both are slices, and where they are all, ``x`` itself."""
    x = x if rows is ALL else x[rows]
    return x if tokens is ALL else x[:, :, tokens]


def _own(own: Own, group: Group) -> Own:
    """A group's part; its rows and keys are slices."""
    to_keys, to_values = (_pick(x, group.rows, group.keys) for x in (own.to_keys, own.to_values))
    key, value = (_pick(x, group.rows, group.queries) for x in (own.key, own.value))
    return Own(key, value, to_keys, to_values)


def _placed(out: Tensor, found: Tensor, group: Group) -> Tensor:
    """``out`` with a group's rows and tokens filled in; out of place, so that gradients pass."""
    sizes = (group.rows, out.shape[0]), (group.queries, out.shape[2])
    rows, tokens = (x if isinstance(x, Tensor) else torch.arange(size)[x] for x, size in sizes)
    return out.transpose(1, 2).index_put((rows[:, None], tokens[None]), found.transpose(1, 2)).transpose(1, 2)
