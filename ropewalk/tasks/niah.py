"""Needle in a haystack: one fact at a chosen depth of natural text, asked for at the end (after gkamradt's test).

The answer is a number, so that scoring needs no judge. Needles are drawn from many templates' fillings, so that no
model can know them by heart.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from ropewalk.tasks.assembly import behind_sentence, stretch
from ropewalk.tasks.task import Sample, Task, first_number_is_right, haystack_tokens
from ropewalk.texts.pieces import TokenUnits

CITIES = (
    "Amsterdam", "Athens", "Baku", "Bangkok", "Beirut", "Belgrade", "Berlin", "Bogota", "Boston", "Brussels",
    "Budapest", "Cairo", "Caracas", "Chicago", "Colombo", "Copenhagen", "Dakar", "Dallas", "Damascus", "Delhi",
    "Denver", "Dhaka", "Doha", "Dublin", "Geneva", "Hanoi", "Havana", "Helsinki", "Istanbul", "Jakarta",
    "Kabul", "Kampala", "Kigali", "Kyoto", "Lagos", "Lima", "Lisbon", "London", "Luanda", "Lusaka",
    "Madrid", "Manila", "Melbourne", "Miami", "Minsk", "Montreal", "Moscow", "Mumbai", "Munich", "Nairobi",
    "Naples", "Osaka", "Oslo", "Paris", "Perth", "Porto", "Prague", "Quito", "Riga", "Rome",
    "Santiago", "Seattle", "Seoul", "Shanghai", "Sofia", "Stockholm", "Sydney", "Tallinn", "Tbilisi", "Tokyo",
    "Toronto", "Tunis", "Turin", "Valencia", "Vienna", "Vilnius", "Warsaw", "Yerevan", "Zagreb", "Zurich",
)  # fmt: skip


def needle(city: str, code: str) -> str:
    """The sentence that is hidden."""
    return f" The access code for {city} is {code}."


def stem(city: str) -> str:
    """The question, ending where the answer begins."""
    return f" What is the access code for {city}? The access code for {city} is"


@dataclass(frozen=True)
class NeedleInHaystack(Task):
    """A single needle.

    Attributes:
        haystack: token ids of natural text; it is repeated where it is too short.
        sentence_ends: ids after which a needle may stand; the needle moves back to the nearest one.
        start: where in the haystack every sample begins, so that samples share it; drawn for each sample if None.
    """

    haystack: tuple[int, ...]
    sentence_ends: frozenset[int] = frozenset()
    start: int | None = None
    name: str = field(default="niah")
    scope: str = "small"
    diffusion: str = "low"

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """A prompt with the needle at ``depth``.

        Raises:
            TooShort: if ``n_tokens`` does not hold the fixed parts.
        """
        depth = rng.random() if depth is None else depth
        city, code = rng.choice(CITIES), str(rng.randint(10000, 99999))
        pin, question = units.ids(needle(city, code)), units.ids(stem(city))
        answer = units.answer(stem(city), f" {code}")
        n_hay = haystack_tokens(self.name, n_tokens, units.bos, pin, question, answer)
        start = rng.randrange(len(self.haystack)) if self.start is None else self.start
        hay = stretch(self.haystack, start, n_hay)
        at = behind_sentence(hay, round(depth * n_hay), self.sentence_ends)
        prompt = units.bos + hay[:at] + pin + hay[at:] + question
        return Sample(prompt, answer, code, depth, before=len(units.bos), after=len(question))

    def solve(self, prompt_text: str) -> str:
        """The code of the city that the question names."""
        asked = re.findall(r"access code for (\w+)\?", prompt_text)
        found = re.search(rf"access code for {asked[-1]} is (\d+)\.", prompt_text) if asked else None
        return found.group(1) if found else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the first integer of the prediction is the code."""
        return first_number_is_right(prediction, sample)
