"""Grouped positions: neighbours share a row of the table (arXiv 2404.12096)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ropewalk.carriers.table_rows import grouped
from ropewalk.encoders.encoder_method import RowMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GroupedPositions(RowMethod):
    """Position j reads row floor(j L / T)."""

    name: ClassVar[str] = "grouped"

    def rows(self, window: int, to: int) -> Tensor:
        return grouped(window, to)
