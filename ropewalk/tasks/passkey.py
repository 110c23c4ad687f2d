"""Passkey retrieval: a five-digit number hidden in repetitive filler (arXiv 2305.16300; k_max of arXiv 2306.15595)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from ropewalk.tasks.task import Sample, Task, first_number_is_right, haystack_tokens
from ropewalk.texts.pieces import TokenUnits

FILLER = (
    " The grass is green.",
    " The sky is blue.",
    " The sun is yellow.",
    " Here we go.",
    " There and back again.",
)
INTRODUCTION = " One important fact is hidden in the text below. Find it and keep it in mind."
STEM = " What is the pass key? The pass key is"


@dataclass(frozen=True)
class Passkey(Task):
    """The key always has five digits, so that every sample has the same number of tokens to answer."""

    name: str = "passkey"
    scope: str = "small"
    diffusion: str = "low"

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """A prompt whose key stands at ``depth`` (drawn uniformly if None).

        Raises:
            TooShort: if ``n_tokens`` does not hold the fixed parts.
        """
        depth = rng.random() if depth is None else depth
        key = str(rng.randint(10000, 99999))
        head = units.bos + units.ids(INTRODUCTION)
        needle = units.ids(f" The pass key is {key}. Remember it. {key} is the pass key.")
        stem, answer = units.ids(STEM), units.answer(STEM, f" {key}")
        n_hay = haystack_tokens(self.name, n_tokens, head, needle, stem, answer)
        at = units.filler_break(FILLER, round(depth * n_hay))
        hay = units.filler(FILLER, n_hay)
        prompt = head + hay[:at] + needle + hay[at:] + stem
        return Sample(prompt, answer, key, depth, before=len(head), after=len(stem))

    def solve(self, prompt_text: str) -> str:
        """The key, read off the prompt by a pattern."""
        found = re.search(r"pass key is (\d+)\. Remember", prompt_text)
        return found.group(1) if found else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the first integer of the prediction is the key."""
        return first_number_is_right(prediction, sample)
