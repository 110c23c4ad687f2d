"""What a synthetic task is: it builds a prompt of an exact length, can solve it itself, and scores an answer."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from typing import Protocol

from ropewalk.evaluation.units import TokenUnits


@dataclass(frozen=True)
class Sample:
    """One question about a context.

    Attributes:
        prompt: token ids up to and including the question's stem.
        answer: token ids of the expected continuation; ``len(prompt) + len(answer)`` is the asked length exactly.
        text: the expected answer as text, stripped.
        depth: where the needed information stands, 0 (start) to 1 (end of the context).
    """

    prompt: list[int]
    answer: list[int]
    text: str
    depth: float


class Task(Protocol):
    """A task: ``sample`` a prompt, ``solve`` it from its text alone (must score 1.0), ``score`` a prediction."""

    @property
    def name(self) -> str: ...

    @property
    def scope(self) -> str:
        """How much information is needed: "small" or "large"."""

    @property
    def diffusion(self) -> str:
        """How hard it is to find: "low" or "high"."""

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample: ...

    def solve(self, prompt_text: str) -> str: ...

    def score(self, prediction: str, sample: Sample) -> float: ...


class TooShort(ValueError):
    """The asked length does not hold the fixed parts of a task."""


def first_number_is_right(prediction: str, sample: Sample) -> float:
    """1.0 if the first integer of the prediction is the expected one."""
    first = re.search(r"\d+", prediction)
    return float(first is not None and first.group() == sample.text)


def haystack_tokens(task: str, n_tokens: int, *fixed: list[int]) -> int:
    """How many haystack tokens fill a prompt of ``n_tokens`` (answer included) around its fixed parts.

    Raises:
        TooShort: if the fixed parts alone are that long.
    """
    n_fixed = sum(map(len, fixed))
    if n_fixed >= n_tokens:
        raise TooShort(f"{task} needs more than {n_fixed} tokens with this tokenizer, {n_tokens} were asked for")
    return n_tokens - n_fixed
