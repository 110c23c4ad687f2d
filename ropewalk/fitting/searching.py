"""A search from its texts to what it found: who raced, what it cost, and how it holds on texts that nobody searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.common.naming import counted
from ropewalk.common.statistics import Mean, exp
from ropewalk.fitting.fitter import Found, Ground, Halves
from ropewalk.fitting.race import GAIN, Race, Ran, Search, Standing, compared, over_documents, perplexity
from ropewalk.fitting.scoring import Scoring, require_causal
from ropewalk.methods.fit_file import DOCUMENTS, LIMIT, SHORT_OTHERS, VERSUS, Limit
from ropewalk.methods.frequencies.none import Plain

if TYPE_CHECKING:
    from ropewalk.methods.base import Method


SEEDS = 2**32
TELLING = "Search by perplexity, without by=needles, or to a longer target: --to."
SHARES = (2 / 3, 1 / 3)  # of the best candidate's tax, as limits
# What a search has seen, by the words that a terminal shows.
TOKENS = "tokens of all candidates"
SHARE = "as a share of their reading all texts"
GRADIENTS = "of them for gradients"
FOR_THE_FRONT = "of them in searches for a front"
LONG = {"perplexity": "perplexity of far tokens", "needles": "perplexity of answers"}
SHORT = "perplexity of short texts, times the plain model's"
OTHER_TEXTS = "other texts"
COPIES = "copies that were not read"
TOO_SHORT = "documents too short to be read"


@dataclass(frozen=True)
class Searching:
    """What all searches have in common.

    Attributes:
        by: perplexity, of the second half of the texts; or needles, planted near their start: only the answers count.
        race: whether candidates that surely lose are dropped after a text; else every one reads all of them.
        tax: how much worse texts within the window may be read, 0.01: by a hundredth of their perplexity; None: it
            does not matter.
        seed: of all draws.
    """

    by: Literal["perplexity", "needles"] = "perplexity"
    race: bool = True
    tax: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.by not in LONG:
            raise UserError(f"by is {self.by!r}, expected {' or '.join(LONG)}", "Say --settings by=needles.")
        if self.tax is not None and not self.tax >= 0:
            raise UserError(f"tax is {self.tax}, expected a share of 0 or more", "Say --settings tax=0.01.")
        if not 0 <= self.seed < SEEDS:
            raise UserError(f"seed is {self.seed}, expected 0 to {SEEDS - 1:,}", "Say --seed 1.")

    def found(
        self,
        ground: Ground,
        search: Callable[[Scoring], Search],
        rounds: int,
        rivals: Sequence[Method],
        known: Mapping[str, Method] | None = None,
        cheaper: Callable[[Scoring, Any, float], Search] | None = None,
    ) -> Found:
        """Follow a search.

        Args:
            ground: model and texts.
            search: what yields candidates, which are scored so.
            rounds: of them, at most.
            rivals: whom the best is compared with, on other texts than those it was found on.
            known: candidates that are methods people know, by their ids: the page names them.
            cheaper: a short search around a candidate under a limit to the tax, for a front: a race for long texts
                alone drops those that cost short ones less. What it finds may be better on all texts, and is then the
                best.

        Raises:
            UserError: if texts are too short, or no candidate keeps the tax.
        """
        halves = ground.halves(ground.to)
        require_causal([*rivals, *ground.others])
        scoring, checking = self._scoring(ground, halves.searched), self._scoring(ground, halves.others, "others")

        race = Race(scoring, Plain(), self.race, self.tax, ground.turn, partial(told, ground, rounds + 1))
        if self.by == "needles":
            self._refuse_saturated(race, {race.plain.id: race.plain, **(known or {one.id: one for one in rivals})})
        race.run(search(scoring))
        best = race.best
        if best is None:
            least = exp(race.least_tax) - 1
            raise UserError(
                f"no candidate reads short texts within {self.tax:.3%} of the plain model, the best {least:.3%} off",
                f"Say --settings tax={math.ceil(least * 1000) / 1000}, or more.",
            )
        spent = {}
        if cheaper is not None:
            before = race.scoring.tokens
            self._widen(race, best, cheaper)
            best, spent = race.front()[-1], {FOR_THE_FRONT: race.scoring.tokens - before}
        told(ground, rounds + 1, rounds, race.ran, best)  # it may have ended early; the comparison is yet to come
        seen = self._seen(race, best, rivals, checking, halves, known or {}, spent)
        told(ground, rounds + 1, rounds + 1, race.ran, best)
        return Found(options_of(best), halves.searched, seen)

    def _refuse_saturated(self, race: Race, ready: Mapping[str, Method]) -> None:
        """Refuse to search where a method that needs no search, by its name, leaves nothing to find.

        Raises:
            UserError: if one that keeps the tax answers every text as well as can be told.
        """
        for name, method in ready.items():
            kept = self.tax is None or np.mean(race.scoring.near(method) - race.near) <= math.log1p(self.tax)
            answered = (race.scoring.far(method, row).mean() < GAIN for row in range(len(race.scoring.rows)))
            if kept and all(answered):
                raise UserError(saturated([name]), TELLING)

    def _widen(self, race: Race, best: Standing, cheaper: Callable[[Scoring, Any, float], Search]) -> None:
        """Candidates for a front, under shares of the best one's tax."""

        def better(other: Standing | None) -> Standing | None:
            return min(filter(None, (race.best, other)), key=lambda one: one.loss)

        def tell(rounds: int, ran: Ran, ahead: Standing | None) -> None:
            race.tell(race.rounds + rounds, race.ran | ran, better(ahead))

        for share in SHARES if best.tax(race.near) > 0 else ():
            limit = math.expm1(share * best.tax(race.near))
            below = Race(race.scoring, race.plain, self.race, limit, race.turn, tell)
            below.run(cheaper(race.scoring, best.method, limit))
            race.ran |= {name: one for name, one in below.ran.items() if one.whole or name not in race.ran}
            race.rounds, race.best = race.rounds + below.rounds, better(below.best)

    def _scoring(self, ground: Ground, texts: Any, which: str = "searched") -> Scoring:
        if self.by == "needles" and len(texts):
            return Scoring.of_needles(ground, texts, f"{which}/{self.seed}")
        return Scoring.of_texts(ground, texts)

    def _seen(
        self,
        race: Race,
        best: Standing,
        rivals: Sequence[Method],
        checking: Scoring,
        halves: Halves,
        known: Mapping[str, Method],
        spent: Mapping[str, int],
    ) -> dict[str, Any]:
        tokens = race.scoring.tokens - race.near.size * race.scoring.ground.window  # before the page reads more
        course = _course(race, best, {method.id: name for name, method in known.items()})
        texts, length = race.scoring.rows.shape
        whole = len(race.ran) * texts * (length + race.scoring.ground.window)
        share = {GRADIENTS: race.scoring.of_gradients} if race.scoring.back else {SHARE: tokens / whole}
        front = [
            {"options": options_of(one), "perplexity": perplexity(one), "tax": exp(one.tax(race.near))}
            for one in race.front()
        ]
        seen: dict[str, Any] = {
            "window": race.scoring.ground.window,
            "candidates": len(race.ran),
            "of them dropped early": sum(not standing.whole for standing in race.ran.values()),
            TOKENS: tokens,
            **share,
            **spent,
            LONG[self.by]: perplexity(best),
            SHORT: exp(best.tax(race.near)),
        }
        left_out = {COPIES: halves.copies, TOO_SHORT: race.scoring.ground.too_short(race.scoring.ground.to)}
        seen |= {what: count for what, count in left_out.items() if count}
        if len(checking.rows):
            documents = halves.documents
            versus = {rival.id: compared(best.method, rival, checking, documents) for rival in rivals}
            seen[VERSUS] = {name: bounded(one) for name, one in versus.items()}
            short = short_others(best.method, checking, documents)
            seen[SHORT_OTHERS] = {race.plain.id: bounded(short)}
            seen[OTHER_TEXTS] = len(checking.rows)
            seen[DOCUMENTS] = len(set(documents))
            if self.tax is not None:
                seen[LIMIT] = kept_there(self.tax, short, len(set(documents)))
                for one, shown in zip(reversed(race.front()), reversed(front), strict=True):
                    shown["other"] = other = short_others(one.method, checking, documents).value
                    if other <= 1 + self.tax:
                        break
        return seen | {"front": front, "course": course}


