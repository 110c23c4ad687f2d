"""A temperature that makes attention over a long text as sharp as over a short one (arXiv 2311.00684, for T5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ropewalk.attention.regions import Layer
from ropewalk.methods.attention.attention_method import TEMPERATURE, AttentionMethod
from ropewalk.methods.base import Method, require_above

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class AttentionAlignment(AttentionMethod):
    """Logits divided by one tau <= 1, the same for all layers, heads and queries; ``ropewalk fit`` measures it.

    Attributes:
        tau: divides the logits.
    """

    tau: float | None = None

    name: ClassVar[str] = "attention-alignment"
    axes: ClassVar[frozenset[str]] = frozenset({TEMPERATURE})
    exact_near: ClassVar[bool] = False
    measured: ClassVar[tuple[str, ...]] = ("tau",)
    target_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_above(0, self, "tau")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return (cls(tau=0.8),)

    @property
    def inert(self) -> bool:
        return self.tau == 1

    def temperature(self, m: Tensor, layer: Layer) -> Tensor | None:
        return None if self.tau is None else torch.full_like(m, 1 / self.tau, dtype=torch.float64)
