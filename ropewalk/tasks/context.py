"""Contexts of an exact length: records side by side or facts scattered in text, and the questions behind them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ropewalk.tasks.assembly import behind_sentence, padding, shuffled, stretch
from ropewalk.tasks.passkey import FILLER
from ropewalk.tasks.task import Sample, Task, haystack_tokens
from ropewalk.texts.pieces import TokenUnits

T = TypeVar("T")

SPARE = 32  # tokens that an answer in free words may have beyond the shortest one


@dataclass(frozen=True)
class Question:
    """What is asked about a context.

    Attributes:
        stem: text up to where the answer begins; it starts with a space.
        answer: a continuation that scores 1.0, without a space before it.
        depth: where the needed information stands, 0 to 1; nan where it is spread.
        references: what a right prediction contains; the answer unless given.
        facts: what a score by groups needs.
        spare: tokens of room beyond those of the answer.
    """

    stem: str
    answer: str
    depth: float = float("nan")
    references: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    spare: int = 0


class SharedContext(Task):
    """A task whose context serves several questions; subclasses write ``ask``."""

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """One question; the information it needs stands at ``depth`` (drawn uniformly if None)."""
        return self.ask(n_tokens, rng, units, [rng.random() if depth is None else depth])[0]

    def questions(self, n_tokens: int, rng: random.Random, units: TokenUnits, n: int) -> list[Sample]:
        """Up to ``n`` questions whose depths cover the context evenly."""
        return self.ask(n_tokens, rng, units, [(i + rng.random()) / n for i in range(n)])

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """One question per depth, all about one context.

        Raises:
            TooShort: if ``n_tokens`` does not hold the fixed parts.
        """
        raise TypeError(f"{type(self).__name__} asks nothing")


@dataclass(frozen=True)
class Context:
    """What questions are asked about.

    Attributes:
        ids: its tokens, with what stands before its text.
        before: how many those are: what texts begin with, a rest of filler, and the introduction.
    """

    ids: list[int]
    before: int


def label(task: Task, **labels: str | bool) -> None:
    """Sets the labels of a frozen task that follow from its options."""
    for key, value in labels.items():
        object.__setattr__(task, key, value)


def context_tokens(
    task: str, n_tokens: int, units: TokenUnits, questions: Iterable[Question], *fixed: list[int]
) -> int:
    """How many tokens of context leave room for ``fixed``, and for the longest question with its answer's room.

    Raises:
        TooShort: if none are left.
    """
    behind = max(
        len(units.ids(one.stem)) + len(units.answer(one.stem, f" {one.answer}")) + one.spare for one in questions
    )
    return haystack_tokens(task, n_tokens, *fixed, [0] * behind)


def pose(context: Context, questions: Iterable[Question], n_tokens: int, units: TokenUnits) -> list[Sample]:
    """The questions behind a context; what a short question leaves of ``n_tokens`` is room for its answer."""
    samples = []
    for one in questions:
        stem = units.ids(one.stem)
        prompt = context.ids + stem
        answer = units.answer(one.stem, f" {one.answer}")
        room = n_tokens - len(prompt)
        more = one.references, room, one.facts, context.before, len(stem)
        samples.append(Sample(prompt, answer, one.answer, one.depth, *more))
    return samples


def fitting(n_tokens: int, records: Iterable[str], units: TokenUnits) -> list[list[int]]:
    """Token ids of the records before the first one that does not fit into ``n_tokens`` any more."""
    fit: list[list[int]] = []
    for record in map(units.ids, records):
        n_tokens -= len(record)
        if n_tokens < 0:
            break
        fit.append(record)
    return fit


def as_many_as_fit(n_tokens: int, drawn: Iterator[T], told: Callable[[T], str], units: TokenUnits) -> list[T]:
    """Of what is drawn, as much as fits into ``n_tokens`` where it is told; no more is drawn than one."""
    fit: list[T] = []

    def records() -> Iterator[str]:
        for one in drawn:
            fit.append(one)
            yield told(one)

    return fit[: len(fitting(n_tokens, records(), units))]


def places(depths: Sequence[float], n_others: int) -> list[int]:
    """The index, among all records, of each asked record that stands at its depth among ``n_others`` records."""
    order = sorted(range(len(depths)), key=depths.__getitem__)
    rank = {i: before for before, i in enumerate(order)}
    return [round(depth * n_others) + rank[i] for i, depth in enumerate(depths)]


def among(others: Sequence[list[int]], asked: Sequence[list[int]], at: Sequence[int]) -> list[list[int]]:
    """All records: the asked ones at their indices, the others in their order around them."""
    records = list(others)
    for index, record in sorted(zip(at, asked, strict=True), key=lambda pair: pair[0]):
        records.insert(index, record)
    return records


def records_context(
    task: str,
    n_tokens: int,
    units: TokenUnits,
    introduction: str,
    asked: Sequence[str],
    depths: Sequence[float],
    questions: Iterable[Question],
    others: Iterable[str],
) -> tuple[Context, list[int]]:
    """The asked records at their depths among as many others as leave room for the longest question.

    Returns:
        The context, and the index of each asked record among all records.

    Raises:
        TooShort: if ``n_tokens`` does not hold the introduction, the asked records and a question.
    """
    head, own = units.ids(introduction), [units.ids(record) for record in asked]
    n_others = context_tokens(task, n_tokens, units, questions, units.bos, head, *own)
    records = fitting(n_others, others, units)
    at = places(depths, len(records))
    n_context = n_others + len(head) + sum(map(len, own))
    return filled(head, among(records, own, at), n_context, units), at


def filler_round(units: TokenUnits) -> int:
    """How many tokens one round of the repetitive filler has."""
    return sum(len(units.ids(sentence)) for sentence in FILLER)


def quiet(n_tokens: int, units: TokenUnits) -> list[int]:
    """``n_tokens`` of the repetitive filler that end with a sentence (and may begin inside one)."""
    return padding(units, n_tokens, FILLER)


def filled(introduction: list[int], records: Sequence[list[int]], n_tokens: int, units: TokenUnits) -> Context:
    """The introduction and the records with filler before each, ``n_tokens`` together, behind what texts begin with.

    Whole rounds of filler are shared out evenly, so that records stay spread however few they are; what is less than
    a round stands before the introduction, so that a sentence is only cut where the text begins.
    """
    period = filler_round(units)
    rounds, rest = divmod(n_tokens - len(introduction) - sum(map(len, records)), period)
    each, more = divmod(rounds, len(records))
    text = units.bos + quiet(rest, units) + introduction
    before = len(text)
    for i, record in enumerate(records):
        text += quiet((each + (i < more)) * period, units) + record
    return Context(text, before)


@dataclass(frozen=True)
class Background:
    """Text that facts are hidden in.

    Attributes:
        haystack: token ids of natural text, repeated where it is too short; the passkey's filler if empty.
        sentence_ends: ids after which a fact may stand.
        shuffled: whether its sentences stand in random order.
    """

    haystack: tuple[int, ...] = ()
    sentence_ends: frozenset[int] = frozenset()
    shuffled: bool = False

    def hide(
        self, facts: Sequence[list[int]], at: Sequence[float], n_tokens: int, rng: random.Random, units: TokenUnits
    ) -> list[int]:
        """``n_tokens`` of text and facts, these in their order at the ascending depths ``at``, between sentences."""
        hay = self.text(n_tokens - sum(map(len, facts)), rng, units)
        ends = self._ends(units)
        hidden: list[int] = []
        done = 0
        for depth, fact in zip(at, facts, strict=True):
            here = max(done, behind_sentence(hay, round(depth * len(hay)), ends))
            hidden += hay[done:here] + fact
            done = here
        return hidden + hay[done:]

    def text(self, n_tokens: int, rng: random.Random, units: TokenUnits) -> list[int]:
        """``n_tokens`` of the text from a random place on."""
        if not self.haystack:
            text = quiet(n_tokens, units)
        else:
            text = stretch(self.haystack, rng.randrange(len(self.haystack)), n_tokens)
        return shuffled(text, self._ends(units), rng) if self.shuffled else text

    def _ends(self, units: TokenUnits) -> frozenset[int]:
        return self.sentence_ends if self.haystack else frozenset(units.ids(sentence)[-1] for sentence in FILLER)


PLAIN = Background()


def hidden_context(
    task: str,
    n_tokens: int,
    units: TokenUnits,
    introduction: str,
    facts: Sequence[str],
    at: Sequence[float],
    questions: Iterable[Question],
    background: Background,
    rng: random.Random,
) -> Context:
    """Facts at ascending depths of as much text as leaves room for the longest question.

    Raises:
        TooShort: if ``n_tokens`` does not hold the introduction, the facts and a question.
    """
    head, hidden = units.ids(introduction), [units.ids(fact) for fact in facts]
    n_text = context_tokens(task, n_tokens, units, questions, units.bos, head, *hidden)
    # Of the filler, too, a sentence is only cut where the text begins.
    n_before = 0 if background.haystack else n_text % filler_round(units)
    text = background.hide(hidden, at, n_text - n_before + sum(map(len, hidden)), rng, units)
    front = units.bos + quiet(n_before, units) + head
    return Context(front + text, len(front))


def mentions(prediction: str, reference: str) -> bool:
    """Whether the reference stands in the prediction as whole words; case does not matter."""
    return re.search(rf"(?<!\w){re.escape(reference)}(?!\w)", prediction, re.IGNORECASE) is not None


def mentions_all(prediction: str, sample: Sample) -> float:
    """1.0 if every reference stands in the prediction."""
    return float(all(mentions(prediction, reference) for reference in sample.references))


def share_before_first_error(said: Sequence[str], expected: Sequence[str]) -> float:
    """How many steps are right from the beginning on, of all expected (or said, if these are more)."""
    right = next(
        (i for i, (one, other) in enumerate(zip(said, expected, strict=False)) if one != other),
        min(len(said), len(expected)),
    )
    return right / max(len(said), len(expected))
