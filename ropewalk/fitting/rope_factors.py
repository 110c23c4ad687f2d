"""One factor per rotated pair of dimensions, searched on texts, for ``longrope``."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.fitting.descent import BATCH, Descent
from ropewalk.fitting.evolution import evolution
from ropewalk.fitting.fitter import Found, Ground
from ropewalk.fitting.genetic import Genetic, Individual
from ropewalk.fitting.race import Search, followed
from ropewalk.fitting.scoring import Scoring
from ropewalk.fitting.searching import SHARES, Searching
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.frequencies.ntk import NTKAware
from ropewalk.methods.frequencies.pi import PositionInterpolation
from ropewalk.methods.frequencies.yarn import YaRN
from ropewalk.rope import config as rope_config
from ropewalk.rope.spec import RopeSpec

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SEEDS: tuple[FrequencyMethod, ...] = (PositionInterpolation(), NTKAware(), YaRN())
SPREAD = 0.1  # of the first draws, in log factors
COOLER = 0.3  # nats of the attention factor per unit of its coordinate: it matters more than a factor does
STEPS = 32
LIMITED_STEPS = 64  # where short texts matter, too: many a step is theirs, and short
FRONT_STEPS = 12  # below each limit to the tax
ROUNDS = 20
PAPER_ROUNDS = 40
FRONT_ROUNDS = 4  # below each limit to the tax
OF_SPACES = {"knots": ("spline",), "batch": ("descent",), "front": ("descent", "spline")}  # who has these settings
DRAWN = 8  # of LongRoPE2's first individuals, whose mutants are the others


@dataclass(frozen=True)
class RopeFactors(Searching):
    """Factors by one of four searches; all but the first find factors that never fall with the dimension.

    descent: from the best of PI, NTK and YaRN along gradients, the attention factor with them. spline: log factors are
    those of the best of the three, and what is piecewise linear in the log wavelength, which CMA-ES searches (arXiv
    1604.00772), and the attention factor with it. longrope: every factor, in hundredths from 1 to 1.25 s, by the
    genetic search of LongRoPE (2402.13753). longrope2: those of s to 2 s behind a critical dimension, which is searched
    as well, and what follows from them before it (2502.20082).

    Attributes:
        space: descent, spline, longrope or longrope2.
        knots: of the spline; no more than there are pairs of dimensions.
        rounds: of the search; 0: 32 steps of the descent, or 64 under a tax, 20 for the spline, the papers' 40 else.
        batch: texts that a step of the descent reads.
        front: whether descent and spline, where no tax is set, go on below two limits to it, in short searches: they
            make the front, and may find what is better on all texts.
    """

    space: Literal["descent", "spline", "longrope", "longrope2"] = "descent"
    knots: int = 6
    rounds: int = 0
    batch: int = BATCH
    front: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for one in fields(self):
            value = getattr(self, one.name)
            if not applies(one.name, {"space": self.space}) and value != one.default:
                raise UserError(
                    f"{one.name} is {value}, and space is {self.space}, which has none",
                    f"Leave out {one.name}, or say --settings space={OF_SPACES[one.name][0]}.",
                )
        for key, least in (("rounds", 0), ("batch", 1), ("knots", 2)):
            if getattr(self, key) < least:
                raise UserError(
                    f"{key} is {getattr(self, key)}, expected {least} or more", f"Say --settings {key}={least}."
                )

    def search(self, method: LongRoPE, ground: Ground) -> Found:
        """The factors; with descent and spline, also the attention factor, unless the user gave it."""
        rope = rope_config.full_attention(rope_config.starting_specs(ground.model.config))[0]
        s = rope.scale(ground.to)
        if s <= 1:
            raise UserError(
                f"a target of {ground.to:,} tokens is within the window of {rope.window:,}: nothing is to be found",
                f"Say --to {2 * rope.window}, or more.",
            )
        half = rope.rotary_dim // 2
        if half < 2:
            raise UserError(f"there is {half} pair of dimensions, expected 2 or more: nothing is to be found")
        t = method.attention_factor
        known = {seed.id: as_factors(seed, ground.model.config, ground.to, t) for seed in SEEDS}
        if self.space == "descent":
            found = self._descended(known, t is None, 1.25 * s, ground)
        elif self.space == "spline":
            made = Spline(rope, s, min(self.knots, half), t, self.rounds or ROUNDS, self.seed)
            further = min(FRONT_ROUNDS, made.rounds)
            rounds = 1 + made.rounds + self._widened * len(SHARES) * further
            search = made.search(list(known.values()))
            around = (lambda _, best, __: made.around(best, further)) if self._widened else None
            found = self.found(ground, lambda _: search, rounds, SEEDS, known, around)
        else:
            genetic = self.genetic(rope, s)
            firsts = self._firsts(genetic, known.values())
            known = {
                name: LongRoPE(genetic.clipped(first).factors, t)
                for name, first in zip(known, firsts, strict=False)
                if self.space == "longrope"
            }
            search = followed(genetic.search(firsts), lambda one: LongRoPE(one.factors, t))
            found = self.found(ground, lambda _: search, 1 + genetic.rounds, SEEDS, known)
        return replace(found, seen=found.seen | {"pairs": pairs(rope, ground.model.config, ground.to)})

    def _descended(self, known: Mapping[str, LongRoPE], cooler: bool, most: float, ground: Ground) -> Found:
        steps = self.rounds or (STEPS if self.tax is None else LIMITED_STEPS)
        further = min(FRONT_STEPS, steps)

        def descent(start: LongRoPE, tax: float | None, steps: int) -> Descent:
            return Descent(start, most, cooler, tax, steps, self.batch)

        def search(scoring: Scoring) -> Search:
            losses = yield list(known.values())
            first = descent(list(known.values())[int(np.argmin(losses))], self.tax, steps)
            first.check(scoring)
            yield from first.search(scoring)

        def around(scoring: Scoring, start: LongRoPE, tax: float) -> Search:
            return descent(start, tax, further).search(scoring)

        rounds = 2 + steps + self._widened * len(SHARES) * (1 + further)
        return self.found(ground, search, rounds, SEEDS, known, around if self._widened else None)

    @property
    def _widened(self) -> bool:
        """Whether candidates under lower limits to the tax are searched, too."""
        return self.front and self.tax is None

    def genetic(self, rope: RopeSpec, s: float) -> Genetic:
        """The papers' search."""
        half, rounds = rope.rotary_dim // 2, self.rounds or PAPER_ROUNDS
        if self.space == "longrope":
            return Genetic(half, 1.0, 1.25 * s, rounds=rounds, seed=self.seed)
        return Genetic(half, s, 2 * s, starts=critical_dimensions(rope), rounds=rounds, seed=self.seed)

    def _firsts(self, genetic: Genetic, seeds: Iterable[LongRoPE]) -> list[Individual]:
        if self.space == "longrope":
            return [Individual(0, seed.factors) for seed in seeds]
        draw = random.Random(f"first/{self.seed}")
        return [genetic.drawn(draw) for _ in range(DRAWN)]


