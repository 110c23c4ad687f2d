"""Position Interpolation of a learned table: its rows are spread out, with mixtures between (arXiv 2404.12096)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ropewalk.carriers.table_rows import interpolated
from ropewalk.encoders.encoder_method import RowMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TableInterpolation(RowMethod):
    """Position j reads row j / s, s = T / L; behind the last row, which comes early, the last one again."""

    name: ClassVar[str] = "pi"

    def rows(self, window: int, to: int) -> Tensor:
        return interpolated(window, to)
