"""Rows whose answer needs their context, and is found in it: QwenLong-L1.5's two filters (arXiv 2512.12967).

Grounded: an engine that sees the question alone does not know the answer. Robust: one that sees all of the row, what is
irrelevant included, finds it in one of a few tries (pass@k above 0).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ropewalk.backends.chat.answering import Engine, Nonsense
from ropewalk.common.errors import UserError
from ropewalk.data.synthesis.drawing import Draw, Row
from ropewalk.data.synthesis.replies import holds

CLOSED = "Answer the question with a few words, and nothing else.\n\n{question}"
OPEN = "Read the text, and answer the question behind it with a few words, and nothing else.\n\n{text}\n\n{question}"
ROOM = 128  # tokens of a reply
KNOWN, LOST = "answered without its context", "not answered with its context"


@dataclass(frozen=True)
class Sieve:
    """Drops rows, each for a reason that is counted.

    A reply is right that holds every part of the answer word for word. With its context a row is asked as often as the
    engine asks for one prompt; the first reply is the model's most likely one, further ones are drawn.

    Attributes:
        engine: that answers.
        grounded: whether rows are dropped that it answers without their context.
        robust: whether rows are dropped that it does not answer with it.
    """

    engine: Engine
    grounded: bool
    robust: bool

    def sieved(
        self, draws: Sequence[Draw], question: Callable[[Row], str], context: Callable[[Row], str]
    ) -> list[Draw]:
        """The same draws, or why they give no row any more.

        Args:
            draws: whose rows have answers.
            question: the text that asks for a row's answer.
            context: the text before that.
        """
        found = list(draws)
        if self.grounded:
            rows = self._rows(found)
            replies = self.engine.answers([CLOSED.format(question=question(row)) for _, row in rows], ROOM, str)
            for (number, row), reply in zip(rows, replies, strict=True):
                if reply is not None and _right(reply, row):
                    found[number] = KNOWN
        if self.robust:
            rows = self._rows(found)
            prompts = [OPEN.format(text=context(row), question=question(row)) for _, row in rows]
            reads = [_reader(row) for _, row in rows]
            for (number, _), reply in zip(rows, self.engine.answers(prompts, ROOM, reads), strict=True):
                if reply is None:
                    found[number] = LOST
        return found

    @staticmethod
    def _rows(draws: Sequence[Draw]) -> list[tuple[int, Row]]:
        """All rows that are left, each with the number of its draw."""
        return [(number, row) for number, one in enumerate(draws) if not isinstance(one, str) for row in one]


def sieve_of(engine: Engine | None, grounded: bool, robust: bool) -> Sieve | None:
    """What drops rows; None if nothing is asked of them.

    Raises:
        UserError: if nobody answers.
    """
    if not grounded and not robust:
        return None
    if engine is None:
        raise UserError(
            "whether rows are grounded or robust is asked of an engine",
            "Name one: --engine URL, --engine demo or --engine FOLDER.",
        )
    return Sieve(engine, grounded, robust)


def _right(reply: str, row: Row) -> bool:
    return all(holds(reply, answer) for answer in row.answers)


def _reader(row: Row) -> Callable[[str], str]:
    def read(reply: str) -> str:
        if not _right(reply, row):
            raise Nonsense("another answer")
        return reply

    return read
