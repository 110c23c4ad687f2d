"""Candidates against the best one so far: all read the same texts in one order, and stop where they can gain nothing.

A text is 16 pieces, and the difference of two candidates is taken piece by piece, so that what makes a text hard for
both cancels: most candidates are told apart by their first text.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.common.statistics import LARGEST, Mean, exp, ratio
from ropewalk.fitting.scoring import Losses, Scoring
from ropewalk.methods.base import Method

SURE = 2.0  # standard errors of a mean difference
GAIN = 1e-3  # nats, a thousandth of the perplexity: less is not worth reading on; where a search ends, all are alike
# Costs in nats. Losses are at most LARGEST, and of who lost, which is the best's and a difference, at most twice that.
UNPAID = 2 * LARGEST  # of who does not keep the tax, and above it by how much, whoever ran before
IMPOSSIBLE = 2 * UNPAID  # of a point at which there is no method

# Yields methods, is sent how good they are (lower is better, in nats), and ends when it has seen enough.
Search = Generator[Sequence[Method], Sequence[float], None]
Point = TypeVar("Point")


@dataclass(frozen=True, eq=False)
class Standing:
    """What is known of a candidate.

    Attributes:
        method: the candidate.
        far: mean losses of the pieces that it read, in nats, [pieces].
        near: mean loss of each text's first window, in nats, [texts]; None where it was not read.
        whole: whether it read all texts.
    """

    method: Method
    far: Losses
    near: Losses | None
    whole: bool

    @property
    def loss(self) -> float:
        return float(self.far.mean())

    def tax(self, plain: Losses) -> float:
        """By how many nats short texts are read worse than by the plain model."""
        assert self.near is not None
        return float(np.mean(self.near - plain))


Ran = dict[str, Standing]


@dataclass(eq=False)
class Race:
    """A search's candidates.

    Attributes:
        scoring: what they read.
        plain: the model as it is.
        drop: whether candidates that surely lose are dropped; else every one reads everything.
        tax: how much worse short texts may be read, as a share of the perplexity; they are read first then, and who
            pays more reads nothing else. None: it does not matter.
        turn: which of how many workers this is, that follow the same search and share a store.
        tell: called after every candidate and every round, with how many rounds there were, all candidates and the best
            so far.
        ran: all candidates, in order.
    """

    scoring: Scoring
    plain: Method
    drop: bool = True
    tax: float | None = None
    turn: tuple[int, int] = (0, 1)
    tell: Callable[[int, Ran, Standing | None], None] = lambda rounds, ran, best: None
    ran: Ran = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.near = self.scoring.near(self.plain)
        if self.near.max() >= LARGEST:
            raise UserError(
                "the model's own losses are no finite numbers: weights hold NaN, or numbers too large for their type",
                "Say --dtype float32, or download the checkpoint again.",
            )
        self.best: Standing | None = None  # of those that read all texts
        self.rounds = 0

    @property
    def least_tax(self) -> float:
        """The least of all candidates whose short texts were read, in nats."""
        return min(standing.tax(self.near) for standing in self.ran.values() if standing.near is not None)

    def texts(self, standing: Standing) -> int:
        """How many long texts a candidate read."""
        return 0 if self.best is None else len(standing.far) * len(self.scoring.rows) // len(self.best.far)

    def read(self, standing: Standing) -> int:
        """How many tokens a candidate read."""
        short = 0 if standing.near is None else len(standing.near) * self.scoring.ground.window
        return self.texts(standing) * self.scoring.rows.shape[1] + short

    def run(self, search: Search) -> None:
        """Follow a search to its end."""
        told: list[float] | None = None
        while True:
            try:
                candidates = search.send(told)  # type: ignore[arg-type]
            except StopIteration:
                return
            told = self._placed(candidates)

    def _placed(self, candidates: Sequence[Method]) -> list[float]:
        """How good candidates are, in nats: of those that lost, worse than the best by the mean difference to it."""
        new = {method.id: method for method in candidates if method.id not in self.ran}
        self._read(list(new.values()))
        self.rounds += 1
        self.tell(self.rounds, self.ran, self.best)
        return [self._cost(self.ran[method.id]) for method in candidates]

    def _cost(self, standing: Standing) -> float:
        if standing.whole:
            return standing.loss
        if not len(standing.far):
            return UNPAID + self._excess(standing)
        assert self.best is not None  # who lost to another one may have read better, by chance, than the best did
        return self.best.loss + max(GAIN, float(np.mean(standing.far - self.best.far[: len(standing.far)])))

    def _excess(self, standing: Standing) -> float:
        """By how many nats too much a candidate taxes short texts."""
        return 0.0 if self.tax is None else standing.tax(self.near) - float(np.log1p(self.tax))

    def _read(self, new: Sequence[Method]) -> None:
        """Text by text, those that may yet be better than the one that is ahead."""
        near: dict[str, Losses] = {}
        pieces: dict[str, Losses] = {method.id: np.zeros(0) for method in new}
        running = list(new)
        if self.tax is not None:
            near = {method.id: self.scoring.near(method) for method in self._turned(new)}
            for method in new:
                standing = Standing(method, pieces[method.id], near[method.id], False)
                if self._excess(standing) > 0:
                    running.remove(method)
                    self._keep(standing)
        for row in range(len(self.scoring.rows)):
            for method in self._turned(running):
                pieces[method.id] = np.append(pieces[method.id], self.scoring.far(method, row))
            if self.drop and running and row + 1 < len(self.scoring.rows):
                read = [pieces[method.id] for method in running]
                if self.best is not None:
                    read.append(self.best.far[: len(read[0])])
                ahead = min(read, key=np.mean)
                lost = [m for m in running if pieces[m.id] is not ahead and _loses(pieces[m.id], ahead)]
                running = [method for method in running if method not in lost]
                for method in lost:
                    self._keep(Standing(method, pieces[method.id], near.get(method.id), False))
        for method in running:
            short = near[method.id] if method.id in near else self.scoring.near(method)
            self._keep(Standing(method, pieces[method.id], short, True))

    def _turned(self, methods: Sequence[Method]) -> Sequence[Method]:
        """The same, from the place on where this worker's share begins: what others read meanwhile is in the store."""
        worker, workers = self.turn
        first = worker * len(methods) // workers
        return [*methods[first:], *methods[:first]]

    def _keep(self, standing: Standing) -> None:
        self.ran[standing.method.id] = standing
        if standing.whole and (self.best is None or standing.loss < self.best.loss):
            self.best = standing
        self.tell(self.rounds, self.ran, self.best)

    def front(self) -> list[Standing]:
        """Those that no other one beats in both, far texts and short ones; the cheapest tax first."""
        whole = sorted((s for s in self.ran.values() if s.whole), key=lambda s: (s.tax(self.near), s.loss))
        found: list[Standing] = []
        for standing in whole:
            if not found or standing.loss < found[-1].loss:
                found.append(standing)
        return found


