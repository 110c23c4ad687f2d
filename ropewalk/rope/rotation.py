"""Rotating queries and keys at attention time, by any frequencies and at any positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Style = Literal["half", "interleaved"]
Place = Literal["head", "tail"]


def tables(positions: Tensor, inv_freq: Tensor, scale: float, blend: bool = False) -> tuple[Tensor, Tensor]:
    """Cosines and sines, float32.

    Args:
        positions: [R, P], whole or fractional.
        inv_freq: radians per token, float32 [d/2], or [G, d/2] where groups of heads differ.
        scale: attention factor, multiplies both.
        blend: at fractional positions, interpolate between the tables of the two whole positions (then logits are
            interpolated, not angles; GALI, arXiv 2502.02659).

    Returns:
        Two tensors [R, G or 1, P, d/2].
    """
    if blend and positions.is_floating_point():
        above, below = positions.ceil(), positions.floor()
        weight = (above - positions).float()[:, None, :, None]
        pairs = zip(tables(above, inv_freq, scale), tables(below, inv_freq, scale), strict=True)
        cos, sin = ((1 - weight) * high + weight * low for high, low in pairs)
        return cos, sin
    with torch.autocast(positions.device.type, enabled=False):  # half-precision angles make neighbours equal
        per_head = inv_freq if inv_freq.ndim == 2 else inv_freq[None]
        angles = positions[:, None, :, None].float() * per_head[None, :, None, :]
        return angles.cos() * scale, angles.sin() * scale


def rotate(x: Tensor, cos: Tensor, sin: Tensor, style: Style, place: Place = "head") -> Tensor:
    """Rotate the first (or last) d dimensions of each head; computed in float32 at least.

    Args:
        x: [B, H, P, D].
        cos: [R, G or 1, P, d/2] with R = 1 or B, and G dividing H (heads of a group share a row).
        sin: like ``cos``.
        style: "half" turns (i, i + d/2), "interleaved" turns (2i, 2i + 1).
        place: whether the rotated dimensions come first or last.
    """
    if 1 < cos.shape[1] < x.shape[1]:
        cos, sin = (t.repeat_interleave(x.shape[1] // t.shape[1], dim=1) for t in (cos, sin))
    d = 2 * cos.shape[-1]
    first_turned = 0 if place == "head" else x.shape[-1] - d
    turned = x[..., first_turned : first_turned + d].to(torch.promote_types(x.dtype, cos.dtype))
    a, b = turned.chunk(2, dim=-1) if style == "half" else (turned[..., ::2], turned[..., 1::2])
    a, b = (a * cos - b * sin).to(x.dtype), (b * cos + a * sin).to(x.dtype)  # no fused products: they change bits
    turned = torch.cat([a, b], dim=-1) if style == "half" else torch.stack([a, b], dim=-1).flatten(-2)
    if d == x.shape[-1]:
        return turned
    return torch.cat([x[..., :first_turned], turned, x[..., first_turned + d :]], dim=-1)


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