def short_others(method: Method, checking: Scoring, documents: Sequence[int]) -> Mean:
    """How many times the plain model's perplexity a method has on short texts that nobody searched on."""
    return over_documents(checking.near(method) - checking.near(Plain()), documents)


def kept_there(tax: float, short: Mean, documents: int) -> Limit:
    """Whether a limit to the tax is kept on other texts than those of the search.

    Args:
        tax: the limit.
        short: how many times the plain model's perplexity short texts have there.
        documents: that these are of; pieces of one make nothing sure, but where nothing changes at all.
    """
    if short.value > 1 + tax:
        return "over"
    sure = short.high is not None and short.high <= 1 + tax and (documents > 1 or short.low == short.high)
    return "kept" if sure else "not surely kept"


def saturated(names: Sequence[str]) -> str:
    """Words for methods whose answers leave nothing to tell them apart by."""
    who = ", ".join("the plain model" if name == "none" else name for name in names)
    return (
        f"needles cannot tell candidates apart: {who} answer{'s' * (len(names) == 1)} every one, with a perplexity "
        f"below {1 + GAIN:g}, so that nothing can be seen to be better"
    )


def told(ground: Ground, rounds: int, done: int, ran: Ran, best: Standing | None, name: str = "") -> None:
    """Tell how far a search is.

    The first round, from scratch and often of all there is to begin with, tells nothing of how long the others take.
    """
    words = counted(len(ran), "candidate")
    words += "" if best is None else f", best {name}{' ' * bool(name)}{perplexity(best):.4g}"
    ground.progress(*((done, rounds) if done else (len(ran), 0)), words)


def bounded(one: Mean) -> dict[str, Any]:
    return {"value": one.value, "low": one.low, "high": one.high, "n": one.n}


def _course(race: Race, best: Standing, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every candidate in its turn: how many texts it read, and how well; of one that is known by name, also its tax.

    The perplexity of one that was dropped is the best one's, times the ratio of both on what it read.
    """
    found = []
    for standing in race.ran.values():
        one: dict[str, Any] = {"texts": race.texts(standing)}
        if len(standing.far):
            apart = float(np.mean(standing.far - best.far[: len(standing.far)]))
            one["perplexity"] = exp(best.loss + apart)
        near = standing.near
        if standing.method.id in names:
            one["name"] = names[standing.method.id]
            near = race.scoring.near(standing.method) if near is None else near
        if near is not None:
            one["tax"] = exp(float(np.mean(near - race.near)))
        found.append(one)
    return found


def options_of(standing: Standing) -> dict[str, Any]:
    """The options that were searched."""
    return standing.method.changed()