def followed(
    points: Generator[Sequence[Point], Sequence[float], None], method: Callable[[Point], Method | None]
) -> Search:
    """A search over points as one over methods; a point at which there is none is worse than all others."""
    losses: list[float] | None = None
    while True:
        try:
            made = [method(point) for point in points.send(losses)]  # type: ignore[arg-type]
        except StopIteration:
            return
        methods = [one for one in made if one is not None]
        told = iter((yield methods) if methods else ())
        losses = [IMPOSSIBLE if one is None else next(told) for one in made]


def _loses(ours: Losses, ahead: Losses) -> bool:
    """Whether a candidate surely gains less than ``GAIN`` on the one that is ahead, by the same pieces."""
    apart = ours - ahead
    return len(apart) > 2 and bool(apart.mean() + GAIN > SURE * apart.std(ddof=1) / len(apart) ** 0.5)


def compared(ours: Method, theirs: Method, scoring: Scoring, documents: Sequence[int]) -> Mean:
    """How many times the perplexity of one method is that of another, with an interval over documents.

    Args:
        ours: the one.
        theirs: the other.
        scoring: the texts.
        documents: which each text is a piece of; where all are of one, the interval is over its pieces.
    """
    return over_documents(scoring.whole(ours) - scoring.whole(theirs), documents)


def over_documents(apart: Losses, documents: Sequence[int]) -> Mean:
    """The ratio of two perplexities, from differences of losses, [texts], and the document of each."""
    kinds = sorted(set(documents))
    if len(kinds) > 1:
        apart = np.array([apart[np.array(documents) == kind].mean() for kind in kinds])
    return ratio(apart, np.zeros(len(apart)))


def perplexity(standing: Standing) -> float:
    """Of the far tokens that it read."""
    return exp(standing.loss)
