"""IN2 / FILM with questions that an engine writes about hidden segments (arXiv 2404.16811)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ropewalk.backends.chat.answering import Engine, Nonsense
from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.synthesis.drawing import Draw, Row, Text, drawn
from ropewalk.data.synthesis.information_intensive import SEGMENT, SEVERAL, SHARES, segments_of, text_of
from ropewalk.data.synthesis.replies import LETTER, UNRESOLVED, holds, labelled, times, whole_words
from ropewalk.data.synthesis.sieve import sieve_of
from ropewalk.data.synthesis.synthesis import Written

ONE = """Passage:
{passage}

Write one question that is answered by a few words of this passage, such as a name or a number, and the answer, copied word for word. Somebody who has never seen the passage must understand the question, so name the things that it asks about.

Reply with two lines:
Question: ...
Answer: ..."""  # noqa: E501
MANY = """{passages}

Write one question that can be answered only by somebody who knows all of these passages, and the answer: from each passage, in their order, a few words such as a name or a number, copied word for word. Somebody who has never seen the passages must understand the question, so name the things that it asks about.

Reply with these lines:
Question: ...
{labels}"""  # noqa: E501
ASKS, ANSWERS = "\n\nQuestion: {question}\nAnswer:", " {answer}"
ROOM = 256  # tokens of a reply
SUPPORT = "stands in the evidence word for word, and nowhere else in the context"


@dataclass(frozen=True)
class Question:
    """What an engine asked, and the parts of the answer, one for each passage."""

    question: str
    answers: Sequence[str]


@dataclass(frozen=True)
class WrittenQuestions:
    """Segments of 128 tokens of random documents, and a question that an engine wrote about one of them, or a few.

    A question is kept if it names what it asks about, and every part of the answer stands in its own segment word for
    word, nowhere else in the row, and not in the question: then it needs no judge. Segments are read as one text there,
    so that half a word at the edge of one is none. The loss is on the answer alone.

    Attributes:
        engine: that writes.
        rows: how many are made.
        least: tokens of a context at least, a quarter of the longest by default; lengths are uniform from there on.
        draws: at most; by default 4 for every row.
        grounded: drop rows that the engine answers without their context.
        robust: drop rows that it does not answer with their context.
    """

    engine: Engine
    rows: int
    least: int | None = None
    draws: int | None = None
    grounded: bool = False
    robust: bool = False

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""
        return self.least + 2 * ROOM if self.least else 4 * SEVERAL * SEGMENT

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of a context at least and at most, in rows of ``length`` tokens that begin with ``begin``.

        Raises:
            UserError: if rows are too short, or ``least`` does not fit them.
        """
        least, most = self.least or length // 4, length - begin - 2 * ROOM
        if not SEVERAL * SEGMENT <= least <= most:
            raise UserError(
                f"contexts of {least:,} to {most:,} tokens, expected {SEVERAL * SEGMENT} at least: a row of "
                f"{length:,} tokens has up to {2 * ROOM} of question and answer",
                f"Give a greater --length, such as {4 * (SEVERAL * SEGMENT + 2 * ROOM):,}, or another --least.",
            )
        return least, most

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if the documents have too few segments, or the engine writes nothing of use.
        """
        begin = len(corpus.manifest.begin)
        least, most = self.bounds(length, begin, marks)
        segments = segments_of(corpus.lengths, begin)
        if len(segments) < most // SEGMENT:
            raise UserError(
                f"the texts have {len(segments):,} segments of {SEGMENT} tokens, and a row takes {most // SEGMENT:,}",
                "Give more texts, or a smaller --length.",
            )

        def text(*pieces: Piece) -> str:
            return text_of(pieces, corpus, marks.decode)

        def shown(some: Sequence[Piece], evidence: Sequence[int]) -> tuple[str, list[tuple[int, int]]]:
            """A context as it is read, and where its evidence begins and ends there."""
            whole = text(*some)

            def edge(number: int) -> int:
                before = text(*some[:number]) if number else ""
                same = range(len(before), -1, -1)  # its last character may be cut
                return next(n for n in same if whole.startswith(before[:n]))

            return whole, [(edge(i), edge(i + 1)) for i in evidence]

        def context(number: int) -> tuple[str, list[Piece], list[int]]:
            """The kind of a row, its segments, and which of them are asked about."""
            rng = np.random.default_rng([seed, number])
            kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
            tokens = int(rng.integers(least, most + 1)) if kind != "short" else 4 * SEGMENT
            count = max(min(tokens, most) // SEGMENT, SEVERAL)
            chosen = segments[rng.choice(len(segments), count, replace=False)]
            several = int(rng.integers(2, SEVERAL + 1)) if kind == "several" else 1
            evidence = sorted(rng.choice(count, several, replace=False).tolist())
            return kind, [Piece(int(d), int(s), int(s) + SEGMENT, loss=False) for d, s in chosen], evidence

        def draw(numbers: range) -> Iterator[Draw]:
            contexts = [context(number) for number in numbers]
            prompts = [question_prompt([text(some[i]) for i in evidence]) for _, some, evidence in contexts]
            for (kind, some, evidence), asked in zip(
                contexts, self.engine.answers(prompts, ROOM, read_question), strict=True
            ):
                if asked is None:
                    yield "no question"
                elif why := unsupported(asked, *shown(some, evidence)):
                    yield why
                else:
                    question = Text.of(ASKS.format(question=asked.question), marks)
                    answer = Text.of(ANSWERS.format(answer="; ".join(asked.answers)), marks, loss=True)
                    yield [Row([*some, question, answer], kind, evidence, SUPPORT, [len(some)], asked.answers)]

        sieve = sieve_of(self.engine, self.grounded, self.robust)
        return drawn(self.rows, self.draws, draw, corpus, length, marks, engine=self.engine, sieve=sieve)


def question_prompt(passages: Sequence[str]) -> str:
    """Asks for a question about passages."""
    if len(passages) == 1:
        return ONE.format(passage=passages[0])
    numbers = range(1, len(passages) + 1)
    labels = "\n".join(f"Answer {i}: ..." for i in numbers)
    shown = "\n\n".join(f"Passage {i}:\n{passage}" for i, passage in zip(numbers, passages, strict=True))
    return MANY.format(labels=labels, passages=shown)


def read_question(text: str) -> Question:
    """A question and its answers, of one passage or of several."""
    labels = ["Question", "Answer"]
    if "answer 1" in text.casefold():
        count = max((i for i in range(1, SEVERAL + 1) if f"answer {i}" in text.casefold()), default=1)
        labels = ["Question", *(f"Answer {i}" for i in range(1, count + 1))]
    question, *answers = labelled(text, labels)
    if "\n" in question or any("\n" in answer for answer in answers):
        raise Nonsense("more than lines")
    return Question(question, [answer.strip(" .\"'") for answer in answers])


def unsupported(asked: Question, context: str, evidence: Sequence[tuple[int, int]]) -> str:
    """Why a question is of no use; empty if it is of use.

    Args:
        asked: the question.
        context: all that is read before it.
        evidence: where each of its answers should stand there, from and to.
    """
    if len(asked.answers) != len(evidence) or not all(asked.answers):
        return "another number of answers"
    if UNRESOLVED.search(asked.question):
        return "a question without a subject"
    for answer, (start, stop) in zip(asked.answers, evidence, strict=True):
        if not (there := times(whole_words(context, start, stop), answer)):
            return "the answer is not in its evidence"
        if re.fullmatch(rf"(?!\d){LETTER}", answer):
            return "the answer is one letter"
        if holds(asked.question, answer):
            return "the question tells the answer"
        if times(context, answer) != there:
            return "the answer stands elsewhere too"
    return ""
