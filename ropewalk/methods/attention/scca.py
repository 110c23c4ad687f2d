"""Shifted cross chunk attention (arXiv 2312.07305): a pattern for training, not for inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch import Tensor

from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import VISIBILITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class SCCA(AttentionMethod):
    """Queries of a chunk of W tokens attend to W keys in a row; which, differs between groups of heads.

    The keys of group g are those of the queries' own chunk, shifted back: by g chunks under "flow", so that the groups
    together see as many chunks as there are groups; by g / 2 chunks under "fixed", which has two groups. None is behind
    the query. There is no official code, and two points are our reading: heads go to groups evenly and in order; and a
    shift to before the text ends at its first W tokens, where rolled keys would come from its end.

    Attributes:
        pattern: "flow" or "fixed".
        chunk: W in tokens; None means a quarter of the text.
        groups: of heads, under "flow".
    """

    pattern: Literal["flow", "fixed"] = "flow"
    chunk: int | None = None
    groups: int = 4

    name: ClassVar[str] = "scca"
    axes: ClassVar[frozenset[str]] = frozenset({VISIBILITY})

    def __post_init__(self) -> None:
        if self.pattern not in ("flow", "fixed"):
            raise UserError(f"{self.name}: pattern is {self.pattern!r}, expected flow or fixed")
        require_above(1, self, "chunk", "groups")

    @property
    def exact_near(self) -> bool:  # type: ignore[override]
        return self.chunk is not None

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        return cls(chunk=w // 4), cls(pattern="fixed", chunk=w // 2), cls(groups=2)

    @property
    def length_dependent(self) -> bool:  # type: ignore[override]
        return self.chunk is None

    @property
    def _shares(self) -> int:
        return 2 if self.pattern == "fixed" else self.groups

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        w = max(1, -(-layer.length // 4)) if self.chunk is None else self.chunk
        ends = [layer.heads * g // self._shares for g in range(self._shares + 1)]
        shifts = [g * w if self.pattern == "flow" else g * w // 2 for g in range(self._shares)]
        return tuple(_shifted(w, shift, (ends[g], ends[g + 1])) for g, shift in enumerate(shifts))

    def check(self, layer: Layer) -> None:
        if layer.heads < self._shares:
            raise UserError(
                f"{self.name}: layer {layer.index} has {layer.heads} heads, expected {self._shares} at least: one per "
                "group"
            )


def _shifted(w: int, shift: int, heads: tuple[int, int]) -> Region:
    """Keys of chunks of ``w`` tokens that lie ``shift`` tokens before those of the queries."""

    def lo(m: Tensor) -> Tensor:
        return (m // w * w - shift).clamp_min(0)

    return Region(lo=lo, hi=lambda m: (lo(m) + w).minimum(m + 1), heads=heads)
