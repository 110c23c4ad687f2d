"""Dynamic NTK: the NTK-aware base of the length of the moment, so that short inputs stay exact.

Posts by emozilla; section 3.3 of arXiv 2309.00071. Keys are cached unrotated, so a query meets all in its own base.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.abf import AdjustedBase
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.ntk import ntk_base, rebased
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class DynamicNTK(FrequencyMethod):
    """alpha(n) = n / L in the paper's form, factor * n / L - (factor - 1) in transformers'; 1 inside the window.

    The length n is that of the longest row of a batch. Saving freezes the base at the target length.

    Attributes:
        form: "paper" or "hf".
        factor: transformers' factor; not an extension ratio. Unused in the paper's form.
    """

    form: Literal["paper", "hf"] = "paper"
    factor: float = 2.0

    name: ClassVar[str] = "dynamic-ntk"
    runtime: ClassVar[bool] = True
    length_dependent: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_above(0, self, "factor")

    def base(self, rope: RopeSpec, length: int) -> float:
        growth = rope.scale(length)
        alpha = growth if self.form == "paper" else self.factor * growth - (self.factor - 1)
        return ntk_base(rope.base, rope.rotary_dim, alpha)

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        return rebased(rope, self.base(rope, target))

    def frozen(self, rope: RopeSpec, target: int) -> FrequencyMethod:
        return AdjustedBase(base=self.base(rope, target))
