"""Pairs of answers: which of them every step is of, a function of seed and step alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ropewalk.data.arrangement import Ints
from ropewalk.data.pairs import CHOSEN, CHOSEN_SHORT, REJECTED, REJECTED_SHORT, ROWS, Pairs
from ropewalk.training.arranged_sampler import ArrangedSampler
from ropewalk.training.training_batch import Row


@dataclass(frozen=True, eq=False)
class PairSampler(ArrangedSampler):
    """Pairs of a folder, an epoch after the other, each in an order of its own; a sample is two rows.

    They are the chosen answer and the rejected one, both behind the whole text.
    """

    @cached_property
    def pairs(self) -> Pairs:
        """All of them, looked at.

        Raises:
            UserError: if rows are none.
        """
        return Pairs(self.arranged)

    @property
    def filled(self) -> float:
        """How much of the rows that are trained on is no padding, 0 to 1."""
        return float(self.pairs.sizes[:, [CHOSEN, REJECTED]].mean()) / self.window

    @property
    def short(self) -> int:
        """Tokens of the longest row of evidence and answer."""
        return int(self.pairs.sizes[:, [CHOSEN_SHORT, REJECTED_SHORT]].max())

    def numbers(self, first: int, count: int) -> list[int]:
        """Which pairs a step is of, by the number of its first one over the whole run, and their count."""
        places = (divmod(k, len(self.pairs)) for k in range(first, first + count))
        return [int(self._pairs_in_order(epoch)[place]) for epoch, place in places]

    def rows(self, step: int, first: int, count: int, mine: slice = slice(None)) -> Iterator[Row]:
        """Rows of one step: of each pair the chosen answer, then the rejected one.

        Args:
            step: not used: pairs are numbered over the whole run.
            first: the number of its first pair.
            count: its pairs, over all processes.
            mine: those of this process.
        """
        for number in self.numbers(first, count)[mine]:
            yield from self._both(number, CHOSEN, REJECTED)

    def evidence(self, number: int) -> list[Row]:
        """Both answers of a pair behind the evidence alone."""
        return list(self._both(number, CHOSEN_SHORT, REJECTED_SHORT))

    def _both(self, number: int, *places: int) -> Iterator[Row]:
        yield from (Row(*self.arranged.row(ROWS * number + place)) for place in places)

    @lru_cache(maxsize=2)  # noqa: B019  (one object lives as long as a stage)
    def _pairs_in_order(self, epoch: int) -> Ints:
        return np.random.default_rng([self.seed, 4, epoch]).permutation(len(self.pairs))
