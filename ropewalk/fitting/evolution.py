"""CMA-ES (arXiv 1604.00772), by the package cmaes, as a search over points."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.extras import extra

Point = NDArray[np.float64]


def population(size: int) -> int:
    """How many points of a round, for so many coordinates: CMA-ES's own number."""
    return 4 + math.floor(3 * math.log(size))


def evolution(
    mean: Point, spread: float, rounds: int, seed: int, bounds: Point | None = None
) -> Generator[Sequence[Point], Sequence[float], None]:
    """Yields the points of a round, and is sent how good they are; lower is better.

    Args:
        mean: where it begins, [size].
        spread: standard deviation of the first draws, in every coordinate.
        rounds: at most.
        seed: of all draws.
        bounds: least and largest value of every coordinate, [size, 2].
    """
    cmaes, count = extra("cmaes", "searches by CMA-ES", "fit"), population(len(mean))
    strategy = cmaes.CMA(mean, spread, bounds=bounds, seed=seed, population_size=count)
    for _ in range(rounds):
        asked = [strategy.ask() for _ in range(count)]
        losses = yield asked
        strategy.tell(list(zip(asked, losses, strict=True)))
        if strategy.should_stop():
            return
