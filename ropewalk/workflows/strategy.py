"""What a strategy is: a way to answer a question about a text by what a small interface offers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ropewalk.backends.chat.chat import Prompt
from ropewalk.common.errors import UserError
from ropewalk.workflows.trace import together

LEAST = 32  # tokens of a text that a call reads, at least
SLACK = 16  # tokens by which a text in its place may be longer than on its own
WHOLE, PARTS, NOTES = "the text", "parts of a text that is longer", "notes on a text that is longer"


class NoRoom(UserError):
    """A window that is too small for a strategy."""


class NoBudget(UserError):
    """A budget that is too small for a strategy."""


class NoAnswer(UserError):
    """The last call was answered with nothing that says anything."""


class Model(Protocol):
    """What a strategy may use of a language model.

    Attributes:
        window: tokens that a prompt and its answer may have together.
        spent: tokens of all calls so far; of those under way, the most that they may take.
        kept_free: tokens that the budget keeps for the last call.
    """

    window: int

    @property
    def spent(self) -> int: ...

    @property
    def kept_free(self) -> int: ...

    def count(self, prompt: Prompt) -> int:
        """Tokens of a prompt, with those of the chat template."""

    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """First character and the one behind the last of each token of a text."""

    def affordable(self, calls: int, tokens: int, beside: int = 0) -> int:
        """How many of ``calls`` calls of ``tokens`` tokens the budget allows beside others and the last answer."""

    def last_takes(self, tokens: int) -> None:
        """Say that the last call takes no more tokens, answer included: until then, a window is kept free for it."""

    async def ask(self, prompt: Prompt, room: int, role: str, last: bool = False, draw: int = 0) -> str | None:
        """An answer of at most ``room`` tokens, which is cut there; None where none came, or the budget is spent.

        Args:
            prompt: of no more than ``window - room`` tokens.
            room: tokens of the answer.
            role: whose part of the strategy it is, for the trace.
            last: whether it is the answer to the reader's question, for which the budget has a part.
            draw: 0 for the likeliest answer; else the number of another one, which is drawn.

        Raises:
            NoRoom: if the window has no room for the prompt.
            NoBudget: if it is the last, and the budget has nothing for it.
            NoAnswer: if it is the last, and the answer is empty.
            UserError: if nobody answers; if another answer is wanted of a model that always gives the same.
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
        reads: what the text of a reading is: any, or rows of JSON with "question" and "answer", one a line.
    """

    name: ClassVar[str]
    reads: ClassVar[Literal["text", "examples"]] = "text"

    async def read(self, model: Model, reading: Reading) -> str:
        """The answer to the question.

        Raises:
            UserError: if the window is too small for it.
        """
        raise NotImplementedError

    @property
    def embeds(self) -> bool:
        """Whether it needs vectors of texts."""
        return getattr(self, "by", "") == "vectors"

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


def tokens_of_last(model: Model, reading: Reading, notes: int) -> int:
    """Tokens of the last call at most, with its answer, where notes of so many tokens stand for the text."""
    return model.count(reading.last("", NOTES)) + notes + SLACK + reading.room


async def all_asked(model: Model, prompts: Sequence[Prompt], room: int | Sequence[int], role: str) -> list[str | None]:
    """Answers to prompts that are asked side by side; None where none came.

    The first as many as the budget has calls for are asked: which these are does not depend on how fast answers come.

    Args:
        model: that is asked.
        prompts: that do not depend on one another.
        room: tokens of an answer; or of each of them.
        role: of each, for the trace.
    """
    if not prompts:
        return []
    rooms = [room] * len(prompts) if isinstance(room, int) else room
    most = model.affordable(len(prompts), max(map(operator.add, map(model.count, prompts), rooms)))
    if most < len(prompts):
        model.note(f"{len(prompts) - most:,} of {len(prompts):,} calls of a {role} were not made: the budget")
    asked = (
        model.ask(prompt, rooms[i], f"{role} {i + 1} of {len(prompts)}") for i, prompt in enumerate(prompts[:most])
    )
    return [*await together(*asked), *[None] * (len(prompts) - most)]


def cut(model: Model, text: str, tokens: int) -> str:
    """As many tokens of a text as that, from its beginning."""
    spans = model.spans(text)
    return text if len(spans) <= tokens else text[: spans[tokens][0]]


def room_left(model: Model, prompt: Prompt, room: int, what: str) -> int:
    """Tokens of text that a prompt without any leaves in the window, beside an answer of ``room`` tokens.

    Raises:
        NoRoom: if fewer than ``LEAST`` are left.
    """
    left = model.window - model.count(prompt) - room - SLACK
    if left < LEAST:
        raise NoRoom(
            f"a window of {model.window:,} tokens leaves {max(left, 0)} for text in {what}, expected {LEAST} or more",
            "Ask a shorter question, leave less room for answers (--room) or notes (its options), or take "
            "a model of a longer window.",
        )
    return left
