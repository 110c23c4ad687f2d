"""Path traversal: a long route through scattered connections (LongProc, arXiv 2501.05414).

The answer is the whole trace; a prediction earns the share of it before its first error.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from itertools import pairwise

from ropewalk.tasks.context import Question, SharedContext, label, pose, records_context, share_before_first_error
from ropewalk.tasks.names import TOWN_HEADS, distinct, town
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

MEANS = ("bus", "train", "plane", "ferry")
CONNECTION = re.compile(r"From ([\w-]+) one can go to ([\w-]+) by (\w+)\.")
HOP = re.compile(r"From [\w-]+ to [\w-]+ by \w+\.")


@dataclass(frozen=True)
class PathTraversal(SharedContext):
    """The only route between two towns, among as many connections as the context holds.

    From every town there is one connection, so that no search is needed, and one goes on from the destination.

    Attributes:
        hops: of the route; 24 make about 500 tokens of answer.
    """

    hops: int = 24
    name: str = field(init=False, default="path_traversal")
    scope: str = "large"
    diffusion: str = "high"

    introduction = " Below are all connections between some towns. From every town there is only one."

    def __post_init__(self) -> None:
        label(self, name=f"path_traversal_{self.hops}")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """A route of its own for each depth; its connections stand anywhere."""
        towns = distinct(lambda: f"{town(rng)}-by-{rng.choice(TOWN_HEADS)}")
        known: list[str] = []

        def connection(start: str, end: str) -> str:
            known.append(start)
            return f" From {start} one can go to {end} by {rng.choice(MEANS)}."

        connections, questions = [], []
        for _ in depths:
            route = [next(towns) for _ in range(self.hops + 2)]
            own = [connection(*pair) for pair in pairwise(route)]
            connections += own
            stem = f" What is the route from {route[0]} to {route[-2]}, connection by connection? It is:"
            answer = "".join(own[:-1]).replace(" one can go to ", " to ").strip()
            questions.append(Question(stem, answer, facts={"hops": self.hops}))
        anywhere = [rng.random() for _ in connections]
        others = (connection(new, rng.choice(known)) for new in towns)
        context, _ = records_context(
            self.name, n_tokens, units, self.introduction, connections, anywhere, questions, others
        )
        return pose(context, questions, n_tokens, units)

    def solve(self, prompt_text: str) -> str:
        """The route, followed connection by connection."""
        after = {start: (end, how) for start, end, how in CONNECTION.findall(prompt_text)}
        here, goal = re.findall(r"route from ([\w-]+) to ([\w-]+),", prompt_text)[-1]
        hops: list[str] = []
        while here != goal and here in after and len(hops) < len(after):
            there, how = after[here]
            hops.append(f"From {here} to {there} by {how}.")
            here = there
        return " ".join(hops)

    def score(self, prediction: str, sample: Sample) -> float:
        """The share of the route up to the first wrong connection."""
        return share_before_first_error(HOP.findall(prediction), HOP.findall(sample.text))
