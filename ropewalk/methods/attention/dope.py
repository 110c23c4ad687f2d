"""DoPE, denoising RoPE: heads whose rotated keys are nearly of rank one are not rotated any more (arXiv 2511.09146).

Of the paper's ways to silence a head's positions this is the whole one. To drop its slow pairs alone takes a rope per
layer and head, which no rotary module here has; its noise in the place of positions could not be verified.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, ClassVar

from ropewalk.attention.regions import PLAIN, Layer, Region, zero
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import AttentionMethod
from ropewalk.methods.base import Method

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class DoPE(AttentionMethod):
    """Chosen key heads, and the query heads that read them, see all tokens at distance 0; the others are as they were.

    Those keep their distances, also beyond the window: frequencies may mend that, ``yarn+dope``. Texts inside the
    window are changed as well.

    Attributes:
        heads: the key heads that are not rotated, a tuple for every layer, as ``ropewalk fit`` measures them.
    """

    heads: tuple[tuple[int, ...], ...] = ()

    name: ClassVar[str] = "dope"
    measured: ClassVar[tuple[str, ...]] = ("heads",)
    target_free: ClassVar[bool] = True
    by_layer: ClassVar[bool] = True
    far: ClassVar[bool] = True
    exact_near: ClassVar[bool] = False

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return (cls(heads=((0,),) * config.num_hidden_layers),)

    @property
    def inert(self) -> bool:
        return bool(self.heads) and not any(self.heads)

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        still, group = set(self.heads[layer.index]), layer.heads // layer.kv_heads
        if not still:
            return PLAIN
        found = []
        for stands, run in groupby(range(layer.kv_heads), still.__contains__):
            first, *more = run
            heads = first * group, (first + len(more) + 1) * group
            found.append(Region(q_pos=zero, k_pos=zero, heads=heads) if stands else Region(heads=heads))
        return tuple(found)

    def check(self, layer: Layer) -> None:
        if layer.index >= len(self.heads):
            raise UserError(
                f"{self.name}: heads are given for {len(self.heads)} layers, expected some, or (), for layer "
                f"{layer.index} too",
                "Fit it on this model, with ropewalk fit.",
            )
        chosen = self.heads[layer.index]
        if len(set(chosen)) < len(chosen) or not set(chosen) <= set(range(layer.kv_heads)):
            raise UserError(
                f"{self.name}: heads of layer {layer.index} are {chosen}, expected different ones of its "
                f"{layer.kv_heads} key heads, 0 to {layer.kv_heads - 1}",
                "Fit it on this model, with ropewalk fit.",
            )
