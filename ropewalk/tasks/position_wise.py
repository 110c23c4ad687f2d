"""Position-wise QA: the same question with its record at each place among the others (after SoFA, arXiv 2503.13792)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from ropewalk.tasks.context import Question, SharedContext, among, context_tokens, filled, label, places, pose
from ropewalk.tasks.names import distinct, person
from ropewalk.tasks.task import Sample, first_number_is_right
from ropewalk.texts.pieces import TokenUnits

INTRODUCTION = " Below are the locker numbers of some people."


@dataclass(frozen=True)
class PositionWise(SharedContext):
    """A fixed number of records; with one seed, depth moves the asked record and leaves the others in their order.

    The spread of the scores over ``facts["position"]`` is the position bias.

    Attributes:
        records: how many there are, at any length.
    """

    records: int = 20
    name: str = field(init=False, default="position_wise")
    scope: str = "small"
    diffusion: str = "low"

    def __post_init__(self) -> None:
        label(self, name=f"position_wise_{self.records}")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """One record per depth, at most all."""
        depths = depths[: self.records]
        names, numbers = distinct(lambda: person(rng)), distinct(lambda: str(rng.randint(10000, 99999)))
        lockers = [(next(names), next(numbers)) for _ in range(self.records)]
        at = places(depths, self.records - len(depths))
        questions = [
            Question(
                f" Which number has the locker of {who}? The number is", number, depth, facts={"position": position}
            )
            for (who, number), depth, position in zip(lockers, depths, at, strict=False)
        ]
        pieces = [units.ids(f" The locker of {who} has the number {number}.") for who, number in lockers]
        rows = among(pieces[len(depths) :], pieces[: len(depths)], at)
        head = units.ids(INTRODUCTION)
        n_filler = context_tokens(self.name, n_tokens, units, questions, units.bos, head, *pieces)
        context = filled(head, rows, n_filler + len(head) + sum(map(len, pieces)), units)
        return pose(context, questions, n_tokens, units)

    def solve(self, prompt_text: str) -> str:
        """The number of the asked locker."""
        who = re.findall(r"the locker of (.+)\?", prompt_text)[-1]
        found = re.search(rf"locker of {who} has the number (\d+)\.", prompt_text)
        return found.group(1) if found else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the first integer is the number."""
        return first_number_is_right(prediction, sample)
