"""What a synthetic task is: it builds a prompt of an exact length, can solve it itself, and scores an answer."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ropewalk.texts.pieces import TokenUnits


@dataclass(frozen=True)
class Sample:
    """One question about a context.

    Attributes:
        prompt: token ids up to and including the question's stem.
        answer: token ids of a continuation that scores 1.0.
        text: that continuation as text, stripped.
        depth: where the needed information stands, 0 (start) to 1 (end of the context); nan where it is spread.
        references: what a right prediction contains, for tasks that score by parts; ``(text,)`` unless given.
        room: tokens kept free for the answer, so that ``len(prompt) + room`` is the asked length exactly;
            ``len(answer)`` unless given (it is more where a model may need more words than the shortest answer).
        facts: what a score by groups needs (skill, distance, hops, ...), JSON values.
        before: tokens of the prompt that stand before the text that is asked about.
        after: those of the question behind it; 0 where the prompt cannot be told into a text and a question.
    """

    prompt: list[int]
    answer: list[int]
    text: str
    depth: float
    references: tuple[str, ...] = ()
    room: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    before: int = 0
    after: int = 0

    def __post_init__(self) -> None:
        if not self.references:
            object.__setattr__(self, "references", (self.text,))
        if not self.room:
            object.__setattr__(self, "room", len(self.answer))


class Task:
    """A task; subclasses are frozen dataclasses whose fields are its options.

    Attributes:
        name: as on the command line and in results.
        scope: how much information is needed, "small" or "large".
        diffusion: how hard it is to find, "low" or "high".
        free: False if exactly one continuation is right, so that one forward on prompt and answer decides as greedy
            decoding would; True if answers must be generated.
        alike: True if all samples need about as many tokens, so that one that does not fit stands for all.
    """

    name: str
    scope: str
    diffusion: str
    free: bool = False
    alike: ClassVar[bool] = True

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """One question whose prompt and room have ``n_tokens`` tokens together; all chance comes from ``rng``.

        Raises:
            TooShort: if ``n_tokens`` does not hold the fixed parts.
        """
        raise TypeError(f"{type(self).__name__} makes no samples")

    def questions(self, n_tokens: int, rng: random.Random, units: TokenUnits, n: int) -> list[Sample]:
        """``n`` questions about one context where the task can ask more than one, else a single one.

        Their prompts share all but the question, so that a context need not be read twice.
        """
        return [self.sample(n_tokens, rng, units)]

    def solve(self, prompt_text: str) -> str:
        """The answer, found in the prompt's text alone by rules; it scores 1.0."""
        raise TypeError(f"{type(self).__name__} has no solver")

    def guess(self, prompt_text: str) -> str:
        """The best answer of who knows the task and the question but has read nothing; empty if there is none.

        The likeliest label, all pairs, a refusal: what scores have to be held against.
        """
        return ""

    def score(self, prediction: str, sample: Sample) -> float:
        """How right a prediction is, 0 to 1."""
        raise TypeError(f"{type(self).__name__} has no score")

    def score_strictly(self, prediction: str, sample: Sample) -> float | None:
        """The same by the strictest reading that people quote; None where a task has one reading alone."""
        return None

    def readings(self, prediction: str, sample: Sample) -> dict[str, float]:
        """What else a generated answer shows, 0 to 1 each, by name: by another rule, or what is wrong with it.

        A name may be left out where a sample does not ask for it; then the others make up its rate.
        """
        strictly = self.score_strictly(prediction, sample)
        return {} if strictly is None else {"read strictly": strictly}


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
