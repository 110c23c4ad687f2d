"""The numbers among a method's options, searched on texts, for every method that says where to look (``tunable``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.fitting.evolution import evolution
from ropewalk.fitting.fitter import Found, Ground
from ropewalk.fitting.race import Search, followed
from ropewalk.fitting.scoring import require_causal
from ropewalk.fitting.searching import Searching
from ropewalk.methods.base import Method, require_beyond
from ropewalk.rope import config as rope_config

SPREAD = 0.2  # of the first draws, as a share of an option's range
GRID = 7  # values of a single option in the first round
DIGITS = 4  # of a value, so that people can write it


@dataclass(frozen=True)
class OptionValues(Searching):
    """Options that the user spelled out, at their defaults too, are the user's; of the others, those that are tunable.

    On a log scale, from the defaults: two and more by CMA-ES (arXiv 1604.00772), one by grids, each three times finer
    than the one before around its best value.

    Attributes:
        rounds: of the search.
    """

    rounds: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise UserError(f"rounds is {self.rounds}, expected at least 1")

    def search(self, method: Method, ground: Ground) -> Found:
        """The options that are better than the defaults; none, where the defaults are the best of what was tried."""
        require_beyond([method], ground.to, ground.window)
        require_causal([method])
        if method.length_dependent:
            raise UserError(
                f"{method.id} reads every length otherwise, so that the losses of one reading are not its own",
                f"Leave out what makes it so: --method {method.name}.",
            )
        space = Space.of(method, ground)
        if not space.bounds:
            raise UserError(
                f"{method.id} has nothing to fit: all of {', '.join(method.tunable)} are given",
                f"Leave one out: --method {method.name}.",
            )
        search = space.search(self.rounds, self.seed)
        found = self.found(ground, lambda _: search, 1 + self.rounds, [method], {method.id: method})
        front = [{**one, "options": space.searched(one["options"])} for one in found.seen["front"]]
        return replace(found, options=space.searched(found.options), seen=found.seen | {"front": front})


@dataclass(frozen=True)
class Space:
    """The methods that a method becomes by other values of some options: points of a cube.

    Attributes:
        method: at its defaults, but for what the user chose.
        bounds: option -> its least and its largest value, and whether it is whole.
        works: whether the model takes a method.
    """

    method: Method
    bounds: dict[str, tuple[float, float, bool]]
    works: Callable[[Method], bool] = lambda method: True

    @classmethod
    def of(cls, method: Method, ground: Ground, works: Callable[[Method], bool] | None = None) -> Space:
        """The space of a method on a model, for the ground's target."""
        rope = rope_config.full_attention(rope_config.starting_specs(ground.model.config))[0]
        if window := getattr(method, "effective_window", None):
            rope = replace(rope, window=window)
        bounds = {name: (*one.bounds(rope, ground.to), one.whole) for name, one in method.free.items()}
        return cls(method, bounds, works or (lambda made: goes_on(made, ground) is None))

    def searched(self, options: dict[str, Any]) -> dict[str, Any]:
        """Of some options, those that are searched here."""
        return {name: value for name, value in options.items() if name in self.bounds}

    def at(self, x: Iterable[float]) -> Method | None:
        """The method at a point, each coordinate from 0 to 1; None if there is none, or the model does not take it."""
        values: dict[str, float] = {}
        for (name, (low, high, whole)), place in zip(self.bounds.items(), x, strict=True):
            value = low * (high / low) ** min(max(float(place), 0.0), 1.0)
            values[name] = round(value) if whole else float(f"{value:.{DIGITS}g}")
        try:
            made = replace(self.method, **values)  # type: ignore[type-var]
        except UserError:
            return None
        return made if self.works(made) else None

    def start(self) -> list[float]:
        """Where the defaults are; an option's own rule is in the middle."""
        places = []
        for name, (low, high, _) in self.bounds.items():
            value = getattr(self.method, name)
            wide = value is not None and high > low
            places.append(min(max(math.log(value / low) / math.log(high / low), 0.0), 1.0) if wide else 0.5)
        return places

    def search(self, rounds: int, seed: int) -> Search:
        """The method as it is, and then others of the space."""
        yield [self.method]
        points: Generator[Sequence[Any], Sequence[float], None]
        if len(self.bounds) == 1:
            points = self._grids(rounds)
        else:
            cube = np.tile([0.0, 1.0], (len(self.bounds), 1))
            points = evolution(np.array(self.start()), SPREAD, rounds, seed, cube)
        yield from followed(points, self.at)

    def _grids(self, rounds: int) -> Generator[Sequence[Sequence[float]], Sequence[float], None]:
        step, center, known = 1 / (GRID - 1), 0.5, dict[float, float]()
        for i in range(rounds):
            places = [center + step * (j - GRID // 2) for j in range(GRID)]
            places = [place for place in places if -1e-9 < place < 1 + 1e-9 and (i == 0 or place != center)]
            known |= zip(places, (yield [[place] for place in places]), strict=True)
            center, step = min(known, key=known.__getitem__), step / 3


def goes_on(method: Method, ground: Ground) -> str | None:
    """Why the model does not take a method; None if it does."""
    try:
        with ground.with_method(method):
            return None
    except UserError as error:
        return error.message
