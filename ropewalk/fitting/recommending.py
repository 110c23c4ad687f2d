"""A race over the catalogue: methods at their defaults, then the options of the best, ending in one to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from ropewalk.checkpoint.write import extended_config
from ropewalk.common.errors import UserError
from ropewalk.common.naming import counted
from ropewalk.common.statistics import exp
from ropewalk.engines.handover import ENGINES, called, in_gguf
from ropewalk.fitting.entrants import Entrants, seed_for_factors
from ropewalk.fitting.fitter import Found, Ground, Halves, recorded
from ropewalk.fitting.option_values import Space
from ropewalk.fitting.race import GAIN, Race, Ran, Search, Standing, compared
from ropewalk.fitting.recommendation import Against, Family, How, Recommendation
from ropewalk.fitting.rope_factors import SEEDS, Spline, as_factors
from ropewalk.fitting.scoring import Scoring
from ropewalk.fitting.searching import TELLING, Searching, bounded, kept_there, saturated, short_others, told
from ropewalk.methods.base import Method, require_beyond
from ropewalk.methods.catalogue import options_of
from ropewalk.methods.fit_file import DOCUMENTS, SHORT_OTHERS, VERSUS
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.frequencies.none import Plain
from ropewalk.rope import config as rope_config

LEAST = 2  # texts of a race, and of the comparison
KNOTS = 6  # of the factors' spline
NEAREST = 4  # methods that may be the runner-up
ALIKE = 1e-4  # nats; a method's frequencies as factors read as it does, but for rounding


@dataclass(frozen=True)
class Recommending(Searching):
    """Which methods may be recommended, and how much is tried.

    Attributes:
        exportable: only those that a configuration says.
        engine: only what this one reads of a configuration: transformers, vllm, sglang or llama.cpp.
        families: so many of the best methods have their options searched.
        rounds: of each such search.
        factors: rounds of the search for LongRoPE's factors, where the limits allow it; 0: none.
    """

    exportable: bool = False
    engine: str = ""
    families: int = 3
    rounds: int = 4
    factors: int = 6

    @classmethod
    def read(cls, settings: str) -> Recommending:
        """From settings as a user writes them: ``exportable=true, tax=0.01, engine=vllm``.

        Raises:
            UserError: for unknown ones, and limits that contradict each other.
        """
        options = options_of(cls, "the fit of auto", settings)
        if engine := options.get("engine"):
            try:
                options["engine"] = called(engine)
            except UserError as error:
                raise UserError(error.message, f"Say --settings engine=... of {', '.join(ENGINES)}.") from None
            if options.get("exportable") is False:
                raise UserError(
                    f"engine={engine} and exportable=false contradict each other: engines read configurations alone",
                    "Leave one of them out; methods that need code are served by ropewalk serve.",
                )
        return cls(**options)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("families", 0), ("rounds", 1), ("factors", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}, expected at least {least}")

    def run(self, ground: Ground) -> Recommendation:
        """Race, compare, recommend.

        Raises:
            UserError: if texts are too short or too few, or nobody keeps the limits.
        """
        require_beyond(SEEDS, ground.to, ground.window)
        if ground.samples < LEAST:
            raise UserError(
                f"samples is {ground.samples}, expected {LEAST} or more: nobody can be dropped in a race over one text",
                f"Say --samples {LEAST}, or more.",
            )
        halves = ground.halves(ground.to)
        if min(len(halves.searched), len(halves.others)) < LEAST:
            raise UserError(
                f"the texts have {counted(len(halves.searched), 'piece')} of {ground.to:,} tokens to search on and "
                f"{len(halves.others)} to tell what was found by chance, copies not counted, expected at least {LEAST} "
                "of each",
                "Give more texts, --data, or a shorter target, --to.",
            )
        rope = rope_config.full_attention(rope_config.starting_specs(ground.model.config))[0]
        entrants = Entrants(ground, self.exportable, self.engine, self.by == "perplexity")
        methods, left_out = entrants.sorted_out(rope)
        scoring, checking = self._scoring(ground, halves.searched), self._scoring(ground, halves.others, "others")
        if len(scoring.rows) > LEAST:
            scoring = scoring.every_other()  # where methods are near to each other, the others tell how near
        spline = Spline(rope, rope.scale(ground.to), min(KNOTS, rope.rotary_dim // 2), None, self.factors, self.seed)
        tuned = sum(bool(method.tunable) for method in methods if not isinstance(method, LongRoPE))
        factors = self.factors and any(isinstance(method, LongRoPE) for method in methods)
        rounds = 1 + min(self.families, tuned) * (1 + self.rounds) + (1 + factors if factors else 0)

        def tell(done: int, ran: Ran, ahead: Standing | None) -> None:
            best = None if ahead is None else _first(ran, ahead)
            told(ground, rounds + 1, done, ran, best, "" if best is None else best.method.name)

        race = Race(scoring, Plain(), self.race, self.tax, ground.turn, tell)
        race.run(self._search(race, entrants, methods, spline))
        best = self._best(race)
        tell(rounds, race.ran, best)
        found = self._ending(race, best, checking, halves, left_out)
        tell(rounds + 1, race.ran, best)
        return found

    def _search(self, race: Race, entrants: Entrants, methods: list[Method], spline: Spline) -> Search:
        plain, ground = Plain(), entrants.ground
        defaults = [method for method in methods if not isinstance(method, LongRoPE)]
        costs = dict(zip([plain, *defaults], (yield [plain, *defaults]), strict=True))
        ceiling = [one.method.name for one in race.ran.values() if len(one.far) and one.loss < GAIN]
        if self.by == "needles" and (len(ceiling) > 1 or ceiling == [plain.name]):
            raise UserError(saturated(ceiling), TELLING)
        ranked = sorted(defaults, key=costs.__getitem__)
        for method in [one for one in ranked if one.tunable][: self.families]:
            space = Space.of(method, ground, lambda made: not entrants.refusal(made))
            yield from space.search(self.rounds, self.seed)
        if self.factors and len(defaults) < len(methods):
            whole = sorted((one for one in race.ran.values() if one.whole), key=lambda one: one.loss)
            config, to = ground.model.config, ground.to
            best = seed_for_factors([one.method for one in whole if one.method != plain], config, to)
            yield from spline.search([*(as_factors(seed, config, to) for seed in SEEDS), *best])

    def _best(self, race: Race) -> Standing:
        """The first of those that are, but for rounding, the best.

        Raises:
            UserError: if all but the plain model tax short texts too much.
        """
        others = [one for one in race.ran.values() if one.method != race.plain]
        if others and not any(len(one.far) for one in others):
            least = exp(min(one.tax(race.near) for one in others)) - 1
            raise UserError(
                f"no method reads short texts within {self.tax:.3%} of the plain model, the best {least:.3%} off",
                f"Say tax={math.ceil(least * 1000) / 1000}, or more.",
            )
        assert race.best is not None
        return _first(race.ran, race.best)

    def _ending(
        self,
        race: Race,
        best: Standing,
        checking: Scoring,
        halves: Halves,
        left_out: Mapping[str, str],
    ) -> Recommendation:
        ground, plain, documents = race.scoring.ground, Plain(), halves.documents
        families = _families(race, best)
        within = [  # the limits; who read no long text is over the tax
            method
            for method, family in families
            if family.times is not None and method.name not in (best.method.name, plain.name)
        ]
        near_it = within[:NEAREST]
        # some of them were dropped, and read no more than a text
        losses = {method.id: float(race.scoring.whole(method).mean()) for method in near_it}
        runners_up = sorted(near_it, key=lambda method: losses[method.id])[:1]
        short, several = short_others(best.method, checking, documents), len(set(documents))
        limit = None if self.tax is None else kept_there(self.tax, short, several)
        instead: list[Method] = []
        if limit == "over":
            keeps = (one for one in [*runners_up, *within] if self._keeps(one, checking, documents))
            instead = [one for one in [*islice(keeps, 1)] if one not in runners_up]
        against = [one for one in (*runners_up, *instead, plain) if one != best.method]
        rivals = [
            Against(
                one.id, compared(best.method, one, checking, documents), short_others(one, checking, documents), several
            )
            for one in against
        ]
        others = {one.id: compared(one, plain, checking, documents) for one in (best.method, *against) if one != plain}
        seen = {
            "candidates": len(race.ran),
            VERSUS: {one.method: bounded(one.times) for one in rivals},
            SHORT_OTHERS: {plain.id: bounded(short)},
            DOCUMENTS: several,
        }
        found = Found(best.method.changed(), race.scoring.rows, seen)
        fit = recorded(best.method, found, ground, self)
        return Recommendation(
            method=best.method.id,
            to=ground.to,
            model=fit.model,
            settings=fit.settings,
            rivals=rivals,
            short=short,
            limit=limit,
            families=[replace(family, other=others.get(family.method)) for _, family in families],
            left_out=dict(left_out),
            data={
                "source": ground.source,
                "searched": len(race.scoring.rows),
                "short": len(race.near),
                "compared": len(checking.rows),
                "documents": several,
                "copies": halves.copies,
                "too short": ground.too_short(ground.to),
            },
            candidates=len(race.ran),
            tokens=race.scoring.tokens + checking.tokens,
            how=self._how(ground, best.method),
            fit=fit if found.options else None,
        )

    def _keeps(self, method: Method, checking: Scoring, documents: Sequence[int]) -> bool:
        """Whether a method keeps the limit to the tax on other texts."""
        return self.tax is None or short_others(method, checking, documents).value <= 1 + self.tax

    def _how(self, ground: Ground, method: Method) -> How:
        """How a method is put to use."""
        if isinstance(method, Plain):
            return "nothing"
        try:
            config, parameters = extended_config(ground.model.config, method, ground.to)
        except UserError:
            return "serve"
        if self.engine == "llama.cpp" and in_gguf(config, parameters):
            return "gguf"
        return "export" if self.engine else "extend"


def _first(ran: Ran, best: Standing) -> Standing:
    """The first of those that are, but for rounding, the best."""
    return next(one for one in ran.values() if one.whole and one.loss <= best.loss + ALIKE)


def _families(race: Race, best: Standing) -> list[tuple[Method, Family]]:
    """The best candidate of every method, the best first; what reads as the best does is no other method."""
    found: dict[str, tuple[float, Method, Family]] = {}
    plain = race.ran[race.plain.id].far
    tried: dict[str, list[int]] = {}
    for one in race.ran.values():
        texts = race.texts(one)
        tried.setdefault(one.method.name, []).append(race.read(one))
        apart = one.far - best.far[: len(one.far)]
        if one is not best and len(apart) and float(np.abs(apart).max()) < ALIKE:
            continue
        cost = float(apart.mean()) if len(apart) else math.inf
        if one.method.name not in found or cost < found[one.method.name][0]:
            both = min(len(one.far), len(plain))
            family = Family(
                one.method.id,
                times=exp(cost) if len(apart) else None,
                texts=texts,
                plain=exp(float((one.far[:both] - plain[:both]).mean())) if both else None,
                short=None if one.near is None else exp(one.tax(race.near)),
            )
            found[one.method.name] = cost, one.method, family
    ranked = sorted(found.values(), key=lambda known: (-known[2].texts, known[0]))  # who read further was not dropped
    return [
        (method, replace(family, candidates=len(tried[method.name]), read=sum(tried[method.name])))
        for _, method, family in ranked
    ]
