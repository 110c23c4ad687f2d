"""Kernels that attend one tile and say how much weight it has: output and log-sum-exp, and their gradients.

A tile's backward pass is given the output and the log-sum-exp of the *whole* row, over all tiles. Then
P = exp(S - lse) and dS = P * (dP - rowsum(dO * O)) are the tile's part of the exact gradient
(arXiv 2112.05682; no stock kernel differentiates its log-sum-exp). ``Chunked`` is that paper's attention itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from ropewalk.attention.bias import OnTile
from ropewalk.attention.tiles import Tile
from ropewalk.common.errors import UserError, did_you_mean

ROWS = 256  # queries whose scores the dense kernels hold at once
COLUMNS = 1024  # keys that the chunked one holds with them, or the root of their number if that is more
CHOICE = "ROPEWALK_KERNEL"  # variable that names a kernel

Gradients = tuple[Tensor, Tensor, Tensor]
aten: Any = torch.ops.aten


class Backend(Protocol):
    """Attention of q [B, H, Q, D] to k [B, Hkv, K, D], v [B, Hkv, K, Dv]; rows of a causal tile see keys j <= i."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        """Output [B, H, Q, Dv] and log-sum-exp, float32 (or float64) [B, H, Q]."""

    def backward(
        self, do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Gradients:
        """Gradients of q, k and v, shaped like them, given output and log-sum-exp over all tiles of these rows."""


class CPUFlash:
    """torch's own CPU kernel: any float type, grouped heads, no score matrix."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        q, k, v, wide = _one_width(q, k, v)
        rows = q
        if q.shape[-2] == 1 and not causal:  # heads that share keys become rows: keys are read once for all of them
            rows = q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])
        o, lse = aten._scaled_dot_product_flash_attention_for_cpu(rows, k, v, 0.0, causal, scale=scale)
        return o.reshape(q.shape)[..., :wide], lse.reshape(q.shape[:-1])

    def backward(
        self, do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Gradients:
        d, wide = q.shape[-1], v.shape[-1]
        q, k, v, _ = _one_width(q, k, v)
        do, o = (F.pad(x, (0, q.shape[-1] - wide)) for x in (do, o))
        dq, dk, dv = aten._scaled_dot_product_flash_attention_for_cpu_backward(
            do, q, k, v, o, lse, 0.0, causal, scale=scale
        )
        return dq[..., :d], dk[..., :d], dv[..., :wide]


class CUDAFlash:
    """FlashAttention as torch ships it: float16 and bfloat16. Causal tiles are squares, so alignment plays no role."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        q, k, v, wide = _one_width(q, k, v)
        o, lse, *_ = aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, False, scale=scale)
        return o[..., :wide], lse

    def backward(
        self, do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Gradients:
        d, wide, rows, keys = q.shape[-1], v.shape[-1], q.shape[-2], k.shape[-2]
        q, k, v, _ = _one_width(q, k, v)
        do, o = (F.pad(x, (0, q.shape[-1] - wide)) for x in (do, o))
        nothing = torch.zeros(2, dtype=torch.uint64, device=q.device)  # the random state of a dropout that is not there
        dq, dk, dv = aten._scaled_dot_product_flash_attention_backward(
            do, q, k, v, o, lse.contiguous(), None, None, rows, keys, 0.0, causal, nothing, nothing[0], scale=scale
        )
        return dq[..., :d], dk[..., :d], dv[..., :wide]


class CUDAEfficient:
    """The memory-efficient kernel: float32 too. Its log-sum-exp is padded to whole blocks of 32 queries."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        k, v = per_query_head(k, q), per_query_head(v, q)
        o, lse, *_ = aten._scaled_dot_product_efficient_attention(q, k, v, None, True, 0.0, causal, scale=scale)
        return o, lse[..., : q.shape[-2]]

    def backward(
        self, do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Gradients:
        wide = per_query_head(k, q), per_query_head(v, q)
        lse = F.pad(lse, (0, -lse.shape[-1] % 32), value=torch.inf)
        nothing = torch.zeros((), dtype=torch.int64, device=q.device)  # the random state of a dropout that is not there
        wanted = [True, True, True, False]
        dq, dk, dv, _ = aten._scaled_dot_product_efficient_attention_backward(
            do, q, *wide, None, o, lse, nothing, nothing, 0.0, wanted, causal, scale=scale
        )
        return dq, _per_key_head(dk, k), _per_key_head(dv, v)


@dataclass(frozen=True)
class Flex:
    """FlexAttention for logits with a softcap: compiled where there is a GPU. Gradients are computed as by ``Dense``.

    Attributes:
        softcap: as in ``Dense``.
    """

    softcap: float

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        from torch.nn.attention.flex_attention import AuxRequest

        def bent(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            score = self.softcap * torch.tanh(score / self.softcap)
            return torch.where(i >= j, score, -torch.inf) if causal else score

        grouped = q.shape[1] != k.shape[1]
        o, aux = _flex(q.device.type)(
            q, k, v, score_mod=bent, scale=scale, enable_gqa=grouped, return_aux=AuxRequest(lse=True)
        )
        return o, aux.lse

    def backward(
        self, do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Gradients:
        return Dense(self.softcap).backward(do, q, k, v, o, lse, causal, scale)


@cache
def _flex(device: str) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True) if device == "cuda" else flex_attention


@dataclass(frozen=True)
class Dense:
    """Written-out attention over ``ROWS`` queries at a time: the oracle, and what flash kernels cannot do.

    Attributes:
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2), or None; a bias is added behind it.
    """

    softcap: float | None = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        return self.masked(q, k, v, causal_masks(q, k, causal), scale)

    def masked(
        self, q: Tensor, k: Tensor, v: Tensor, masks: Sequence[Tensor | None], scale: float, bias: OnTile | None = None
    ) -> tuple[Tensor, Tensor]:
        """As ``forward``, with one mask per ``ROWS`` queries, bool [.., rows, K]; it may show a row no key."""
        parts = [self._rows(q, k, v, scale, i * ROWS, mask, bias) for i, mask in enumerate(masks)]
        outs, sums = zip(*parts, strict=True)
        return torch.cat(outs, -2), torch.cat(sums, -1)

    def _scores(
        self, q: Tensor, k: Tensor, scale: float, i: int, mask: Tensor | None, bias: OnTile | None
    ) -> tuple[Tensor, Tensor | None]:
        """Scores of queries i .. i + ROWS, and what the softcap multiplies their gradient by."""
        s = (q[:, :, i : i + ROWS] @ per_query_head(k, q).mT).to(_precise(q)) * scale
        slope = None
        if self.softcap is not None:
            bent = torch.tanh(s / self.softcap)
            s, slope = self.softcap * bent, 1 - bent**2
        if bias is not None:
            s = s + bias.rows(i, s.shape[-2]).to(s.dtype)
        return (s if mask is None else s.masked_fill(~mask, -torch.inf)), slope

    def _rows(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, i: int, mask: Tensor | None, bias: OnTile | None
    ) -> tuple[Tensor, Tensor]:
        s, _ = self._scores(q, k, scale, i, mask, bias)
        lse = s.logsumexp(-1)
        finite = lse.clamp_min(torch.finfo(lse.dtype).min)  # rows that see nothing give 0 and -inf
        return (s - finite[..., None]).exp().to(v.dtype) @ per_query_head(v, q), lse

    def backward(
        self, do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Gradients:
        return self.gradients(do, q, k, v, o, lse, scale, causal_masks(q, k, causal))

    def gradients(
        self,
        do: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o: Tensor,
        lse: Tensor,
        scale: float,
        masks: Sequence[Tensor | None],
        bias: OnTile | None = None,
    ) -> Gradients:
        """As ``backward``, with one mask per ``ROWS`` queries; ``bias`` takes its own gradient."""
        kind = _precise(q)
        keys, values = per_query_head(k, q).to(kind), per_query_head(v, q).to(kind)
        dq, dk, dv = [], torch.zeros_like(keys), torch.zeros_like(values)
        for i, mask in zip(range(0, q.shape[-2], ROWS), masks, strict=True):
            rows = slice(i, i + ROWS)
            s, slope = self._scores(q, k, scale, i, mask, bias)
            p, grad = (s - lse[:, :, rows, None]).exp(), do[:, :, rows].to(kind)
            ds = p * (grad @ values.mT - (grad * o[:, :, rows].to(kind)).sum(-1, keepdim=True))
            if bias is not None:
                bias.learn(i, ds)
            if slope is not None:
                ds = ds * slope
            dq.append(ds @ keys * scale)
            dk += ds.mT @ q[:, :, rows].to(kind) * scale
            dv += p.mT @ grad
        return torch.cat(dq, -2).to(q.dtype), _per_key_head(dk, k), _per_key_head(dv, v)


@dataclass(frozen=True)
class Chunked(Dense):
    """The same by chunks of keys too, merged under a running maximum: no flash kernel and no row of scores.

    Scores of ``ROWS`` queries and max(``COLUMNS``, sqrt(K)) keys are held at once, in float32 at least, beside outputs
    and gradients; what a bias is added to is left to ``Dense``.
    """

    def forward(self, q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
        return self._merged(q, k, v, scale, self._chunks(q, k, causal))

    def masked(
        self, q: Tensor, k: Tensor, v: Tensor, masks: Sequence[Tensor | None], scale: float, bias: OnTile | None = None
    ) -> tuple[Tensor, Tensor]:
        if bias is not None:
            return super().masked(q, k, v, masks, scale, bias)
        return self._merged(q, k, v, scale, self._chunks(q, k, False, masks))

    def backward(
        self, do: Tensor, q: Tensor, k: Tensor, v: Tensor, o: Tensor, lse: Tensor, causal: bool, scale: float
    ) -> Gradients:
        return self._summed(do, q, k, v, o, lse, scale, self._chunks(q, k, causal))

    def gradients(
        self,
        do: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o: Tensor,
        lse: Tensor,
        scale: float,
        masks: Sequence[Tensor | None],
        bias: OnTile | None = None,
    ) -> Gradients:
        if bias is not None:
            return super().gradients(do, q, k, v, o, lse, scale, masks, bias)
        return self._summed(do, q, k, v, o, lse, scale, self._chunks(q, k, False, masks))

    def _chunks(
        self, q: Tensor, k: Tensor, causal: bool, masks: Sequence[Tensor | None] | None = None
    ) -> Iterator[tuple[slice, slice, Tensor | None]]:
        """Queries, keys, and which of them see which, None if all do; what no query of a chunk sees is left out."""
        n, keys = q.shape[-2], k.shape[-2]
        wide = max(COLUMNS, math.isqrt(keys))
        for i in range(0, n, ROWS):
            rows = slice(i, min(i + ROWS, n))
            mask = None if masks is None else masks[i // ROWS]
            for j in range(0, min(keys, rows.stop) if causal else keys, wide):
                columns = slice(j, min(j + wide, keys))
                if mask is not None:
                    yield rows, columns, mask[..., columns]
                elif causal and columns.stop > i + 1:
                    places = torch.arange(max(n, keys), device=q.device)
                    yield rows, columns, places[columns] <= places[rows, None]
                else:
                    yield rows, columns, None

    def _merged(
        self, q: Tensor, k: Tensor, v: Tensor, scale: float, chunks: Iterator[tuple[slice, slice, Tensor | None]]
    ) -> tuple[Tensor, Tensor]:
        kind = _precise(q)
        out = q.new_empty(*q.shape[:-1], v.shape[-1], dtype=kind)
        lse = q.new_empty(q.shape[:-1], dtype=kind)
        for rows, columns, mask in chunks:
            of_q, of_k, of_v = (x.to(kind) for x in (q[:, :, rows], k[:, :, columns], v[:, :, columns]))
            part = self._rows(of_q, of_k, of_v, scale, 0, mask, None)
            if columns.start == 0:
                out[:, :, rows], lse[:, :, rows] = part
            else:
                merge(out[:, :, rows], lse[:, :, rows], *part)
        return out.to(v.dtype), lse

    def _summed(
        self,
        do: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o: Tensor,
        lse: Tensor,
        scale: float,
        chunks: Iterator[tuple[slice, slice, Tensor | None]],
    ) -> Gradients:
        kind = _precise(q)
        dq, dk, dv = (torch.zeros_like(x, dtype=kind) for x in (q, k, v))
        for rows, columns, mask in chunks:
            some = do[:, :, rows], q[:, :, rows], k[:, :, columns], v[:, :, columns], o[:, :, rows]
            do_, q_, k_, v_, o_ = (x.to(kind) for x in some)
            of_q, of_k, of_v = super().gradients(do_, q_, k_, v_, o_, lse[:, :, rows], scale, [mask])
            dq[:, :, rows] += of_q
            dk[:, :, columns] += of_k
            dv[:, :, columns] += of_v
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def merge(o: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    """Merge another part, [..., D] and [...], into the part (``o``, ``lse``) in place."""
    total = torch.logaddexp(lse, more_lse)
    finite = total.clamp_min(torch.finfo(total.dtype).min)
    o.mul_((lse - finite).exp()[..., None]).addcmul_(more.to(o.dtype), (more_lse - finite).exp()[..., None])
    lse.copy_(total)


def causal_masks(q: Tensor, k: Tensor, causal: bool) -> list[Tensor | None]:
    """Masks of a causal tile, one per ``ROWS`` queries, bool [rows, K]; None if all keys are seen."""
    rows, keys = (torch.arange(x.shape[-2], device=q.device) for x in (q, k))
    return [keys <= some[:, None] if causal else None for some in rows.split(ROWS)]


def tile_masks(tile: Tile, device: torch.device) -> list[Tensor | None]:
    """Masks of a tile of any kind, one per ``ROWS`` queries; None if all keys are seen."""
    if tile.kind == "ragged":
        return bounds_masks(tile, device)
    rows, keys = (torch.arange(n, device=device) for n in (tile.q1 - tile.q0, tile.k1 - tile.k0))
    if tile.kind == "mirrored":
        return [keys >= some[:, None] for some in rows.split(ROWS)]
    return [keys <= some[:, None] if tile.kind == "causal" else None for some in rows.split(ROWS)]


def bounds_masks(tile: Tile, device: torch.device) -> list[Tensor | None]:
    """Masks of a ragged tile, one per ``ROWS`` queries."""
    assert tile.bounds is not None
    lo, hi = (torch.as_tensor(bound, device=device)[:, None] for bound in tile.bounds)
    keys = torch.arange(tile.k0, tile.k1, device=device)
    whole = (keys >= lo) & (keys < hi)
    return list(whole.split(ROWS))


def per_query_head(x: Tensor, q: Tensor) -> Tensor:
    """Keys or values [B, Hkv, K, D], each head repeated for the query heads that share it."""
    return x if x.shape[1] == q.shape[1] else x.repeat_interleave(q.shape[1] // x.shape[1], dim=1)


def _per_key_head(gradient: Tensor, x: Tensor) -> Tensor:
    """Gradient of ``x`` [B, Hkv, K, D] out of that of its repeated heads [B, H, K, D]."""
    return gradient.reshape(*x.shape[:2], -1, *x.shape[2:]).sum(2).to(x.dtype)


def _precise(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype == torch.float64 else torch.float32


def _one_width(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor, int]:
    """Heads padded with zeros to one width, and the width of v; flash kernels want keys as wide as values."""
    d, wide = q.shape[-1], v.shape[-1]
    if d == wide:
        return q, k, v, wide
    width = max(d, wide)
    return F.pad(q, (0, width - d)), F.pad(k, (0, width - d)), F.pad(v, (0, width - wide)), wide


def dense(backend: Backend) -> Dense:
    """The backend itself if it takes masks, else one that does."""
    return backend if isinstance(backend, Dense) else Dense(getattr(backend, "softcap", None))


NAMED = {"dense": Dense, "chunked": Chunked}  # kernels of torch's plain operations, for any device and softcap


def backend_for(q: Tensor, softcap: float | None) -> Backend:
    """The fastest kernel that computes this exactly, or the one that the variable ROPEWALK_KERNEL names.

    Raises:
        UserError: if it names none.
    """
    device, name = q.device.type, os.environ.get(CHOICE)
    if name:
        if name not in NAMED:
            raise UserError(
                f"{CHOICE} is {name!r}{did_you_mean(name, NAMED)}",
                f"Say {' or '.join(NAMED)}, or unset it: the fastest is taken then.",
            )
        return NAMED[name](softcap)
    if softcap is not None:
        return Flex(softcap) if device == "cuda" else Chunked(softcap)
    if device == "cpu":
        return CPUFlash()
    if device == "cuda" and q.dtype != torch.float64:
        half = q.dtype in (torch.float16, torch.bfloat16)
        return CUDAFlash() if half and q.shape[-1] <= 256 else CUDAEfficient()
    return Chunked()
