"""Many examples with their answers before the question, in an order of one's choice.

"smooth" is a proxy of our own for Curvilinear Demonstration Selection, whose formula is not public: see
``data.ordering.smooth_path``.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.common.outside import parse
from ropewalk.data.ordering.smooth_path import MOST, smooth_path
from ropewalk.texts.rows import Row
from ropewalk.workflows.strategy import Model, Reading, Strategy, room_left
from ropewalk.workflows.word_vectors import vectors_of

EXAMPLE = "Question: {question}\nAnswer: {answer}"
BETWEEN = "\n\n"
FURTHER = re.compile(r"\n\s*Question:")  # with which a model goes on that does not end
FORM = 'Give a file of lines such as {"question": "2 + 2?", "answer": "4"}.'
Order = Literal["smooth", "random", "length", "similarity", "file"]


@dataclass(frozen=True)
class Example:
    """A question with its answer."""

    question: str
    answer: str

    @property
    def text(self) -> str:
        return EXAMPLE.format(question=self.question.strip(), answer=self.answer.strip())


@dataclass(frozen=True)
class ManyShot(Strategy):
    """One call: as many examples as the window holds, and the question behind them.

    The text is rows of JSON with "question" and "answer", one a line.

    Attributes:
        order: ``smooth``: from the shortest on, so that the path through their vectors turns little; ``random``;
            ``length``: the shortest first; ``similarity``: the one most like the question last; ``file``.
        choose: which, where not all fit: the ``first`` of the file, or those most ``similar`` to the question. It does
            not depend on the order, so that orders are compared on the same examples.
        most: examples at most; 0: as many as fit.
        backwards: whether the order is turned round.
        by: how texts are compared: ``words`` (TF-IDF) or ``vectors`` of an embedding model.
        seed: of the random order.
    """

    name: ClassVar[str] = "many-shot"
    reads: ClassVar[Literal["text", "examples"]] = "examples"
    order: Order = "smooth"
    choose: Literal["first", "similar"] = "first"
    most: int = 0
    backwards: bool = False
    by: Literal["words", "vectors"] = "words"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.most < 0:
            raise UserError(f"most is {self.most}, expected 0 or more")

    async def read(self, model: Model, reading: Reading) -> str:
        examples = examples_of(reading.text)
        left = room_left(model, prompt_of([], reading.question), reading.room, "the prompt")
        sizes = [len(model.spans(one.text + BETWEEN)) for one in examples]
        ranked = list(range(len(examples)))
        if self.choose == "similar":
            likeness = await self._likeness(model, examples, reading.question)
            ranked = [int(i) for i in np.argsort(-likeness, kind="stable")]
        chosen: list[int] = []
        most = model.count(prompt_of([], reading.question)) + left
        for i in ranked[: self.most or None]:
            left -= sizes[i]
            if left < 0:
                break
            chosen.append(i)
        while model.count(prompt_of([examples[i] for i in chosen], reading.question)) > most:
            chosen.pop()  # joined, they may have more tokens than one by one
        if len(chosen) < len(examples):
            model.note(f"{len(chosen):,} of {len(examples):,} examples are in the prompt")
        some = [examples[i] for i in sorted(chosen)]
        ordered = [some[i] for i in await self.ordered(model, some, reading.question)]
        answer = await model.ask(prompt_of(ordered, reading.question), reading.room, "answer", last=True)
        assert answer is not None  # the last is answered, or an error
        own = FURTHER.split(answer, maxsplit=1)[0].strip()
        if own and own != answer.strip():
            model.note("the model went on with a further question, which is no part of its answer")
        return own or answer

    async def ordered(self, model: Model, examples: Sequence[Example], question: str) -> list[int]:
        """Numbers of the examples, each once, in the order in which they are shown."""
        lengths = np.array([len(model.spans(one.text)) for one in examples], np.int64)
        order = np.arange(len(examples))
        if self.order == "random":
            order = np.array(random.Random(self.seed).sample(range(len(examples)), len(examples)), np.int64)
        elif self.order == "length":
            order = np.argsort(lengths, kind="stable")
        elif self.order == "similarity" and len(examples):
            order = np.argsort(await self._likeness(model, examples, question), kind="stable")
        elif self.order == "smooth" and len(examples) > 2:
            if len(examples) > MOST:
                raise UserError(
                    f"order=smooth of {len(examples):,} examples, expected {MOST:,} at most", f"Add most={MOST}."
                )
            order = smooth_path(await vectors_of(model, [one.text for one in examples], self.by), lengths)
        return [int(i) for i in (order[::-1] if self.backwards else order)]

    async def _likeness(self, model: Model, examples: Sequence[Example], question: str) -> np.ndarray:
        vectors = await vectors_of(model, [question, *(one.question for one in examples)], self.by)
        likeness = np.asarray(vectors[1:] @ vectors[0])
        if not likeness.any():
            model.note("no example has a word of the question: none is more like it than another")
        return likeness


def prompt_of(examples: Sequence[Example], question: str) -> str:
    """Examples, and the question behind them, in the same form."""
    last = EXAMPLE.format(question=question.strip(), answer="").rstrip()
    return BETWEEN.join([*(one.text for one in examples), last])


def examples_of(text: str) -> list[Example]:
    """The examples in lines of JSON.

    Raises:
        UserError: naming the line, if one is no object with a question and an answer; if there are none.
    """
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            values = parse(line)
        except ValueError as error:
            raise UserError(f"line {number} of the examples is no JSON: {error}", FORM) from None
        if not isinstance(values, dict):
            raise UserError(f"line {number} of the examples is no JSON object", FORM)
        row = Row(values, f"line {number} of the examples")
        found.append(Example(row.text("question"), row.text("answer")))
    if not found:
        raise UserError("there are no examples", FORM)
    return found
