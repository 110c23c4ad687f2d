"""What a strategy is: a way to answer a question about a text by what a small interface offers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from ropewalk.backends.chat.chat import Prompt
from ropewalk.common.errors import UserError

LEAST = 32  # tokens of a text that a call reads, at least
SLACK = 16  # tokens by which a text in its place may be longer than on its own
WHOLE, PARTS, NOTES = "the text", "parts of a text that is longer", "notes on a text that is longer"


class Model(Protocol):
    """What a strategy may use of a language model.

    Attributes:
        window: tokens that a prompt and its answer may have together.
    """

    window: int

    def count(self, prompt: Prompt) -> int:
        """Tokens of a prompt, with those of the chat template."""

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """First character and the one behind the last of each token of a text."""

    def affordable(self, calls: int, tokens: int) -> int:
        """How many of ``calls`` calls of ``tokens`` tokens each the budget allows, beside the last answer."""

    async def ask(self, prompt: Prompt, room: int, role: str, last: bool = False) -> str | None:
        """An answer of at most ``room`` tokens, which is cut there; None where none came, or the budget is spent.

        Args:
            prompt: of no more than ``window - room`` tokens.
            room: tokens of the answer.
            role: whose part of the strategy it is, for the trace.
            last: whether it is the answer to the reader's question, for which the budget has a part.

        Raises:
            UserError: if nobody answers; if the prompt has no room in the window; if it is the last, and none came.
        """

    async def certainty(self, prompt: Prompt, role: str) -> float | None:
        """Minus the entropy of the next token, in nats: 0 where the model is sure; None where the budget is spent.

        Raises:
            UserError: if the model tells no probabilities.
        """

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 for each text, float32 [texts, e].

        Raises:
            UserError: if no embedding model is named.
        """

    async def embed_within(self, text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
        """A vector of length 1 for each span of characters of a text, read in its place there, float32 [spans, e].

        Raises:
            UserError: if no embedding model is named, or it pools by anything but the mean.
        """

    def note(self, text: str) -> None:
        """Say what a reader of the answer must know."""


@dataclass(frozen=True)
class Reading:
    """A text and a question about it.

    Attributes:
        text: of any length.
        question: as a person asks it.
        room: tokens of the answer.
        last: the prompt that asks the question, behind what stands for the text; the second argument says what that
            is: the text itself, parts of it, or notes on it.
    """

    text: str
    question: str
    room: int
    last: Callable[[str, str], Prompt]


class Strategy:
    """A way to read; subclasses are frozen dataclasses whose fields are its options.

    Attributes:
        name: as in the catalogue.
    """

    name: ClassVar[str]

    async def read(self, model: Model, reading: Reading) -> str:
        """The answer to the question.

        Raises:
            UserError: if the window is too small for it.
        """
        raise NotImplementedError

    @property
    def spelling(self) -> str:
        """As users write it, with the options that are not the default."""
        options = [
            f"{one.name}={getattr(self, one.name)!r}"
            for one in fields(self)  # type: ignore[arg-type]
            if getattr(self, one.name) != one.default
        ]
        return self.name + (f"({', '.join(options)})" if options else "")


async def answered(model: Model, reading: Reading, context: str, what: str) -> str:
    """The last call of a strategy: the question behind what stands for the text."""
    answer = await model.ask(reading.last(context, what), reading.room, "answer", last=True)
    assert answer is not None  # the last is answered, or an error
    return answer


def room_left(model: Model, prompt: Prompt, room: int, what: str) -> int:
    """Tokens of text that a prompt without any leaves in the window, beside an answer of ``room`` tokens.

    Raises:
        UserError: if fewer than ``LEAST`` are left.
    """
    left = model.window - model.count(prompt) - room - SLACK
    if left < LEAST:
        raise UserError(
            f"a window of {model.window:,} tokens leaves {max(left, 0)} for text in {what}, expected {LEAST} or more",
            "Ask a shorter question, leave less room (--room), or take a model of a longer window.",
        )
    return left
