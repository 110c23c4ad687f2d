"""Countdown: the search for a way to combine numbers to a target (LongProc, arXiv 2501.05414).

The answer is the whole trace; a prediction earns the share of it before its first error.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

from ropewalk.tasks.context import (
    PLAIN,
    SPARE,
    Background,
    Question,
    SharedContext,
    hidden_context,
    label,
    pose,
    share_before_first_error,
)
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

LARGEST = 2000  # no result may reach it
TRY = re.compile(r"(\d+ [-+*/] \d+ = \d+) leaves [\d ]+\.|Solution: [^.]*\.")


def search(numbers: Sequence[int], done: tuple[str, ...] = ()) -> Iterator[tuple[str, int | None, tuple[str, ...]]]:
    """Depth-first search over all ways to combine numbers.

    Pairs come in the order of the numbers, the larger one of a pair stands first, the operations are + - * /, and
    results are whole, not negative and below 2000; a result goes behind the numbers that are left.

    Yields:
        What is tried, the number it leads to if only one is left, and all operations up to here.
    """
    for i, j in combinations(range(len(numbers)), 2):
        a, b = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        for sign, result in (("+", a + b), ("-", a - b), ("*", a * b), ("/", a // b if b and a % b == 0 else LARGEST)):
            if result < LARGEST:
                left, step = [*rest, result], f"{a} {sign} {b} = {result}"
                tried = f"{step} leaves {' '.join(map(str, left))}."
                yield tried, None if rest else result, (*done, step)
                yield from search(left, (*done, step))


def search_trace(numbers: Sequence[int], target: int) -> list[str]:
    """All that is tried up to the first solution, and the solution."""
    trace = []
    for tried, reached, steps in search(numbers):
        trace.append(tried)
        if reached == target:
            return [*trace, f"Solution: {', '.join(steps)}."]
    return trace


def solves(solution: str, numbers: Sequence[int], target: int) -> bool:
    """Whether the steps of a solution use every number once and end at the target."""
    left = list(numbers)
    for a, sign, b, result in re.findall(r"(\d+) ([-+*/]) (\d+) = (\d+)", solution):
        x, y = int(a), int(b)
        try:
            left.remove(x)
            left.remove(y)
        except ValueError:
            return False
        right = {"+": x + y, "-": x - y, "*": x * y, "/": x // y if y and x % y == 0 else -1}[sign]
        if right != int(result):
            return False
        left.append(right)
    return left == [target]


@dataclass(frozen=True)
class Countdown(SharedContext):
    """Numbers are combined until a target is reached; the answer is the search for it.

    Attributes:
        lines: the longest trace; the target is the last one that it first reaches.
        numbers: how many there are.
        background: what the numbers are hidden in.
    """

    lines: int = 60
    numbers: int = 4
    background: Background = PLAIN
    name: str = field(init=False, default="countdown")
    scope: str = "small"
    diffusion: str = "low"
    free: bool = True

    introduction = (
        " Numbers and a target are hidden in the text below. The target is reached by adding, subtracting, multiplying"
        " or dividing two of the numbers at a time. Try the pairs in their order, the larger number first, with + - * /"
        " in this order, go on with what is left, and put each result last. Only whole results from 0 to 1999 count."
    )

    def __post_init__(self) -> None:
        label(self, name=f"countdown_{self.lines}")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """One question; the numbers stand at the first depth."""
        numbers = [rng.randint(1, 20) for _ in range(self.numbers)]
        first: dict[int, int] = {}
        for i, (_, reached, _) in zip(range(self.lines), search(numbers), strict=False):
            if reached is not None:
                first.setdefault(reached, i)
        target = max(first, key=first.__getitem__)
        fact = f" The numbers are {', '.join(map(str, numbers))}. The target is {target}."
        stem = (
            " How is the target reached? Write every try, as in 9 - 4 = 5 leaves 3 5. At the end write all steps, as in"
            " Solution: 9 - 4 = 5, 5 * 3 = 15. Search:"
        )
        trace, facts = " ".join(search_trace(numbers, target)), {"numbers": numbers, "target": target}
        question = Question(stem, trace, depths[0], facts=facts, spare=SPARE)
        context = hidden_context(
            self.name, n_tokens, units, self.introduction, [fact], depths[:1], [question], self.background, rng
        )
        return pose(context, [question], n_tokens, units)

    def solve(self, prompt_text: str) -> str:
        """The search."""
        numbers, target = re.findall(r"The numbers are ([\d, ]+)\. The target is (\d+)\.", prompt_text)[-1]
        return " ".join(search_trace([int(number) for number in numbers.split(", ")], int(target)))

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 for any solution that is right, else the share of tries before the first wrong one."""
        solution = prediction.rpartition("Solution:")[2].partition(".")[0]
        if "Solution:" in prediction and solves(solution, sample.facts["numbers"], sample.facts["target"]):
            return 1.0
        said, expected = ([found.group() for found in TRY.finditer(text)] for text in (prediction, sample.text))
        return share_before_first_error(said, expected)
