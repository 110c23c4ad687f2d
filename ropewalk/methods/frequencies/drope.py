"""DroPE: rotary positions are a scaffold of training, and dropped for good after it (arXiv 2512.12167)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class DroPE(FrequencyMethod):
    """No pair rotates any more: cos = 1 and sin = 0 at every position. Needs training, at the window of the model.

    What is left of positions is the causal mask, so that no length brings an angle that is new. Sliding-window layers
    of mixed models go on rotating, as under every method; the paper's models have none. Its norms on queries and keys,
    and its temperature at test time, are not here.
    """

    name: ClassVar[str] = "drope"

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return Frequencies(rope.inv_freq * 0.0)
