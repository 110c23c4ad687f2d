"""ALiBi: logits fall in a line with the distance, each head by its own slope (arXiv 2108.12409).

Beyond the window slopes are divided: all by s = T / L (arXiv 2310.13017), or the flattest one alone by all of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ropewalk.lab.encoding import Additive, by_head


class ALiBi(Additive):
    """-m_h times the distance."""

    ways = ("pi", "ntk", "geometric")

    def slopes(self) -> Tensor:
        """m_h as they are read, float64 [H]."""
        return stretched(slopes(self.shape.heads), max(1.0, self.reach / self.shape.window), self.way)

    def added(self, distance: Tensor, *weights: Tensor) -> Tensor:
        return -by_head(self.slopes().to(distance.device), distance) * distance


def slopes(heads: int) -> Tensor:
    """2^(-8h/H), float64 [H]; where H is no power of two, those of the power below, and every second one between."""
    power = 2 ** int(math.log2(heads))
    steps = [*range(1, power + 1), *(h / 2 for h in range(1, 2 * (heads - power), 2))]
    return 2.0 ** (-8 * torch.tensor(steps, dtype=torch.float64) / power)


def stretched(slopes: Tensor, s: float, way: str) -> Tensor:
    """Slopes for texts ``s`` times as long.

    Args:
        slopes: [H].
        s: T / L, 1 at least.
        way: "pi", "ntk" (the steepest stays, the flattest is divided by s), "geometric" (8 + log2(s) for 8), or "".
    """
    steps = -slopes.log2() / 8  # h / H, where H is a power of two
    spread = (steps - steps.min()) / (steps.max() - steps.min()).clamp_min(1e-9)
    return slopes / s ** {"": 0 * steps, "pi": steps**0, "ntk": spread, "geometric": steps}[way]
