"""Shifted sparse attention, S2-Attn of LongLoRA (arXiv 2309.12307): a pattern for training, not for inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import VISIBILITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class S2Attention(AttentionMethod):
    """Half of the heads attend inside groups of g tokens, the other half inside groups shifted by g / 2.

    The first shifted group is cut, not wrapped around: in the official non-flash code the first tokens see the last.

    Attributes:
        group_size: g in tokens; None means a quarter of the text, as in the paper.
    """

    group_size: int | None = None

    name: ClassVar[str] = "s2-attention"
    axes: ClassVar[frozenset[str]] = frozenset({VISIBILITY})

    def __post_init__(self) -> None:
        require_above(1, self, "group_size")

    @property
    def exact_near(self) -> bool:  # type: ignore[override]
        return self.group_size is not None

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        return cls(group_size=w // 4), cls()

    @property
    def length_dependent(self) -> bool:  # type: ignore[override]
        return self.group_size is None

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        g = max(2, layer.length // 4) if self.group_size is None else self.group_size
        half = layer.heads // 2
        straight = Region(lo=lambda m: m // g * g, heads=(0, half))
        shifted = Region(lo=lambda m: ((m - g // 2) // g * g + g // 2).clamp_min(0), heads=(half, layer.heads))
        return straight, shifted

    def check(self, layer: Layer) -> None:
        if layer.heads < 2:
            raise UserError(
                f"{self.name}: layer {layer.index} has one head, expected two at least: one per kind of group"
            )
