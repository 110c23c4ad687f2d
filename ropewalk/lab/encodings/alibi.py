"""ALiBi: logits fall in a line with the distance, each head by its own slope (arXiv 2108.12409).

Beyond the window slopes are divided: all by s = T / L (arXiv 2310.13017), or the flattest one alone by all of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ropewalk.carriers import slopes as carriers
from ropewalk.lab.encoding import Additive, by_head

FORMS: dict[str, carriers.Form] = {"pi": "linear", "ntk": "ntk", "geometric": "geometric"}


class ALiBi(Additive):
    """-m_h times the distance."""

    ways = tuple(FORMS)

    def slopes(self) -> Tensor:
        """m_h as they are read, float64 [H]."""
        return stretched(slopes(self.shape.heads), max(1.0, self.reach / self.shape.window), self.way)

    def added(self, distance: Tensor, *weights: Tensor) -> Tensor:
        return -by_head(self.slopes().to(distance.device), distance) * distance


def slopes(heads: int) -> Tensor:
    """Of each head, float64 [H]."""
    return torch.tensor(carriers.slopes(heads), dtype=torch.float64)


def stretched(slopes: Tensor, s: float, way: str) -> Tensor:
    """Slopes for texts ``s`` times as long.

    Args:
        slopes: [H].
        s: T / L, 1 at least.
        way: of ``ALiBi.ways``, or "".
    """
    if not way:
        return slopes
    return slopes / torch.tensor(carriers.divisors(len(slopes), s, FORMS[way]), dtype=torch.float64)
