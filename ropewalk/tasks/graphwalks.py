"""GraphWalks-like: breadth-first search and parents on a directed graph that is told edge by edge (openai/graphwalks).

Not as there: nodes are random digits (there the beginnings of MD5 sums of small numbers, which a model may know), edges
follow each other in a line, there is one example instead of three, and an empty list that is expected and given is
right. The list is read from behind the last "Final Answer:", else the first one counts; strictly, the last line has to
end with it.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from ropewalk.tasks.context import (
    SPARE,
    Question,
    SharedContext,
    as_many_as_fit,
    context_tokens,
    label,
    pose,
    records_context,
)
from ropewalk.tasks.metrics import set_f1
from ropewalk.tasks.names import distinct
from ropewalk.tasks.task import Sample
from ropewalk.tasks.words import in_random_order
from ropewalk.texts.pieces import TokenUnits

DIGITS = 8  # hexadecimal, of a node
DEGREES = range(2, 5)  # edges for each node, in the mean
LEAST = 6  # edges
FEWEST = 8  # nodes: more pairs than edges, whatever the degree
LARGEST = 50  # nodes of an answer, and no more than there is room for in
ANSWERS = 1 / 8  # of all tokens
DEEPEST = 5  # search
EMPTY = 0.1  # of the questions, whose answer is empty
NODE = rf"([0-9a-f]{{{DIGITS}}})"
EDGE = re.compile(f"{NODE} -> {NODE};")
LIST = re.compile(r"\[([^\[\]]*)\]")
FINAL = "Final Answer:"
INTRODUCTIONS = {
    "bfs": (
        " A directed graph is told edge by edge: a -> b; leads from a to b. A breadth-first search from a node to depth"
        " d returns only the nodes whose shortest path from there has d edges. Of a1 -> b2; b2 -> c3; a1 -> d4; d4 ->"
        " c3; the one from a1 to depth 1 returns [b2, d4], to depth 2 [c3], to depth 3 []. The graph:"
    ),
    "parents": (
        " A directed graph is told edge by edge: a -> b; leads from a to b. The parents of a node are the nodes with an"
        " edge to it. Of a1 -> b2; b2 -> c3; a1 -> d4; d4 -> c3; the parents of c3 are [b2, d4], those of a1 []."
        " The graph:"
    ),
}
OPERATIONS = {"bfs": "breadth-first search from {node} to depth {depth}", "parents": "parents of {node}"}
ASKED = re.compile(rf"Operation: (?:breadth-first search from|parents of) {NODE}(?: to depth (\d+))?\.")
Edge = tuple[str, str]


@dataclass(frozen=True)
class Graphwalks(SharedContext):
    """Some nodes of a random graph of as many edges as the context holds.

    Attributes:
        operation: "bfs" for the nodes at a distance from one, "parents" for those with an edge to one.
    """

    operation: str = "bfs"
    name: str = field(init=False, default="graphwalks-like")
    scope: str = "large"
    diffusion: str = "high"
    free: bool = True  # nodes in any order

    def __post_init__(self) -> None:
        label(self, name=f"graphwalks-like_{self.operation}", scope="large" if self.operation == "bfs" else "small")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """Up to one question per depth about one graph; the depths are not used, edges stand anywhere."""
        names = distinct(lambda: f"{rng.getrandbits(4 * DIGITS):0{DIGITS}x}")
        introduction = INTRODUCTIONS[self.operation]
        some = [next(names) for _ in range(LARGEST)]
        each = len(units.ids(told((some[0], some[1]))))
        most = max(1, min(LARGEST, int(n_tokens * ANSWERS) // each))
        longest = self._question(some[0], DEEPEST, some[:most])
        least = [0] * (LEAST * each)
        n_edges = len(least) + context_tokens(
            self.name, n_tokens, units, [longest], units.bos, units.ids(introduction), least
        )
        nodes = [next(names) for _ in range(max(FEWEST, n_edges // each // rng.choice(DEGREES)))]
        edges = as_many_as_fit(n_edges, distinct(lambda: random_edge(nodes, rng)), told, units)
        asked = islice(self._asked(edges, most, rng), len(depths))
        questions = [self._question(node, depth, found) for node, depth, found in asked]
        anywhere = [i / len(edges) for i in range(len(edges))]
        context, _ = records_context(
            self.name, n_tokens, units, introduction, list(map(told, edges)), anywhere, questions, ()
        )
        return pose(context, questions, n_tokens, units)

    def _question(self, node: str, depth: int, found: list[str]) -> Question:
        stem = f" Operation: {OPERATIONS[self.operation].format(node=node, depth=depth)}. {FINAL}"
        facts = {"depth": depth, "nodes": len(found)}
        return Question(stem, listed(found), facts=facts, spare=SPARE)

    def _asked(self, edges: list[Edge], most: int, rng: random.Random) -> Iterator[tuple[str, int, list[str]]]:
        """Nodes, depths and answers of at most ``most`` nodes, in random order and none twice."""
        follows = self._follows(edges)
        nodes = sorted({node for edge in edges for node in edge})
        seen: set[tuple[str, int]] = set()
        while True:
            empty = rng.random() < EMPTY
            possible = (
                (node, depth, found)
                for node in in_random_order(nodes, rng)
                for depth, found in in_random_order(enumerate(self._levels(follows, node), 1), rng)
                if len(found) <= most and bool(found) != empty and (node, depth) not in seen
            )
            if (new := next(possible, None)) is not None:
                seen.add(new[:2])
                yield new
            elif not empty:
                return

    def _follows(self, edges: Iterable[Edge]) -> dict[str, list[str]]:
        """The nodes that an edge leads to; for parents, those that it comes from."""
        follows = defaultdict(list)
        for start, end in edges if self.operation == "bfs" else ((end, start) for start, end in edges):
            follows[start].append(end)
        return dict(follows)

    def _levels(self, follows: dict[str, list[str]], node: str) -> list[list[str]]:
        """The answers for the depths 1, 2, ...; parents have one."""
        levels, known, level = [], {node}, [node]
        for _ in range(DEEPEST if self.operation == "bfs" else 1):
            level = sorted({other for one in level for other in follows.get(one, ())} - known)
            known |= set(level)
            levels.append(level)
        return levels

    def solve(self, prompt_text: str) -> str:
        """The nodes, by walking the graph that the prompt tells."""
        node, depth = ASKED.findall(prompt_text)[-1]
        follows = self._follows(EDGE.findall(prompt_text))
        return listed(self._levels(follows, node)[int(depth or 1) - 1])

    def score(self, prediction: str, sample: Sample) -> float:
        """F1 of the nodes; 1.0 where both lists are empty."""
        found = read_list(prediction)
        return 0.0 if found is None else set_f1(found, read_list(sample.text) or ())

    def score_strictly(self, prediction: str, sample: Sample) -> float:
        """The same of a list with which the last line ends."""
        last = prediction.strip().split("\n")[-1]
        return self.score(last, sample) if last.endswith("]") else 0.0


def random_edge(nodes: list[str], rng: random.Random) -> Edge:
    """From one node to another."""
    start, end = rng.sample(nodes, 2)
    return start, end


def told(edge: Edge) -> str:
    """One record."""
    return f" {edge[0]} -> {edge[1]};"


def listed(nodes: Iterable[str]) -> str:
    """An answer."""
    return f"[{', '.join(nodes)}]"


def read_list(text: str) -> list[str] | None:
    """What stands in the first brackets behind the last "Final Answer:", or anywhere; None where there are none."""
    found = LIST.search(text.rpartition(FINAL)[2])
    return None if found is None else re.findall(r"[^\s,'\"`]+", found[1])
