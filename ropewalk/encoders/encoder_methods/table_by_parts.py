"""NTK-by-parts of a learned table: what turns often along the positions keeps its pace, what turns slowly is spread.

The idea is that of ropes (section 3.2 of arXiv 2309.00071); its form for tables is ropewalk's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder_method import TableMethod, between_rows
from ropewalk.encoders.encoder_methods.recurrent_positions import RecurrentPositions
from ropewalk.encoders.encoder_methods.table_interpolation import TableInterpolation

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TableByParts(TableMethod):
    """p(j) = slow(j / s) + fast(j mod L), s = T / L; slow and fast are parts of the table, and add up to it.

    Of cosines with a crest half a row before the first and whole half turns inside L it is NTK-by-parts of their
    frequencies, between the two bounds a mixture of both waves; fast ones jump where the table is read again, unless
    they have whole turns. Other waves are in both parts: a sine of 16 turns is off by 0.015 on average, by up to a half
    at the ends. With all of the table in the fast part it is recurrent positions, with all of it in the slow one PI.

    Attributes:
        low: waves with fewer turns inside L are slow.
        high: waves with more turns are fast; between the two, shares in proportion.
    """

    low: float = 1.0
    high: float = 32.0

    name: ClassVar[str] = "ntk-by-parts"

    def table(self, pretrained: Tensor, to: int) -> Tensor:
        rows = pretrained[: self.effective_window]
        again = RecurrentPositions().rows(len(rows), to).long()
        slow = self.slow(rows.double())
        moved = between_rows(slow, TableInterpolation().rows(len(rows), to)) - slow[again]
        return (rows[again].double() + moved).to(rows.dtype)

    def slow(self, rows: Tensor) -> Tensor:
        """The slow part of a table, float64 [L, h]; it is mirrored at its end, where a wave would find a step.

        Args:
            rows: float64 [L, h].
        """
        waves = torch.fft.rfft(torch.cat([rows, rows.flip(0)]), dim=0)
        turns = torch.arange(len(waves), dtype=torch.float64) / 2
        fast = ((turns - self.low) / (self.high - self.low)).clamp(0, 1)
        return torch.fft.irfft(waves * (1 - fast)[:, None], n=2 * len(rows), dim=0)[: len(rows)]

    def check(self, window: int, to: int) -> None:
        super().check(window, to)
        numbers = all(isinstance(one, (int, float)) for one in (self.low, self.high))
        if not (numbers and 0 <= self.low < self.high):
            raise UserError(
                f"{self.name}: low is {self.low!r}, high is {self.high!r}, expected 0 <= low < high, in turns"
            )
