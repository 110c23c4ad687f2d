"""RULER's question answering: documents with the answer among many without it (arXiv 2404.06654).

RULER takes SQuAD (qa_1) and HotpotQA (qa_2); the examples are given by the caller. Where there are none, ``synthetic``
stands in, with facts about places and people that no model knows, under a name of its own.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import cycle
from typing import ClassVar

from ropewalk.common.errors import UserError
from ropewalk.tasks.assembly import joined, padding
from ropewalk.tasks.ruler.matching import match_part
from ropewalk.tasks.task import Sample, Task, haystack_tokens
from ropewalk.tasks.words import compounds, in_random_order
from ropewalk.texts.pieces import TokenUnits

ROOM = 32
RULE = " Answer the question from the documents given, with the answer alone and no other words."
STEM_END = " Answer:"
NAMES_EACH = 5  # of a fictional example


@dataclass(frozen=True)
class QAExample:
    """A question with its documents.

    Attributes:
        question: in one line.
        answers: any of them is right; the first is the one a solver gives.
        documents: all that the answer needs.
        distractors: documents of the same matter that do not answer it.
    """

    question: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]
    distractors: tuple[str, ...] = ()


@dataclass(frozen=True)
class DocumentQA(Task):
    """A question about numbered documents in random order.

    They are those that it needs, then its own distractors, then documents of other examples, up to the first that does
    not fit; if all of them do not fill the context, they are repeated. With ``questions``, several examples share a
    context, and those whose question is not the longest fall short of the asked length by the difference in tokens.

    Attributes:
        examples: what is asked; a sample takes one at random.

    Raises:
        UserError: if there are no examples.
    """

    examples: tuple[QAExample, ...] = field(repr=False)
    name: str
    scope: str = "small"
    diffusion: str = "high"
    free: bool = True
    alike: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.examples:
            raise UserError(f"{self.name} has no examples", "Give question, answers and documents of at least one.")

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """One question; if it needs a single document, that stands at ``depth`` (at random if None).

        Raises:
            TooShort: if ``n_tokens`` does not hold the documents needed.
        """
        return self._ask(n_tokens, rng, units, 1, depth)[0]

    def questions(self, n_tokens: int, rng: random.Random, units: TokenUnits, n: int) -> list[Sample]:
        return self._ask(n_tokens, rng, units, n, None)

    def _ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, n: int, depth: float | None) -> list[Sample]:
        asked = rng.sample(self.examples, min(n, len(self.examples)))
        head = units.ids(RULE + "\n\n")
        stems = [units.ids(f" {RULE.strip()} Question: {one.question}") + units.ids(STEM_END) for one in asked]
        answers = [units.answer(STEM_END, f" {one.answers[0]}") for one in asked]
        room = max(ROOM, *map(len, answers))
        needed = list(dict.fromkeys(document for one in asked for document in one.documents))
        fixed = [units.bos, head, max(stems, key=len), [0] * room]
        left = haystack_tokens(self.name, n_tokens, *fixed, *numbered(needed, units))

        documents = needed + fitting(self._others(asked, needed, rng), len(needed), left, units)
        rng.shuffle(documents)
        if depth is not None and len(needed) == 1:
            documents.remove(needed[0])
            documents.insert(round(depth * len(documents)), needed[0])
        context = joined(numbered(documents, units))
        total = n_tokens - sum(map(len, fixed))
        front = units.bos + padding(units, total - len(context)) + head
        return [
            Sample(
                front + context + stem,
                answer,
                one.answers[0],
                _depth(one, documents),
                one.answers,
                room,
                before=len(front),
                after=len(stem),
            )
            for one, stem, answer in zip(asked, stems, answers, strict=True)
        ]

    @cached_property
    def _documents(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(text for one in self.examples for text in (*one.documents, *one.distractors)))

    def _others(self, asked: Sequence[QAExample], needed: Sequence[str], rng: random.Random) -> Iterator[str]:
        """Distractors of the examples asked for, then all documents of the others, each once and none needed."""
        own = dict.fromkeys(text for one in asked for text in one.distractors if text not in needed)
        yield from in_random_order(own, rng)
        for text in in_random_order(self._documents, rng):
            if text not in own and text not in needed:
                yield text

    def solve(self, prompt_text: str) -> str:
        """The first answer to the question at the end, if all the documents that it needs are there."""
        text = _plain(prompt_text)
        asked = text.rpartition(" Question: ")[2].removesuffix(STEM_END)
        for one in self.examples:
            if _plain(one.question) == asked and all(_plain(document) in text for document in one.documents):
                return one.answers[0]
        return ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the prediction contains one of the answers."""
        return match_part(prediction, sample)


def synthetic(hops: int) -> DocumentQA:
    """The stand-in for qa_1 (one hop) or qa_2 (two hops) on made-up facts; its name says so."""
    return DocumentQA(fictional(2000, hops), f"qa_{hops}_synthetic")


def fictional(n: int, hops: int) -> tuple[QAExample, ...]:
    """``n`` examples about made-up places and people; with two hops the person asked about is named elsewhere.

    Raises:
        ValueError: if there are not enough names for so many.
    """
    if n * NAMES_EACH > len(compounds()):
        raise ValueError(f"there are names for {len(compounds()) // NAMES_EACH} examples, {n} were asked for")
    names = [name.capitalize() for name in compounds()[: n * NAMES_EACH]]
    example = {1: _mayor, 2: _birthplace_of_mayor}[hops]
    return tuple(example(*names[i : i + NAMES_EACH]) for i in range(0, len(names), NAMES_EACH))


def _mayor(place: str, river: str, mayor: str, founder: str, mill: str) -> QAExample:
    document = (
        f"{place} is a small town on the river {river}. It was founded by {founder}, who built "
        f"the mill of {mill} there. The mayor of {place} is {mayor}. Its market is held every week."
    )
    return QAExample(f"Who is the mayor of {place}?", (mayor,), (document,))


def _birthplace_of_mayor(place: str, river: str, mayor: str, origin: str, school: str) -> QAExample:
    town = (
        f"{place} is a small town on the river {river}. The mayor of {place} is {mayor}. Its market is held every week."
    )
    life = f"{mayor} went to school in {school}, after early years in {origin}, the village where {mayor} was born."
    return QAExample(f"In which village was the mayor of {place} born?", (origin,), (town, life))


def numbered(documents: Sequence[str], units: TokenUnits) -> list[list[int]]:
    """The token ids of each document, under a heading with its number."""
    return [units.ids(_heading(i)) + units.ids(f" {text}\n\n") for i, text in enumerate(documents, 1)]


def fitting(documents: Iterable[str], before: int, n_tokens: int, units: TokenUnits) -> list[str]:
    """Documents up to the first that ``n_tokens`` do not hold, numbered behind ``before`` others, over and over."""
    chosen: list[str] = []
    for number, document in enumerate(cycle(documents), before + 1):
        n_tokens -= len(units.ids(_heading(number))) + len(units.ids(f" {document}\n\n"))
        if n_tokens < 0:
            break
        chosen.append(document)
    return chosen


def _heading(number: int) -> str:
    return f" Document {number}:\n"


def _depth(example: QAExample, documents: Sequence[str]) -> float:
    """Where the one document needed stands, from 0 to 1; nan where there are several."""
    if len(example.documents) > 1:
        return math.nan
    return documents.index(example.documents[0]) / max(1, len(documents) - 1)


def _plain(text: str) -> str:
    """The text with single spaces: line ends may not survive a tokenizer."""
    return re.sub(r"\s+", " ", text).strip()
