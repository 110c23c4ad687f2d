"""Long-CLIP's stretch: well-trained rows stay, the others are spread out (arXiv 2403.15378)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder_method import RowMethod

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class KnowledgePreservingStretch(RowMethod):
    """Position j < keep reads row j; behind, rows stand (T - keep) / (L - keep) positions apart.

    What lies behind the last row is on the line through the last two, which makes 248 positions of CLIP's 77.

    Attributes:
        keep: rows that stay.
    """

    keep: int = 20
    name: ClassVar[str] = "stretch"

    def rows(self, window: int, to: int) -> Tensor:
        j = torch.arange(to, dtype=torch.float64)
        return j.where(j < self.keep, self.keep + (j - self.keep) * (window - self.keep) / (to - self.keep))

    def check(self, window: int, to: int) -> None:
        super().check(window, to)
        used = self.effective_window or window
        if not (isinstance(self.keep, int) and 0 <= self.keep < used):
            raise UserError(f"stretch: keep is {self.keep!r}, expected 0 to {used - 1}, below the rows that are used")
