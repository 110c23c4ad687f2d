"""A longer table of positions out of the rows of a shorter one: which row each position reads (arXiv 2404.12096)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def interpolated(window: int, to: int) -> Tensor:
    """Position j reads row j / s, s = T / L; behind the last row, which comes early, the last again: float64 [T]."""
    return (torch.arange(to, dtype=torch.float64) * window / to).clamp(max=window - 1)


def grouped(window: int, to: int) -> Tensor:
    """Position j reads row floor(j L / T): float64 [T]."""
    return (torch.arange(to) * window // to).double()


def recurrent(window: int, to: int) -> Tensor:
    """Position j reads row j mod L: float64 [T]."""
    return (torch.arange(to) % window).double()


def between_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Rows of a table, and what lies between two of them or behind the last on the line through the last two.

    Args:
        table: [L, h], L >= 2.
        rows: float64 [T], 0 or more.

    Returns:
        [T, h].
    """
    low = rows.floor().clamp(max=len(table) - 2)
    part = (rows - low)[:, None].to(table.device)
    lower, upper = table[low.long()], table[low.long() + 1]
    mixed = (lower.double() * (1 - part) + upper.double() * part).to(table.dtype)
    return mixed.where(part != 0, lower).where(part != 1, upper)
