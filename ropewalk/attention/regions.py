"""What a position method says: which keys a query sees, and at which positions the two meet.

A method is a list of disjoint regions. In each, queries and keys are rotated by position maps of their own, the softmax
runs over all of them, and the kernel does the rest. With the query at position m and keys at n:

    plain attention     lo = 0          hi = m + 1    q_pos = m         k_pos = n
    distance <= w       lo = m - w + 1  hi = m + 1    q_pos = m         k_pos = n
    all further ones    lo = 0          hi = m - w + 1, met at distance w: q_pos = w, k_pos = 0

Where queries see what stands behind them too, in encoders, every region has its mirror image: if the key at n meets the
query at m at a distance d, the key at m meets the query at n at -d.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ropewalk.common.errors import UserError

if TYPE_CHECKING:
    from ropewalk.attention.attending import Attending

ENDLESS = 2**25  # behind every position

Map = Callable[[Tensor], Tensor]  # of positions, int64 [P]; whole or fractional positions come back, [P]


def same(p: Tensor) -> Tensor:
    """Every token where it stands."""
    return p


def zero(p: Tensor) -> Tensor:
    """No rotation; as ``lo``, the first token of the text."""
    return torch.zeros_like(p)


def after(p: Tensor) -> Tensor:
    """As ``hi``: up to the query itself."""
    return p + 1


def first_above(bound: Map) -> Map:
    """The map from m to the first position at which ``bound``, which never falls, is above m, or ``ENDLESS``."""

    def found(m: Tensor) -> Tensor:
        low, high = torch.zeros_like(m), torch.full_like(m, ENDLESS)
        while bool((low < high).any()):
            middle = (low + high) // 2
            above = bound(middle) > m
            low, high = torch.where(above, low, middle + 1), torch.where(above, middle, high)
        return low

    return found


@dataclass(frozen=True)
class Region:
    """Keys lo(m) <= n < hi(m), met by the query at m with both rotated by their maps.

    Attributes:
        lo: first visible key.
        hi: behind the last visible key, at most m + 1 before it is mirrored; where it is not above ``lo``, nothing is
            seen.
        q_pos: position at which the query is rotated.
        k_pos: position at which the key is rotated; of n alone, so that rotated keys can be kept.
        heads: the query heads [first, last) that have this region; None means all.
        blend: at fractional positions, the logit is interpolated between the two whole ones, not the angle.
        passing: the key map serves a stretch of the text only, so that its rotated keys are not worth keeping.
    """

    lo: Map = zero
    hi: Map = after
    q_pos: Map = same
    k_pos: Map = same
    heads: tuple[int, int] | None = None
    blend: bool = False
    passing: bool = False

    def clipped(self, first_visible: Map) -> Region:
        """The same, without keys before ``first_visible(m)``; what a sliding window of the model itself does."""
        lo, hi = self.lo, self.hi

        def later(m: Tensor) -> Tensor:
            return torch.maximum(lo(m), first_visible(m))

        def never_before(m: Tensor) -> Tensor:
            return torch.maximum(hi(m), later(m))

        return replace(self, lo=later, hi=after if hi is after else never_before)

    @property
    def mirrored(self) -> Region:
        """The keys behind the query that see it in this region, at minus the distance at which they meet it."""
        first, last = first_above(self.hi), first_above(self.lo)

        def lo(m: Tensor) -> Tensor:
            return torch.maximum(m + 1, first(m))

        def hi(m: Tensor) -> Tensor:
            return torch.maximum(m + 1, last(m))

        return replace(self, lo=lo, hi=hi, q_pos=self.k_pos, k_pos=self.q_pos)

    @property
    def both_ways(self) -> tuple[Region, ...]:
        """The region and its mirror image; as one where positions are the same and they touch."""
        mirrored = self.mirrored
        if self.hi is after and self.q_pos is self.k_pos:
            return (replace(self, hi=mirrored.hi),)
        return self, mirrored


PLAIN = (Region(),)
DECLARED = {"index": "by_layer", "length": "length_dependent"}  # what a method must say to look at them


@dataclass(frozen=True)
class Layer:
    """One attention layer, as far as a method needs to know it.

    Attributes:
        index: place in the model.
        window: tokens that the model was trained on (or is treated as trained on).
        target: tokens that it should reach.
        heads: query heads.
        kv_heads: key-value heads; query heads h belong to key-value head h // (heads / kv_heads).
        sliding: the model's own sliding window in tokens, or None.
        chunk: length of the model's own attention chunks in tokens (Llama 4), or None.
        extended: False for the sliding-window layers of mixed models, which methods leave alone.
        length: tokens of the text up to now; only methods whose regions change with it may look.
        layers: how many the model has; 0 where that is not known.
    """

    index: int
    window: int
    target: int
    heads: int
    kv_heads: int
    sliding: int | None = None
    chunk: int | None = None
    extended: bool = True
    length: int = 0
    layers: int = 0

    def clip(self, regions: tuple[Region, ...]) -> tuple[Region, ...]:
        """The regions inside what the model's own window or chunk lets a query see."""
        window, chunk = self.sliding, self.chunk
        if window is not None:
            regions = tuple(region.clipped(lambda m: m - window + 1) for region in regions)
        if chunk is not None:
            regions = tuple(region.clipped(lambda m: m // chunk * chunk) for region in regions)
        return regions


class Told(Layer):
    """A layer as a method may know it: what it does not declare to look at is refused."""

    @classmethod
    def to(cls, method: Attending, layer: Layer) -> Told:
        """``layer``, guarded by what ``method`` declares."""
        told = cls(**vars(layer))
        declared = {"index": method.by_layer, "length": method.length_dependent}
        object.__setattr__(told, "_hidden", {name for name, yes in declared.items() if not yes})
        return told

    def __getattribute__(self, name: str) -> Any:
        if name in DECLARED and name in super().__getattribute__("_hidden"):
            raise UserError(
                f"a method's regions or temperature ask for the layer's {name}, which it does not declare: what they "
                "give is kept for all layers of a kind, and for texts of any length",
                f"Set {DECLARED[name]}: ClassVar[bool] = True in the method's class.",
            )
        return super().__getattribute__(name)


def extended_layers(config: Any) -> list[bool]:
    """For every layer, whether methods apply to it: not to the sliding-window layers of models that have others too."""
    types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [kind == "full_attention" or "full_attention" not in types for kind in types]
