"""Number retrieval: ten digits, hidden in noise, of which each may repeat (InfiniteBench, arXiv 2402.13718)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ropewalk.tasks.assembly import NOISE
from ropewalk.tasks.task import Sample, Task, first_number_is_right, haystack_tokens
from ropewalk.texts.pieces import TokenUnits

ROOM = 12
INTRODUCTION = " One important fact is hidden in the text below. Find it and keep it in mind.\n"
STEM = "\n What is the sequence of digits? The sequence of digits is"


@dataclass(frozen=True)
class NumberString(Task):
    """The benchmark's hard passkey: runs of equal digits are easy to read and hard to repeat.

    Its passkey of five digits is the task "passkey".
    """

    name: str = "number_string"
    scope: str = "small"
    diffusion: str = "low"

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """A prompt whose digits stand at ``depth`` (drawn uniformly if None).

        Raises:
            TooShort: if ``n_tokens`` does not hold the fixed parts.
        """
        depth = rng.random() if depth is None else depth
        digits = repeating_digits(rng)
        head = units.bos + units.ids(INTRODUCTION)
        needle = units.ids(f" The sequence of digits is {digits}. Remember it. {digits} is the sequence of digits.\n")
        stem, answer = units.ids(STEM), units.answer(STEM, f" {digits}")
        room = max(ROOM, len(answer))
        n_hay = haystack_tokens(self.name, n_tokens, head, needle, stem, [0] * room)
        at = units.filler_break(NOISE, round(depth * n_hay))
        hay = units.filler(NOISE, n_hay)
        prompt = head + hay[:at] + needle + hay[at:] + stem
        return Sample(prompt, answer, digits, depth, room=room, before=len(head), after=len(stem))

    def solve(self, prompt_text: str) -> str:
        """The digits, read off the prompt by a pattern."""
        found = re.search(r"digits is (\d+)\. Remember", prompt_text)
        return found.group(1) if found else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the first integer of the prediction has exactly these digits."""
        return first_number_is_right(prediction, sample)


def repeating_digits(rng: random.Random) -> str:
    """Ten digits: five random ones, then five times a digit at a random place is doubled."""
    digits = [str(rng.randrange(10)) for _ in range(5)]
    while len(digits) < 10:
        place = rng.randrange(len(digits))
        digits.insert(place, digits[place])
    return "".join(digits)
