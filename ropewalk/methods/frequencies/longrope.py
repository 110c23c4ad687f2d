"""LongRoPE: one searched factor per dimension (arXiv 2402.13753). Its search is ``fitting.rope_factors``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ropewalk.common.errors import UserError, cut
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope import config as rope_config
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class LongRoPE(FrequencyMethod):
    """w' = w / factor, attention factor sqrt(1 + ln s / ln L).

    Attributes:
        factors: one per rotated pair of dimensions, each above 0; as found by a search for the same target.
        attention_factor: None means the paper's value for s = target / window.
    """

    factors: tuple[float, ...] = ()
    attention_factor: float | None = None

    name: ClassVar[str] = "longrope"
    measured: ClassVar[tuple[str, ...]] = ("factors",)

    def __post_init__(self) -> None:
        require_above(0, self, "attention_factor")

    def check_found(self, to: int) -> None:
        if not all(0 < factor <= to for factor in self.factors):
            raise UserError(f"factors are {cut(repr(self.factors))}, expected numbers up to the target, {to:,}")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        half = rope_config.full_attention(rope_config.starting_specs(config))[0].rotary_dim // 2
        return (cls(factors=tuple(1 + 3 * i / (half - 1) for i in range(half))),)

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        wrong = [f for f in self.factors if not (isinstance(f, (int, float)) and 0 < f < math.inf)]
        if wrong or len(self.factors) != rope.rotary_dim // 2:
            among = f", {wrong[0]!r} among them" if wrong else ""
            raise UserError(
                f"longrope has {len(self.factors)} factors{among}, expected {rope.rotary_dim // 2} numbers above 0",
                "Give those that a search for this model and target found: longrope(factors=[...]), or fit them.",
            )
        t = math.sqrt(1 + math.log(rope.scale(target)) / math.log(rope.window))
        return Frequencies(
            rope.inv_freq / rope.inv_freq.new_tensor(self.factors),
            t if self.attention_factor is None else self.attention_factor,
        )
