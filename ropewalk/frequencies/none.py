"""The plain model, for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from ropewalk.frequencies.base import FrequencyMethod
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class Plain(FrequencyMethod):
    """The pretrained frequencies, whatever the length."""

    name: ClassVar[str] = "none"

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return Frequencies(rope.inv_freq)

    def native(self, rope: RopeSpec, target: int) -> dict[str, Any]:
        return {"rope_type": "default"}
