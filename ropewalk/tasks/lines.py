"""LongChat-Lines: the value of one named line among as many as the context holds (after LongChat; arXiv 2308.10882)."""

from __future__ import annotations

import random
import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from string import ascii_uppercase

from ropewalk.tasks.context import Question, SharedContext, label, pose, records_context
from ropewalk.tasks.names import distinct, thing
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

INTRODUCTION = " Below is a record of lines. Each line has a name and a register content. Remember all of them."
LARGEST = 50000

KEYS: dict[str, Callable[[random.Random], str]] = {
    "words": thing,
    "uuids": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "letters": lambda rng: "".join(rng.choices(ascii_uppercase, k=6)),
}


@dataclass(frozen=True)
class Lines(SharedContext):
    """Lines are not numbered: then models would count instead of looking up.

    Attributes:
        keys: what lines are named by, "words", "uuids" or "letters".
    """

    keys: str = "words"
    name: str = field(init=False, default="lines")
    scope: str = "small"
    diffusion: str = "high"

    def __post_init__(self) -> None:
        label(self, name="lines" if self.keys == "words" else f"lines_{self.keys}")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """One line per depth; all others are distractors."""
        names = distinct(lambda: KEYS[self.keys](rng))
        asked = [(next(names), rng.randint(1, LARGEST)) for _ in depths]
        questions = [
            Question(f" What is the REGISTER_CONTENT of line {key}? It is", f"<{value}>", depth)
            for (key, value), depth in zip(asked, depths, strict=True)
        ]
        context, _ = records_context(
            self.name, n_tokens, units, INTRODUCTION, [line(*one) for one in asked], depths, questions,
            (line(key, rng.randint(1, LARGEST)) for key in names),
        )  # fmt: skip
        return pose(context, questions, n_tokens, units)

    def solve(self, prompt_text: str) -> str:
        """The content of the line that the question names."""
        asked = re.findall(r"REGISTER_CONTENT of line (\S+)\?", prompt_text)[-1]
        found = re.search(rf" {asked}: REGISTER_CONTENT is (<\d+>)", prompt_text)
        return found.group(1) if found else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the last integer up to the first ">" is the content, so that a repeated name does no harm."""
        numbers = re.findall(r"\d+", prediction.partition(">")[0])
        return float(numbers[-1:] == re.findall(r"\d+", sample.text))


def line(key: str, value: int) -> str:
    """One record."""
    return f" line {key}: REGISTER_CONTENT is <{value}>."
