"""Entropy-aware ABF: a larger base, and queries scaled by the log of their position so that entropy stays level.

arXiv 2401.07004. The paper leaves the first two layers unscaled. The released code sets an attribute on these layers
that nothing reads, so that every layer is scaled in all models that were trained with it; so it is here. There L is
4,096, here the window of the model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.ntk import rebased
from ropewalk.methods.ranges import Range
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class EntropyABF(FrequencyMethod):
    """Logits of the query at position p are multiplied by max(1, ln(p + 1) / ln L).

    Attributes:
        base: the new rope_theta.
    """

    base: float = 500000.0

    name: ClassVar[str] = "entropy-abf"
    tunable: ClassVar[Mapping[str, Range]] = {
        "base": Range(1, 1000, of="base"),
    }
    axes: ClassVar[frozenset[str]] = frozenset({"frequencies", "temperature"})
    runtime: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_above(1, self, "base")

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return rebased(rope, self.base)

    def at(self, rope: RopeSpec, target: int) -> Frequencies:  # the base does not depend on the length of the moment
        return Frequencies(rebased(rope, self.base).inv_freq, rope.attention_factor)

    def temperature(self, rope: RopeSpec, positions: Tensor) -> Tensor:
        return ((positions + 1).float().log() / math.log(rope.window)).clamp_min(1.0)

    def why_not_saved(self) -> str:
        return "its logit scale depends on each query's position, and no configuration key says that"
