"""One softmax over several sets of keys, each with rotations of its own: tiles, merged by their log-sum-exp.

Two parts (o_1, l_1), (o_2, l_2) of a softmax merge to l = log(e^l_1 + e^l_2), o = e^(l_1 - l) o_1 + e^(l_2 - l) o_2
(arXiv 2112.05682). Merging is done in float32; what a tile needs is never more than the tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ropewalk.attention.bias import Bias, Of, OnTile
from ropewalk.attention.kernels import Backend, bounds_masks, dense, merge, tile_masks
from ropewalk.attention.tiles import Tile

KEYS = 8192  # whose gradients a backward kernel returns at once


@dataclass(frozen=True)
class Part:
    """A tile of the scores between one rotation of the queries and one of the keys.

    Attributes:
        query: which of the rotated queries.
        key: which of the rotated keys.
        tile: rows and columns.
        heads: query heads [first, last) that it is for, whole groups of those that share a key head; None means all.
    """

    query: int
    key: int
    tile: Tile
    heads: tuple[int, int] | None = None

    def pieces(self) -> Iterator[Part]:
        """The same scores in parts of at most ``KEYS`` keys, where that costs nothing."""
        tile = self.tile
        if tile.kind != "full" or tile.k1 - tile.k0 <= KEYS:
            yield self
            return
        for k0 in range(tile.k0, tile.k1, KEYS):
            yield replace(self, tile=replace(tile, k0=k0, k1=min(k0 + KEYS, tile.k1)))


@dataclass(frozen=True, eq=False)
class Own:
    """The last keys and values, which belong to a graph; those before them are constants that gradients are left at.

    Attributes:
        key: [B, Hkv, K', D], equal to the last K' keys.
        value: [B, Hkv, K', Dv].
        to_keys: gradients of all keys, [B, Hkv, K, D]; added to in place, and what is there at the last ones goes on
            into the graph.
        to_values: those of all values, [B, Hkv, K, Dv].
    """

    key: Tensor
    value: Tensor
    to_keys: Tensor
    to_values: Tensor


def attend(
    parts: Sequence[Part],
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Tensor,
    scale: float,
    backend: Backend,
    sinks: Tensor | None = None,
    own: Own | None = None,
    bias: Bias | None = None,
) -> Tensor:
    """Softmax attention over the union of ``parts``; differentiable in queries, keys, values, sinks and biases.

    Args:
        parts: disjoint sets of scores.
        queries: the queries under each of their rotations, [B, H, Q, D] each.
        keys: the keys under each of theirs, [B, Hkv, K, D] each.
        values: [B, Hkv, K, Dv].
        scale: of the logits.
        backend: computes the tiles.
        sinks: logits of a key without value that every query sees (gpt-oss), [H], or None.
        own: where gradients of ``keys``, a single one then, and ``values`` go, if not into their graphs.
        bias: added to the logits; ``Dense`` computes them then, whatever the backend. Not together with ``own``.

    Returns:
        [B, H, Q, Dv] in the type of the queries; queries that see no key give 0.
    """
    tensors = (*queries, *keys)
    if own is not None:
        assert bias is None, "a bias leaves its gradient in the graph, and own takes gradients out of it"
        found: Tensor = _AttendKept.apply(
            tuple(parts), scale, backend, sinks, values, *tensors, own.to_keys, own.to_values, own.key, own.value
        )
        return found
    more = () if bias is None else bias.tensors
    if torch.is_grad_enabled() and any(x.requires_grad for x in (*tensors, values, *more)):
        of, counts = None if bias is None else bias.of, (len(queries), len(keys))
        out: Tensor = _Attend.apply(tuple(parts), counts, scale, backend, sinks, of, values, *tensors, *more)
        return out
    return _forward(parts, queries, keys, values, scale, backend, sinks, bias)[0]


def _forward(
    parts: Sequence[Part],
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Tensor,
    scale: float,
    backend: Backend,
    sinks: Tensor | None,
    bias: Bias | None = None,
) -> tuple[Tensor, Tensor]:
    return finish(*accumulate(parts, queries, keys, values, scale, backend, bias), sinks, queries[0].dtype)


def accumulate(
    parts: Sequence[Part],
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Tensor,
    scale: float,
    backend: Backend,
    bias: Bias | None = None,
) -> tuple[Tensor, Tensor]:
    """Output [B, H, Q, Dv] and log-sum-exp [B, H, Q] over ``parts``, float32 at least; -inf where no key is seen."""
    q = queries[0]
    if parts and _is_whole(
        parts[0], q.shape[-2]
    ):  # nothing to merge into: plain texts, and the first region of a decoded token
        merged, lse = _tile_forward(parts[0], queries, keys, values, scale, backend, bias)
        merged, parts = merged.to(torch.promote_types(q.dtype, torch.float32)), parts[1:]
    else:
        merged, lse = nothing(q, values.shape[-1])
    for part in parts:
        found = _tile_forward(part, queries, keys, values, scale, backend, bias)
        merge(_rows(part, merged), _rows(part, lse), *found)
    return merged, lse


def nothing(q: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Output [B, H, Q, width] and log-sum-exp [B, H, Q] of queries that have seen no key yet."""
    merged = q.new_zeros(*q.shape[:-1], width, dtype=torch.promote_types(q.dtype, torch.float32))
    return merged, merged.new_full(q.shape[:-1], -torch.inf)


def finish(merged: Tensor, lse: Tensor, sinks: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Output in ``dtype`` and log-sum-exp, after the logits without a value, [H], have taken their share."""
    if sinks is not None:
        alone, lse = lse, torch.logaddexp(lse, sinks.to(lse.dtype)[:, None])
        merged.mul_((alone - lse).exp()[..., None])
    return merged.to(dtype), lse


def _is_whole(part: Part, n: int) -> bool:
    return part.heads is None and (part.tile.q0, part.tile.q1) == (0, n)


def _rows(part: Part, x: Tensor) -> Tensor:
    """A part's rows of something per query, [B, H, Q, ...]."""
    return x[:, slice(*(part.heads or (0, None))), part.tile.q0 : part.tile.q1]


def _columns(part: Part, x: Tensor, n_heads: int) -> Tensor:
    """A part's columns of something per key, [B, Hkv, K, ...]; ``part.heads`` are whole groups of query heads."""
    first, last = part.heads or (0, n_heads)
    group = n_heads // x.shape[1]
    return x[:, first // group : last // group, part.tile.k0 : part.tile.k1]


def _tile_forward(
    part: Part,
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Tensor,
    scale: float,
    backend: Backend,
    bias: Bias | None,
) -> tuple[Tensor, Tensor]:
    q = _rows(part, queries[part.query])
    k, v = (_columns(part, x, queries[0].shape[1]) for x in (keys[part.key], values))
    kind = part.tile.kind
    if bias is not None:
        here = OnTile(bias.of, bias.tensors, part.tile, part.heads)
        return dense(backend).masked(q, k, v, tile_masks(part.tile, q.device), scale, here)
    if kind == "ragged":
        return dense(backend).masked(q, k, v, bounds_masks(part.tile, q.device), scale)
    if kind == "mirrored":  # j >= i is j' <= i' seen from the other end
        o, lse = backend.forward(q.flip(-2), k.flip(-2), v.flip(-2), True, scale)
        return o.flip(-2), lse.flip(-1)
    return backend.forward(q, k, v, kind == "causal", scale)


def _tile_backward(
    part: Part,
    do: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    o: Tensor,
    lse: Tensor,
    scale: float,
    backend: Backend,
    bias: OnTile | None,
) -> tuple[Tensor, ...]:
    kind = part.tile.kind
    if bias is not None:
        return dense(backend).gradients(do, q, k, v, o, lse, scale, tile_masks(part.tile, q.device), bias)
    if kind == "ragged":
        return dense(backend).gradients(do, q, k, v, o, lse, scale, bounds_masks(part.tile, q.device))
    if kind == "mirrored":
        do, q, k, v, o = (x.flip(-2) for x in (do, q, k, v, o))
        gradients = backend.backward(do, q, k, v, o, lse.flip(-1), True, scale)
        return tuple(x.flip(-2) for x in gradients)
    return backend.backward(do, q, k, v, o, lse, kind == "causal", scale)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        parts: tuple[Part, ...],
        counts: tuple[int, int],
        scale: float,
        backend: Backend,
        sinks: Tensor | None,
        of: Of | None,
        values: Tensor,
        *tensors: Tensor,
    ) -> Tensor:
        queries, keys, more = _apart(tensors, counts)
        bias = None if of is None else Bias(of, tuple(more))
        out, lse = _forward(parts, queries, keys, values, scale, backend, sinks, bias)
        ctx.save_for_backward(out, lse, sinks, values, *tensors)
        ctx.parts, ctx.counts, ctx.scale, ctx.backend, ctx.of = parts, counts, scale, backend, of
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        out, lse, sinks, values, *tensors = ctx.saved_tensors
        queries, keys, more = _apart(tensors, ctx.counts)
        sums = [torch.zeros_like(x, dtype=lse.dtype) for x in (values, *tensors)]  # tiles add up in float32
        to_queries, to_keys, to_more = _apart(sums[1:], ctx.counts)
        bias = None if ctx.of is None else partial(OnTile, ctx.of, more, sums=to_more)
        _backward(ctx, gradients[0], out, lse, queries, keys, values, to_queries, to_keys, sums[0], bias)
        typed = (summed.to(x.dtype) for summed, x in zip(sums, (values, *tensors), strict=True))
        return None, None, None, None, _to_sinks(sinks, lse, gradients[0], out), None, *typed


def _apart(tensors: Sequence[Tensor], counts: tuple[int, int]) -> tuple[Sequence[Tensor], ...]:
    """Queries, keys, and what a bias is made of."""
    first, last = counts[0], sum(counts)
    return tensors[:first], tensors[first:last], tensors[last:]


class _AttendKept(torch.autograd.Function):
    """As ``_Attend``, with one rotation; gradients of keys and values are left where ``Own`` says, not summed anew."""

    @staticmethod
    def forward(
        ctx: Any,
        parts: tuple[Part, ...],
        scale: float,
        backend: Backend,
        sinks: Tensor | None,
        values: Tensor,
        query: Tensor,
        key: Tensor,
        to_keys: Tensor,
        to_values: Tensor,
        own_key: Tensor,
        own_value: Tensor,
    ) -> Tensor:
        out, lse = _forward(parts, [query], [key], values, scale, backend, sinks)
        ctx.save_for_backward(out, lse, sinks, values, query, key)
        ctx.parts, ctx.scale, ctx.backend = parts, scale, backend
        ctx.to_keys, ctx.to_values, ctx.own = to_keys, to_values, own_key.shape[-2]
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        out, lse, sinks, values, query, key = ctx.saved_tensors
        summed = torch.zeros_like(query, dtype=lse.dtype)
        to_keys, to_values = ctx.to_keys, ctx.to_values
        _backward(ctx, gradients[0], out, lse, [query], [key], values, [summed], [to_keys], to_values)
        own = to_keys[:, :, -ctx.own :], to_values[:, :, -ctx.own :]
        d_sinks = _to_sinks(sinks, lse, gradients[0], out)
        return None, None, None, d_sinks, None, summed.to(query.dtype), None, None, None, *own


def _backward(
    ctx: Any,
    do: Tensor,
    out: Tensor,
    lse: Tensor,
    queries: Sequence[Tensor],
    keys: Sequence[Tensor],
    values: Tensor,
    to_queries: Sequence[Tensor],
    to_keys: Sequence[Tensor],
    to_values: Tensor,
    bias: Callable[..., OnTile] | None = None,
) -> None:
    """Add the gradients of all parts to ``to_queries``, ``to_keys`` and ``to_values`` in place."""
    heads = do.shape[1]
    for part in chain.from_iterable(part.pieces() for part in ctx.parts):
        q, o, total = (_rows(part, x) for x in (queries[part.query], out, lse))
        k, v = (_columns(part, x, heads) for x in (keys[part.key], values))
        here = None if bias is None else bias(tile=part.tile, heads=part.heads)
        dq, dk, dv = _tile_backward(part, _rows(part, do), q, k, v, o, total, ctx.scale, ctx.backend, here)
        _rows(part, to_queries[part.query]).add_(dq)
        _columns(part, to_keys[part.key], heads).add_(dk)
        _columns(part, to_values, heads).add_(dv)


def _to_sinks(sinks: Tensor | None, lse: Tensor, do: Tensor, out: Tensor) -> Tensor | None:
    if sinks is None:
        return None
    weight = (sinks.to(lse.dtype)[:, None] - lse).exp()
    return -(weight * (do * out).sum(-1).to(lse.dtype)).sum((0, 2)).to(sinks.dtype)
