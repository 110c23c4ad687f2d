"""CoPE, clipped RoPE: pairs that never finish a turn in training fade to no rotation (arXiv 2602.05258)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.ranges import Range
from ropewalk.rope.spec import Frequencies, RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class CoPE(FrequencyMethod):
    """The last n pairs that rotate are multiplied by (1 + cos(theta)) / 2, theta evenly spaced from 0 to pi.

    The first of them stays as it is and the last does not rotate any more; a hard cut in their place would ring. The
    target does not enter: no new angle appears at any length, and far tokens are told apart by fast pairs alone. The
    authors train with it; without training it is a claim of ports.

    Attributes:
        n: pairs that fade, 2 at least; None means those whose period exceeds the window (the authors take 20 of 64 for
            Llama 3, of which this rule finds 29).
    """

    n: int | None = None

    name: ClassVar[str] = "cope"
    tunable: ClassVar[Mapping[str, Range]] = {
        "n": Range(0.25, 1, of="pairs", whole=True),
    }

    def __post_init__(self) -> None:
        require_above(1, self, "n")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        return (cls(n=4),)

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        rotating = int((rope.inv_freq > 0).sum())  # they come first; the others stand still in a proportional rope
        n = sum(turns < 1 for turns in rope.turns[:rotating]) if self.n is None else self.n
        if not 2 <= n <= rotating:
            said = "pairs with a period beyond the window" if self.n is None else "given as n"
            raise UserError(
                f"{self.name}: {n} {said}, expected 2 to the {rotating} pairs that rotate; nothing would fade",
                "Choose another method: ropewalk methods." if self.n is None else f"cope(n={rotating // 3})",
            )
        w = rope.inv_freq.clone()
        fade = (1 + torch.linspace(0, math.pi, n, dtype=torch.float64).cos()) / 2
        w[rotating - n : rotating] *= fade
        w[rotating - 1] = 0.0  # cos(pi) is not -1 to the last bit
        return Frequencies(w)
