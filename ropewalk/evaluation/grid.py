"""The needles of a whole grid of lengths and depths in one haystack: reading it once answers every cell.

The context of a shorter length is the beginning of that of a longer one, so that all prompts lie on one path, from
which a question branches off at each length. It is another task than a single needle, a harder one: all other needles
are distractors.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from itertools import cycle, islice

from ropewalk.tasks.niah import CITIES, NeedleInHaystack, needle, stem
from ropewalk.tasks.task import Sample, TooShort
from ropewalk.texts.pieces import TokenUnits


@dataclass(frozen=True)
class Fact:
    """A city's code, as a needle at ``start .. end`` of the context, and the question for it."""

    city: str
    code: str
    start: int
    pin: list[int] = field(repr=False)

    @property
    def end(self) -> int:
        return self.start + len(self.pin)


@dataclass(frozen=True)
class PlantedGrid:
    """One haystack with the needles of every cell; neighbouring cells whose needles would overlap share one.

    Needles stand where the grid says, between words or inside a sentence, but never across the end of a context.

    Attributes:
        task: whose haystack is used.
        lengths: of prompts with their answers, in tokens, increasing.
        depths: 0 (start) to 1 (end).
        seed: of haystack, cities and codes.
        round: another number is another haystack with other needles.
        units: the tokenizer's.

    Raises:
        TooShort: if the shortest length does not hold a question and a needle.
        ValueError: if there are more cells than cities to ask for.
    """

    task: NeedleInHaystack
    lengths: tuple[int, ...]
    depths: tuple[float, ...]
    seed: int
    round: int
    units: TokenUnits
    facts: dict[tuple[int, float], Fact] = field(init=False, repr=False)
    stream: list[int] = field(init=False, repr=False)  # the longest context

    def __post_init__(self) -> None:
        n = len(self.lengths) * len(self.depths)
        if n > len(CITIES):
            raise ValueError(f"a grid of {n} cells needs more than the {len(CITIES)} cities that there are")
        chance = random.Random(f"{self.seed}/planted/{self.round}")
        object.__setattr__(self, "facts", self._placed(chance, n))
        object.__setattr__(self, "stream", self._filled(chance))

    def sample(self, length: int, depth: float) -> Sample:
        """The question of one cell; its context is the beginning of the one haystack."""
        fact = self.facts[length, depth]
        question, answer = self._question(fact.city, fact.code)
        context = self.stream[: length - len(question) - len(answer)]
        before, after = len(self.units.bos), len(question)
        return Sample(context + question, answer, fact.code, depth, before=before, after=after)

    def _question(self, city: str, code: str) -> tuple[list[int], list[int]]:
        return self.units.ids(stem(city)), self.units.answer(stem(city), f" {code}")

    def _placed(self, chance: random.Random, n: int) -> dict[tuple[int, float], Fact]:
        cities, codes = chance.sample(CITIES, n), [str(code) for code in chance.sample(range(10000, 100000), n)]
        asked = [sum(map(len, self._question(city, code))) for city, code in zip(cities, codes, strict=True)]
        ends = {length: length - max(asked) for length in self.lengths}  # of what every context of a length has
        tails = [(end, length - min(asked)) for length, end in ends.items()]  # where contexts of a length end
        pins = [self.units.ids(needle(city, code)) for city, code in zip(cities, codes, strict=True)]
        wanted = []
        for i, (length, depth) in enumerate((length, depth) for length in self.lengths for depth in self.depths):
            room = ends[length] - len(self.units.bos) - len(pins[i])
            if room < 0:
                raise TooShort(f"{length} tokens do not hold a needle and its question with this tokenizer")
            wanted.append((len(self.units.bos) + round(depth * room), length, depth, i))
        placed: dict[tuple[int, float], Fact] = {}
        facts: list[Fact] = []
        for start, length, depth, i in sorted(wanted):
            last = facts[-1] if facts else None
            if last is None or start >= last.end:
                for low, high in tails:
                    if start < high and start + len(pins[i]) > low:
                        start = max(high, last.end if last else 0)
                if start + len(pins[i]) <= ends[length]:
                    facts.append(Fact(cities[i], codes[i], start, pins[i]))
            inside = [fact for fact in facts if fact.end <= ends[length]]
            if not inside:
                raise TooShort(f"{length} tokens do not hold a needle beside the ends of other lengths")
            placed[length, depth] = inside[-1]
        return placed

    def _filled(self, chance: random.Random) -> list[int]:
        hay = cycle(self.task.haystack)
        start = chance.randrange(len(self.task.haystack))
        list(islice(hay, start))
        stream = list(self.units.bos)
        for fact in sorted({fact.start: fact for fact in self.facts.values()}.values(), key=lambda fact: fact.start):
            stream += [*islice(hay, fact.start - len(stream)), *fact.pin]
        return stream + list(islice(hay, max(self.lengths) - len(stream)))
