"""HARPE: a base per head, so that one training stage covers all lengths (arXiv 2412.07171)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class HARPE(FrequencyMethod):
    """Bases evenly spaced over the key-value heads (the queries of a group share theirs). Needs training.

    Attributes:
        base_min: base of the first head.
        base_max: base of the last head.
    """

    base_min: float | None = None
    base_max: float | None = None

    name: ClassVar[str] = "harpe"
    given: ClassVar[tuple[str, ...]] = ("base_min", "base_max")
    how_given: ClassVar[str] = "Give those of its training; in the paper: harpe(base_min=1e6, base_max=5e6)"
    runtime: ClassVar[bool] = True

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return (cls(base_min=1e6, base_max=5e6),)

    def __post_init__(self) -> None:
        require_above(1, self, "base_min", "base_max")
        if self.base_min is not None and self.base_max is not None and self.base_min > self.base_max:
            raise UserError(f"harpe: bases are {self.base_min} and {self.base_max}, expected base_min <= base_max")

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        assert self.base_min is not None and self.base_max is not None
        bases = torch.linspace(self.base_min, self.base_max, rope.kv_heads, dtype=torch.float64)
        exponents = torch.arange(0, rope.rotary_dim, 2, dtype=torch.float64) / rope.rotary_dim
        return Frequencies(rope.inv_freq * (rope.base / bases[:, None]) ** exponents)

    def at(self, rope: RopeSpec, target: int) -> Frequencies:  # heads differ at every length
        return Frequencies(self.frequencies(rope, target).inv_freq, rope.attention_factor)

    def why_not_saved(self) -> str:
        return "every head has its own frequencies, and configurations hold one vector for all heads"
