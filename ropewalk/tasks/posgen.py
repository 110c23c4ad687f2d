"""PosGen: a sum of near and far numbers, equally hard at every position (Resonance RoPE, arXiv 2403.00071).

A model trained on short rows meets nothing new in long ones but the positions.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from ropewalk.tasks.context import label, quiet
from ropewalk.tasks.task import Sample, Task, first_number_is_right, haystack_tokens
from ropewalk.texts.pieces import TokenUnits

KINDS = ("recurrent", "cot", "semi_recurrent")
INTRODUCTION = " A sequence of numbers, each computed from others before it:"


def following(kind: str, row: Sequence[int], far: int, near: int, modulus: int) -> int:
    """The number behind a row: the sum of its last ``near`` numbers and ``far`` others, modulo ``modulus``.

    The others are those right before the near ones ("recurrent"), the very first ones ("cot"), or those at a pointer
    that moves on at every second number ("semi_recurrent").
    """
    step = len(row) - far - near
    start = {"recurrent": step, "cot": 0, "semi_recurrent": step // 2}[kind]
    return (sum(row[start : start + far]) + sum(row[len(row) - near :])) % modulus


def sequence(kind: str, seeds: Sequence[int], far: int, modulus: int) -> Iterator[int]:
    """The endless row that begins with ``far + near`` seeds."""
    row = list(seeds)
    yield from row
    while True:
        row.append(following(kind, row, far, len(seeds) - far, modulus))
        yield row[-1]


@dataclass(frozen=True)
class PosGen(Task):
    """The last number of a row that fills the prompt.

    Attributes:
        kind: one of ``KINDS``.
        far: how many far numbers are summed.
        near: how many near numbers are summed.
        modulus: of the sum.
    """

    kind: str = "recurrent"
    far: int = 1
    near: int = 3
    modulus: int = 17
    name: str = field(init=False, default="posgen")
    scope: str = "small"
    diffusion: str = field(init=False, default="")

    def __post_init__(self) -> None:
        label(self, name=f"posgen_{self.kind}", diffusion="high" if self.kind == "semi_recurrent" else "low")

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """As many numbers as ``n_tokens`` hold; ``depth`` is not used.

        Raises:
            TooShort: if they do not hold the seeds and one more.
        """
        seeds = [rng.randrange(self.modulus) for _ in range(self.far + self.near)]
        row = sequence(self.kind, seeds, self.far, self.modulus)
        least = [units.ids(f" {number}") for number in islice(row, len(seeds) + 1)]
        head = units.ids(INTRODUCTION)
        left = haystack_tokens(self.name, n_tokens, units.bos, head, *least)
        numbers = least
        for number in row:
            piece = units.ids(f" {number}")
            if len(piece) > left:
                break
            numbers.append(piece)
            left -= len(piece)
        prompt = units.bos + quiet(left, units) + head + [token for piece in numbers[:-1] for token in piece]
        answer = units.decode(numbers[-1]).strip()
        return Sample(prompt, numbers[-1], answer, float("nan"), facts={"numbers": len(numbers)})

    def solve(self, prompt_text: str) -> str:
        """The next number by the rule, from those in the text."""
        row = [int(number) for number in re.findall(r"\d+", prompt_text)]
        return str(following(self.kind, row, self.far, self.near, self.modulus))

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the first integer is the number."""
        return first_number_is_right(prediction, sample)
