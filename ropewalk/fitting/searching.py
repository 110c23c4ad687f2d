"""A search from its texts to what it found: who raced, what it cost, and how it holds on texts that nobody searched."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.common.statistics import Mean, exp
from ropewalk.fitting.fitter import Found, Ground
from ropewalk.fitting.race import Race, Search, Standing, compared, over_documents, perplexity
from ropewalk.fitting.scoring import Scoring, require_causal
from ropewalk.methods.fit_file import VERSUS
from ropewalk.methods.frequencies.none import Plain

if TYPE_CHECKING:
    from ropewalk.methods.base import Method


SEEDS = 2**32
SHARES = (2 / 3, 1 / 3)  # of the best candidate's tax, as limits
# What a search has seen, by the words that a terminal shows.
TOKENS = "tokens of all candidates"
SHARE = "as a share of their reading all texts"
LONG = {"perplexity": "perplexity of far tokens", "needles": "perplexity of answers"}
SHORT = "perplexity of short texts, times the plain model's"
SHORT_OTHERS = "on other texts, short ones, times the perplexity of"
OTHER_TEXTS = "other texts"
DOCUMENTS = "documents that they are of"


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
        search: Search,
        total: int,
        rivals: Sequence[Method],
        known: Mapping[str, Method] | None = None,
        cheaper: Callable[[Any], Search] | None = None,
    ) -> Found:
        """Follow a search.

        Args:
            ground: model and texts.
            search: what yields candidates.
            total: how many they will be, at most.
            rivals: whom the best is compared with, on other texts than those it was found on.
            known: candidates that are methods people know, by their ids: the page names them.
            cheaper: a short search around the best candidate, followed under limits to the tax where none is set: a
                race for long texts alone drops those that cost short ones less.

        Raises:
            UserError: if texts are too short, or no candidate keeps the tax.
        """
        texts, others, documents = ground.texts_and_others(ground.to)
        require_causal([*rivals, *ground.others])
        scoring, checking = self._scoring(ground, texts), self._scoring(ground, others, "others")

        def tell(ran: int, best: Standing | None) -> None:
            ground.progress(ran, total, "" if best is None else f"best {perplexity(best):.4g}")

        race = Race(scoring, Plain(), self.race, self.tax, ground.turn, tell)
        race.run(search)
        best = race.best
        if best is None:
            least = exp(race.least_tax) - 1
            raise UserError(
                f"no candidate reads short texts within {self.tax:.3%} of the plain model, the best {least:.3%} off",
                f"Say --settings tax={math.ceil(least * 1000) / 1000}, or more.",
            )
        if cheaper is not None and self.tax is None:
            self._widen(race, best, cheaper)
            best = race.front()[-1]
        return Found(options_of(best), texts, self._seen(race, best, rivals, checking, documents, known or {}))

    def _widen(self, race: Race, best: Standing, cheaper: Callable[[Any], Search]) -> None:
        """Candidates for the front, under shares of the best one's tax."""
        for share in SHARES if best.tax(race.near) > 0 else ():
            tell, limit = partial(_told, race, len(race.ran)), math.expm1(share * best.tax(race.near))
            below = Race(race.scoring, race.plain, self.race, limit, race.turn, tell)
            below.run(cheaper(best.method))
            race.ran |= {name: one for name, one in below.ran.items() if one.whole or name not in race.ran}

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
        documents: Sequence[int],
        known: Mapping[str, Method],
    ) -> dict[str, Any]:
        tokens = race.scoring.tokens  # before more are read for the page
        course = _course(race, best, {method.id: name for name, method in known.items()})
        texts, length = race.scoring.rows.shape
        seen: dict[str, Any] = {
            "window": race.scoring.ground.window,
            "candidates": len(race.ran),
            "of them dropped early": sum(not standing.whole for standing in race.ran.values()),
            TOKENS: tokens,
            SHARE: tokens / (len(race.ran) * texts * (length + race.scoring.ground.window)),
            LONG[self.by]: perplexity(best),
            SHORT: exp(best.tax(race.near)),
        }
        if len(checking.rows):
            versus = {rival.id: compared(best.method, rival, checking, documents) for rival in rivals}
            seen[VERSUS] = {name: _bounded(one) for name, one in versus.items()}
            near = checking.near(best.method) - checking.near(race.plain)
            seen[SHORT_OTHERS] = {race.plain.id: _bounded(over_documents(near, documents))}
            seen[OTHER_TEXTS] = len(checking.rows)
            seen[DOCUMENTS] = len(set(documents))
        seen["front"] = [
            {"options": options_of(one), "perplexity": perplexity(one), "tax": exp(one.tax(race.near))}
            for one in race.front()
        ]
        return seen | {"course": course}


def _bounded(one: Mean) -> dict[str, Any]:
    return {"value": one.value, "low": one.low, "high": one.high, "n": one.n}


def _told(race: Race, before: int, ran: int, best: Standing | None) -> None:
    race.tell(before + ran, race.best)


def _course(race: Race, best: Standing, names: Mapping[str, str]) -> list[dict[str, Any]]:
    """Every candidate in its turn: how many texts it read, and how well; of one that is known by name, also its tax.

    The perplexity of one that was dropped is the best one's, times the ratio of both on what it read.
    """
    pieces, found = len(best.far) // len(race.scoring.rows), []
    for standing in race.ran.values():
        one: dict[str, Any] = {"texts": len(standing.far) // pieces}
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
