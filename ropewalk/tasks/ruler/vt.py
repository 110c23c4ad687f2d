"""RULER's variable tracking: which variables got a value, through chains of assignments in noise (arXiv 2404.06654)."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from ropewalk.tasks.assembly import NOISE, joined, plant
from ropewalk.tasks.ruler.matching import match_all
from ropewalk.tasks.task import Sample, Task, haystack_tokens
from ropewalk.tasks.words import codes, draw
from ropewalk.texts.pieces import TokenUnits

ROOM = 30
EXAMPLE_LINES = 10  # of noise
VALUES = range(10000, 99999)
INTRODUCTION = " Follow the chains of variable assignments hidden in the text below.\n\n"
STEM_END = " variables have this value, namely"


@dataclass(frozen=True)
class VariableTracking(Task):
    """Chains of assignments in noise, behind one solved example with shorter names.

    With ``questions``, each chain is asked for once; RULER has one chain. The noise gives way to the longest
    question, so others may fall short of the asked length by a token or two.

    Attributes:
        chains: how many there are; one is asked for.
        hops: assignments from variable to variable in each, so that ``hops + 1`` variables have its value.
    """

    chains: int = 1
    hops: int = 4
    name: str = "vt"
    scope: str = "small"
    diffusion: str = "high"
    free: bool = True

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """One question; the assignments are spread over the context, so ``depth`` does not matter.

        Raises:
            TooShort: if ``n_tokens`` does not hold the fixed parts.
        """
        return self.questions(n_tokens, rng, units, 1)[0]

    def questions(self, n_tokens: int, rng: random.Random, units: TokenUnits, n: int) -> list[Sample]:
        values = [str(value) for value in rng.sample(VALUES, self.chains + 1)]
        example = units.bos + self._example(values.pop(), n_tokens, rng, units)
        names = list(islice(draw(codes(5), n_tokens, rng), self.chains * (self.hops + 1)))
        chains = [names[i :: self.chains] for i in range(self.chains)]

        stems = [self._stem(value, units) for value in values[:n]]
        answers = [units.answer(STEM_END, " " + " ".join(chain)) for chain in chains[:n]]
        room = max(ROOM, *map(len, answers))
        introduction = units.ids(INTRODUCTION)
        assignments = [_assignments(chain, value, units) for chain, value in zip(chains, values, strict=True)]
        fixed = [example, introduction, max(stems, key=len), [0] * room]
        n_hay = haystack_tokens(self.name, n_tokens, *fixed, *(ids for chain in assignments for ids in chain))

        before = len(example) + len(introduction)
        context = example + introduction + _hidden(assignments, units.filler(NOISE, n_hay), rng, units)
        return [
            Sample(
                context + stem, answer, " ".join(chain), math.nan, tuple(chain), room, before=before, after=len(stem)
            )
            for stem, answer, chain in zip(stems, answers, chains, strict=False)
        ]

    def _example(self, value: str, n_tokens: int, rng: random.Random, units: TokenUnits) -> list[int]:
        """A solved question about little noise; its variables have three letters."""
        names = list(islice(draw(codes(3), n_tokens, rng), self.hops + 1))
        hay = EXAMPLE_LINES * units.ids(NOISE[0])
        hidden = _hidden([_assignments(names, value, units)], hay, rng, units)
        answer = [units.ids(f" {name}") for name in names[:-1]] + [units.ids(f" {names[-1]}\n\n")]
        return joined([units.ids(INTRODUCTION), hidden, self._stem(value, units), *answer])

    def _stem(self, value: str, units: TokenUnits) -> list[int]:
        """The question and the beginning of its answer."""
        number = units.ids(f" {value}")
        question = [
            *units.ids("\n Question: which variables have the value"),
            *number,
            *units.ids(" in the text above?"),
        ]
        answer = units.ids(f" Answer: by the assignments in the text above, {self.hops + 1}") + units.ids(STEM_END)
        return question + answer

    def solve(self, prompt_text: str) -> str:
        """The variables that get the value in the question, in the order of the text."""
        asked = re.findall(r"have the value (\d+) in", prompt_text)
        found: list[str] = []
        for variable, source, value in re.findall(r"VAR (\w+) = (?:VAR (\w+)|(\d+))", prompt_text):
            if source in found or (asked and value == asked[-1]):
                found.append(variable)
        return " ".join(found)

    def score(self, prediction: str, sample: Sample) -> float:
        """The fraction of the variables that the prediction contains."""
        return match_all(prediction, sample)


def _assignments(names: Sequence[str], value: str, units: TokenUnits) -> list[list[int]]:
    """One line per variable: the first gets the value, each other gets the one before it."""
    sources = [f" {value}\n", *(f" VAR {name}\n" for name in names[:-1])]
    variable, equals = units.ids(" VAR"), units.ids(" =")
    return [
        [*variable, *units.ids(f" {name}"), *equals, *units.ids(source)]
        for name, source in zip(names, sources, strict=True)
    ]


def _hidden(chains: Sequence[Sequence[list[int]]], hay: list[int], rng: random.Random, units: TokenUnits) -> list[int]:
    """The hay with every chain's lines at random places between its lines, in order."""
    needles: list[tuple[int, list[int]]] = []
    for chain in chains:
        places = sorted(units.filler_break(NOISE, rng.randrange(len(hay) + 1)) for _ in chain)
        needles += zip(places, chain, strict=True)
    return plant(hay, needles)
