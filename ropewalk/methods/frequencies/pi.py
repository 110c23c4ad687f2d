"""Position Interpolation: squeeze the target's positions into the pretrained window (arXiv 2306.15595)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class PositionInterpolation(FrequencyMethod):
    """Divide every frequency by s = target / window. Wants about a thousand fine-tuning steps; weak without."""

    name: ClassVar[str] = "pi"
    raises: ClassVar[frozenset[str]] = frozenset({"linear"})

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return Frequencies(rope.inv_freq / rope.scale(target))

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any]:
        return {"rope_type": "linear", "factor": rope.scale(target)}
