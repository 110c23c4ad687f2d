"""A generator that draws what a test says, and keeps between which bounds it was asked."""

from __future__ import annotations

import numpy as np


class Scripted:
    """Stands for ``np.random.Generator``; bounds are (lowest, highest) or, of ``choice``, (range, how many)."""

    def __init__(self, *draws):
        self.draws, self.bounds = list(draws), []

    def integers(self, low, high, endpoint):
        drawn = self.draws.pop(0)
        assert endpoint and low <= drawn <= high, (low, drawn, high)
        self.bounds.append((low, high))
        return drawn

    def random(self):
        return self.draws.pop(0)

    def choice(self, of, n, replace, shuffle):
        drawn = np.array(self.draws.pop(0))
        assert not replace and len(set(drawn.tolist())) == n and 0 <= drawn.min() <= drawn.max() < of
        self.bounds.append((of, n))
        return drawn
