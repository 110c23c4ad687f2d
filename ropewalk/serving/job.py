"""What is generated, what comes back, and for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length"]


class Unavailable(Exception):
    """The request cannot be run now; its text is for the client."""


@dataclass(frozen=True)
class Request:
    """What to generate.

    Attributes:
        prompt: token ids, at least one.
        max_tokens: to generate at most, at least one.
        temperature: of sampling; 0 takes the most likely token.
        top_p: sample from the most likely tokens that have this probability together.
        top_k: sample from so many of the most likely tokens; 0 means all.
        seed: of sampling; None takes a fresh one.
        stop: texts that end the generation and are left out.
        presence_penalty: taken off the logit of every token that was generated before.
        frequency_penalty: taken off it once for every time that it was.
        logprobs: how many likely tokens to tell beside each that was chosen; None tells nothing.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logprobs: int | None = None

    @property
    def length(self) -> int:
        """Tokens in the cache at the end."""
        return len(self.prompt) + self.max_tokens


@dataclass(frozen=True)
class Token:
    """A token as it is told about.

    Attributes:
        text: what it adds.
        logprob: of the model, before temperature, penalties and what else changes the choice.
        likely: the most likely tokens in its place, best first.
    """

    text: str
    logprob: float
    likely: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Piece:
    """Some text of an answer.

    Attributes:
        text: that follows what was given before; may be empty at the end.
        tokens: generated so far.
        finish: why the answer ends here; None if it goes on.
        told: about the tokens since the last piece, if that was asked for; the one that ends a text is not told.
        cached: tokens of the prompt that were not read, since another text begins with them.
    """

    text: str
    tokens: int
    finish: Finish | None = None
    told: tuple[Token, ...] = ()
    cached: int = 0


class Job:
    """A request under way.

    Attributes:
        request: what to generate.
        deliver: called with every piece, or with the exception that ends the job, by another thread.
        cancelled: set by anyone; the job is dropped at the next token.
    """

    def __init__(self, request: Request, deliver: Callable[[Piece | Exception], None]):
        self.request, self.deliver = request, deliver
        self.cancelled = threading.Event()
