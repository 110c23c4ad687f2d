"""LongEmbed's RoPE side: a larger base for embedding models, without training (arXiv 2404.12096)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.ntk import rebased
from ropewalk.methods.ranges import Range
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class LongEmbedRoPE(FrequencyMethod):
    """The base times a given number: 10 took E5-Mistral from 4k to 32k.

    Attributes:
        ratio: of the new base and the old.
    """

    ratio: float = 10.0

    name: ClassVar[str] = "longembed-rope"
    tunable: ClassVar[Mapping[str, Range]] = {
        "ratio": Range(1, 100),
    }

    def __post_init__(self) -> None:
        require_above(0, self, "ratio")

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return rebased(rope, rope.base * self.ratio)

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": rope.base * self.ratio}
