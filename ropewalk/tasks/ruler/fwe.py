"""RULER's frequent words: the three most frequent words of a coded text that follows Zipf's law (arXiv 2404.06654)."""

from __future__ import annotations

import math
import random
import re
import string
from collections import Counter
from dataclasses import dataclass
from itertools import islice

from ropewalk.tasks.assembly import joined, padding
from ropewalk.tasks.ruler.matching import match_all
from ropewalk.tasks.task import Sample, Task, TooShort, haystack_tokens
from ropewalk.tasks.words import codes, draw
from ropewalk.texts.pieces import TokenUnits

ROOM = 50
LETTERS = 6  # of a coded word
ASKED = 3
TOKENS_PER_WORD = 50  # of the context, for each word of the vocabulary
NOISE_WORD = "..."  # in place of the most frequent one
ZETA_2 = math.pi**2 / 6
INTRODUCTION = " Count how often each word appears in the coded text below, and find the three most frequent ones.\n"
STEM = (
    "\n Question: which three words appear most often in the coded text above? Leave the dots '...' out. "
    "Answer: the three most frequent words in the coded text above are"
)


@dataclass(frozen=True)
class FrequentWords(Task):
    """The word of rank k appears ``int(N k^-2 / zeta(2))`` times; dots replace the first, the next three are asked."""

    name: str = "fwe"
    scope: str = "large"
    diffusion: str = "low"
    free: bool = True

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """One text with the largest N that fits; noise in front makes up the rest, ``depth`` does not matter.

        Raises:
            TooShort: if ``n_tokens`` does not hold a text in which the fourth word is more frequent than the fifth.
        """
        n_words = min(n_tokens // TOKENS_PER_WORD, math.isqrt(2 * n_tokens))  # no later rank appears even once
        words = [NOISE_WORD, *islice(draw(codes(LETTERS, string.ascii_lowercase), n_tokens, rng), n_words)]
        lengths = [len(units.ids(f" {word}")) for word in words]
        text = " ".join(words[1 : 1 + ASKED])
        stem, answer = units.ids(STEM), units.answer(STEM, f" {text}")
        room = max(ROOM, len(answer))
        head = units.ids(INTRODUCTION)
        n_text = haystack_tokens(self.name, n_tokens, units.bos, head, stem, [0] * room)

        counts = zipf(largest(n_text, lengths), len(words))
        if len(counts) <= ASKED or counts[ASKED] == (*counts, 0)[ASKED + 1]:
            raise TooShort(f"{self.name} needs more than {n_text} tokens for its text, {n_tokens} in all are too few")
        pieces = [units.ids(f" {word}") for word, count in zip(words, counts, strict=False) for _ in range(count)]
        rng.shuffle(pieces)
        coded = joined(pieces)
        front = units.bos + padding(units, n_text - len(coded)) + head
        prompt, asked = front + coded + stem, tuple(words[1 : 1 + ASKED])
        return Sample(prompt, answer, text, math.nan, asked, room, before=len(front), after=len(stem))

    def solve(self, prompt_text: str) -> str:
        """The three most frequent words of the text."""
        coded = prompt_text.split(INTRODUCTION.strip())[-1].split(STEM.strip())[0]
        words = Counter(re.findall(r"[a-z]+", coded))
        return " ".join(word for word, _ in words.most_common(ASKED))

    def score(self, prediction: str, sample: Sample) -> float:
        """The fraction of the three words that the prediction contains."""
        return match_all(prediction, sample)


def zipf(n: int, n_words: int) -> list[int]:
    """How often the words of ranks 1, 2, ... appear in a text of about ``n`` words, without ranks that never do."""
    counts = (int(n / (ZETA_2 * rank * rank)) for rank in range(1, n_words + 1))
    return [count for count in counts if count]


def largest(n_tokens: int, lengths: list[int]) -> int:
    """The largest N whose text has at most ``n_tokens``; ``lengths`` are those of the words by rank."""
    low, high = 0, 2 * n_tokens
    while low < high:
        n = (low + high + 1) // 2
        size = sum(count * length for count, length in zip(zipf(n, len(lengths)), lengths, strict=False))
        low, high = (n, high) if size <= n_tokens else (low, n - 1)
    return low