def applies(setting: str, settings: Mapping[str, Any]) -> bool:
    """Whether a setting of a search says anything, beside the others."""
    space = settings.get("space")
    idle = (setting, settings.get(setting)) == ("rounds", 0) or (setting == "front" and settings.get("tax") is not None)
    return space in OF_SPACES.get(setting, (space,)) and not idle


def critical_dimensions(rope: RopeSpec) -> range:
    """Where LongRoPE2 looks for the critical dimension: from the pairs of ten turns in the window to those of one."""
    first, last = (
        math.ceil(rope.rotary_dim / 2 * math.log(rope.window / (2 * math.pi * turns)) / math.log(rope.base))
        for turns in (10, 1)
    )
    last = min(max(last, 1), rope.rotary_dim // 2 - 1)
    return range(min(max(first, 1), last), last + 1)


def as_factors(
    method: FrequencyMethod, config: PreTrainedConfig, to: int, attention_factor: float | None = None
) -> LongRoPE:
    """The same frequencies by factors, with a given attention factor or, None, the method's own.

    A method may start from another rope than LongRoPE does: YaRN raises the factor of one that was trained in.
    """
    rope = rope_config.full_attention(rope_config.starting_specs(config))[0]
    found = next(iter(method.plan(config, to).values()))
    own = found.attention_factor / rope.attention_factor
    factors = tuple((rope.inv_freq / found.inv_freq).double().tolist())
    return LongRoPE(factors, own if attention_factor is None else attention_factor)


def pairs(rope: RopeSpec, config: PreTrainedConfig, to: int) -> list[dict[str, float]]:
    """Of every rotated pair of dimensions, its wavelength in tokens and the factors of PI, NTK and YaRN."""
    columns = {"wavelength": list(rope.wavelengths)}
    columns |= {seed.id: list(as_factors(seed, config, to).factors) for seed in SEEDS}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass(frozen=True)
class Spline:
    """A seed's log factors and what is piecewise linear in the log wavelength, which CMA-ES searches.

    Attributes:
        rope: whose wavelengths.
        s: target over window; no factor is above 1.25 s.
        knots: evenly over the log wavelengths.
        attention_factor: the given one; None: it is searched as well.
        rounds: of CMA-ES.
        seed: of all draws.
    """

    rope: RopeSpec
    s: float
    knots: int
    attention_factor: float | None
    rounds: int
    seed: int

    @property
    def size(self) -> int:
        """Coordinates."""
        return self.knots + (self.attention_factor is None)

    def method(self, seed: LongRoPE, x: NDArray[np.float64]) -> LongRoPE:
        """What is ``x`` from a seed, in nats, at every knot, and in its attention factor; made to rise."""
        bend = np.interp(self._wavelengths(), np.linspace(0, 1, self.knots), x[: self.knots])
        logs = np.clip(np.log(seed.factors) + bend, 0, math.log(1.25 * self.s))
        t = seed.attention_factor
        if self.attention_factor is None:
            assert t is not None
            t *= math.exp(COOLER * x[-1])
        return LongRoPE(tuple(np.exp(np.maximum.accumulate(logs)).tolist()), t)

    def _wavelengths(self) -> NDArray[np.float64]:
        """Log wavelengths of the plain rope, from 0 to 1."""
        logs = -self.rope.base_inv_freq.log().numpy()
        found: NDArray[np.float64] = (logs - logs[0]) / (logs[-1] - logs[0])
        return found

    def search(self, seeds: Sequence[LongRoPE]) -> Search:
        """From the best seed; every seed is a candidate as it is."""
        losses = yield list(seeds)
        yield from self.around(seeds[int(np.argmin(losses))], self.rounds)

    def around(self, best: LongRoPE, rounds: int) -> Search:
        """From any candidate."""
        points = evolution(np.zeros(self.size), SPREAD, rounds, self.seed)
        return followed(points, lambda x: self.method(best, x))
