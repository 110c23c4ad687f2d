"""The genetic search of LongRoPE (arXiv 2402.13753) and of LongRoPE2 (2502.20082), by their papers' numbers."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

STEP = 100  # factors are hundredths
TRIES = 20  # at crossing two parents, before one of them is mutated instead


class Individual(NamedTuple):
    """Factors of which the first ``start`` follow from the one behind them: factors[start] ** (i / start)."""

    start: int
    factors: tuple[float, ...]


@dataclass(frozen=True)
class Genetic:
    """Factors that never fall with the dimension, in hundredths.

    Attributes:
        half: how many factors.
        low: the least of a searched one.
        high: the largest.
        starts: from which dimension on factors may be searched; (0,): all are.
        population: of the first round.
        mutations: children of one parent, in each other round.
        crossings: children of two.
        parents: the best so many have children.
        rounds: in all but the first.
        chance: of a factor to change.
        seed: of all draws.
    """

    half: int
    low: float
    high: float
    starts: Sequence[int] = (0,)
    population: int = 64
    mutations: int = 16
    crossings: int = 16
    parents: int = 32
    rounds: int = 40
    chance: float = 0.3
    seed: int = 0

    def search(self, seeds: Sequence[Individual]) -> Generator[list[Individual], Sequence[float], None]:
        """Yields individuals that were not yielded before, and is sent how good each is; lower is better."""
        draw = random.Random(self.seed)
        known: dict[Individual, float] = {}
        asked = list(dict.fromkeys(map(self.clipped, seeds)))
        first = asked[:]
        self._fill(asked, self.population, known, partial(self._mutated_one, first, draw))
        for _ in range(self.rounds):
            known |= zip(asked, (yield asked), strict=True)
            best, asked = sorted(known, key=known.__getitem__)[: self.parents], []
            mutated, crossed = partial(self._mutated_one, best, draw), partial(self._crossed_two, best, draw)
            self._fill(asked, self.mutations, known, mutated)
            self._fill(asked, self.mutations + self.crossings, known, crossed)
            if not asked:
                return
        yield asked

    def _fill(
        self, asked: list[Individual], count: int, known: Collection[Individual], made: Callable[[], Individual]
    ) -> None:
        """Up to ``count`` that are new; fewer where chance, tried often, brings none: a small space is soon known."""
        for _ in range(count * TRIES):
            if len(asked) >= count:
                return
            if (one := made()) not in known and one not in asked:
                asked.append(one)

    def _mutated_one(self, parents: Sequence[Individual], draw: random.Random) -> Individual:
        return self.mutated(draw.choice(parents), draw)

    def _crossed_two(self, parents: Sequence[Individual], draw: random.Random) -> Individual:
        return self.crossed(draw.choice(parents), draw.choice(parents), draw)

    def drawn(self, draw: random.Random) -> Individual:
        """One at random."""
        start = draw.choice(self.starts)
        rising = sorted(draw.uniform(self.low, self.high) for _ in range(self.half - start))
        return self.clipped(Individual(start, (1.0,) * start + tuple(rising)))

    def clipped(self, one: Individual) -> Individual:
        """The same, within bounds, in hundredths, and rising."""
        searched: list[float] = []
        for factor in one.factors[one.start :]:
            inside = round(min(max(factor, self.low), self.high) * STEP) / STEP
            searched.append(max([inside, *searched[-1:]]))
        derived = [searched[0] ** (i / one.start) for i in range(one.start)]
        return Individual(one.start, (*derived, *searched))

    def mutated(self, one: Individual, draw: random.Random) -> Individual:
        """Some factors anew, each between its neighbours; now and then, another start."""
        start = draw.choice(self.starts) if draw.random() < self.chance else one.start
        factors = [max(self.low, factor) for factor in one.factors]
        for i in range(start, self.half):
            if draw.random() < self.chance:
                below = factors[i - 1] if i > start else self.low
                above = factors[i + 1] if i + 1 < self.half else self.high
                factors[i] = draw.uniform(below, max(below, above))
        return self.clipped(Individual(start, tuple(factors)))

    def crossed(self, one: Individual, other: Individual, draw: random.Random) -> Individual:
        """Some factors of another parent, if what comes out rises; else the first parent mutated."""
        for _ in range(TRIES):
            pairs = zip(one.factors, other.factors, strict=True)
            mixed = [b if draw.random() < self.chance / 2 else a for a, b in pairs]
            searched = mixed[one.start :]
            if searched == sorted(searched):
                return self.clipped(Individual(one.start, tuple(mixed)))
        return self.mutated(one, draw)
