"""Key-value retrieval: one value of a JSON object of random UUIDs is asked for (InfiniteBench, arXiv 2402.13718)."""

from __future__ import annotations

import json
import random
import re
from dataclasses import dataclass
from itertools import islice

from ropewalk.tasks.assembly import fill, plant
from ropewalk.tasks.task import Sample, Task, haystack_tokens
from ropewalk.tasks.words import draw, uuids
from ropewalk.texts.pieces import TokenUnits

ROOM = 50
PARTING = "\n:\"'.,?!{}"  # characters that part words in a prediction
INTRODUCTION = " Look up the value of one key in the JSON object below.\n\n"
STEM_END = " The value of this key is"


@dataclass(frozen=True)
class KeyValue(Task):
    """As many pairs as fit (InfiniteBench has about 2500 at 128k); with ``questions``, several keys are asked for.

    Prompts of several questions fall short of the asked length by what their key has less than the longest one.
    """

    name: str = "kv_retrieval"
    scope: str = "small"
    diffusion: str = "high"

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """A prompt with the pair asked for at ``depth`` (drawn uniformly if None).

        Raises:
            TooShort: if ``n_tokens`` does not hold the fixed parts.
        """
        return self._ask(n_tokens, rng, units, [rng.random() if depth is None else depth])[0]

    def questions(self, n_tokens: int, rng: random.Random, units: TokenUnits, n: int) -> list[Sample]:
        return self._ask(n_tokens, rng, units, [rng.random() for _ in range(n)])

    def _ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        drawn = zip(draw(uuids("keys"), n_tokens, rng), draw(uuids("values"), n_tokens, rng), strict=True)
        last, *asked = islice(drawn, len(depths) + 1)
        stems = [units.ids("\n\n Key:") + units.ids(f' "{key}".') + units.ids(STEM_END) for key, _ in asked]
        answers = [units.answer(STEM_END, f' "{value}"') for _, value in asked]
        room = max(ROOM, *map(len, answers))
        pairs = [_pair(key, value, ",", units) for key, value in asked]
        closing = _pair(*last, "}", units)
        opening = units.ids(INTRODUCTION) + units.ids(" {")
        fixed = [units.bos, opening, *pairs, closing, max(stems, key=len), [0] * room]
        n_others = haystack_tokens(self.name, n_tokens, *fixed)
        others, break_before = fill(n_others, (_pair(key, value, ",", units) for key, value in drawn), units)

        places = [break_before(round(depth * n_others)) for depth in depths]
        context = plant(others, [(break_before(0), opening), *zip(places, pairs, strict=True)])
        before = len(units.bos) + break_before(0) + len(opening)
        return [
            Sample(
                units.bos + context + closing + stem,
                answer,
                f'"{value}"',
                depth,
                (value,),
                room,
                before=before,
                after=len(stem),
            )
            for stem, answer, (_, value), depth in zip(stems, answers, asked, depths, strict=True)
        ]

    def solve(self, prompt_text: str) -> str:
        """The value that a JSON parser finds under the key in the question, in its quotes."""
        text, _, question = prompt_text.rpartition("Key:")
        key = re.search(r'"(.+?)"', question)
        return f'"{json.loads(text[text.rindex("{") :])[key.group(1)]}"' if key else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the value is one of the words of the prediction, punctuation apart."""
        words = prediction.translate(str.maketrans(PARTING, " " * len(PARTING))).split()
        return float(sample.references[0] in words)


def _pair(key: str, value: str, end: str, units: TokenUnits) -> list[int]:
    return units.ids(f' "{key}":') + units.ids(f' "{value}"{end}')
