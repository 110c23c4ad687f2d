"""Recurrent positions: the table begins anew at its end (arXiv 2404.12096)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ropewalk.carriers.table_rows import recurrent
from ropewalk.encoders.encoder_method import RowMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RecurrentPositions(RowMethod):
    """Position j reads row j mod L, so that a text of L tokens is read as before, bit for bit, from a file too."""

    name: ClassVar[str] = "recurrent"

    def rows(self, window: int, to: int) -> Tensor:
        return recurrent(window, to)
