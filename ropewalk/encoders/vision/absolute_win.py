"""Absolute win: positions within a window of attention are tiled, and only the background is resized (2311.05613).

A table that was learnt beside window attention repeats with the window; resized as a whole, its pattern no longer fits
the windows, which stay as large as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from ropewalk.common.errors import UserError


@dataclass(frozen=True, eq=False)
class WindowedTable:
    """A table of positions in an image, in the two parts that SAM 2's Hiera has.

    Attributes:
        background: [C, g, g'], resized to the image.
        window: [C, w, w'], tiled over it.
    """

    background: Tensor
    window: Tensor

    def at(self, height: int, width: int) -> Tensor:
        """[C, height, width]: positions of an image of so many patches; windows that do not fit in whole are cut."""
        resized = F.interpolate(self.background[None], size=(height, width), mode="bicubic")[0]
        down, right = (-(-size // one) for size, one in zip((height, width), self.window.shape[1:], strict=True))
        return resized + self.window.tile(1, down, right)[:, :height, :width]

    @classmethod
    def of(cls, table: Tensor, height: int, width: int) -> WindowedTable:
        """The parts of a table that was learnt as a whole: an approximation, short of training both.

        The window is the mean over all windows, the background what is left. At its own size it is the table, to
        rounding. What the background does within every window alike is taken for the window's, so that at other sizes
        it is right only as far as the background is even; ``repeats`` tells whether there is a pattern at all.

        Args:
            table: [C, H, W].
            height: of a window, in patches; divides H.
            width: of a window; divides W.

        Raises:
            UserError: if windows do not fit into the table in whole, or there is one only.
        """
        windows = _windows(table, height, width)
        background = table.mean((1, 2), keepdim=True)
        window = windows.mean((1, 3)) - background
        rest = table - window.tile(1, windows.shape[1], windows.shape[3])
        return cls(rest, window)


def repeats(table: Tensor, height: int, width: int) -> float:
    """Share of a table's variance that repeats with the window: 1 for a tiled one, 1 / windows by chance.

    Args:
        table: [C, H, W].
        height: of a window, in patches; divides H.
        width: of a window; divides W.

    Raises:
        UserError: as ``WindowedTable.of``; or if the table is the same everywhere.
    """
    centred = table - table.mean((1, 2), keepdim=True)
    whole = float(centred.square().mean())
    if not whole > 0:
        raise UserError("the table is the same everywhere, so that nothing of it repeats")
    return float(_windows(centred, height, width).mean((1, 3)).square().mean()) / whole


def _windows(table: Tensor, height: int, width: int) -> Tensor:
    """[C, H / height, height, W / width, width]."""
    _, rows, columns = table.shape
    if rows % height or columns % width or rows * columns == height * width:
        raise UserError(
            f"windows of {height} x {width} patches do not tile a table of {rows} x {columns}, expected several",
            "Name the size of the windows that the first layers attend in.",
        )
    return table.unflatten(2, (-1, width)).unflatten(1, (-1, height))
