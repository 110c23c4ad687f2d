"""The floor of FoPE: pairs that make no turn in the window do not rotate (arXiv 2412.17739)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from ropewalk.common.errors import UserError
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope.spec import Frequencies, RopeSpec


@dataclass(frozen=True)
class FourierFloor(FrequencyMethod):
    """w_i is 0 where it is below 2 pi / L, and stays as it is elsewhere; the target does not enter.

    It is what of FoPE a pretrained model can take. The random Fourier series by which its other pairs turn are a choice
    of pretraining: decoders of the lab have them.
    """

    name: ClassVar[str] = "fope"

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        turns = torch.tensor(rope.turns, dtype=torch.float64)
        if not bool(((turns < 1) & (rope.inv_freq > 0)).any()):
            raise UserError(
                f"{self.name}: every pair that rotates makes a turn in the window of {rope.window:,} tokens; none is "
                "below the floor",
                "Choose another method: ropewalk methods.",
            )
        return Frequencies(torch.where(turns < 1, 0.0, rope.inv_freq))
