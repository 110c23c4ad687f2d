"""RULER's common words: which ten words stand most often in a long numbered list (arXiv 2404.06654)."""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain, islice

from ropewalk.common.errors import UserError
from ropewalk.tasks.assembly import joined, padding
from ropewalk.tasks.ruler.matching import match_all
from ropewalk.tasks.task import Sample, Task, TooShort, haystack_tokens
from ropewalk.tasks.words import compounds, draw
from ropewalk.texts.pieces import TokenUnits

ROOM = 120
COMMON = 10  # words that are asked for
SHORT = 4096  # tokens; below, lists repeat their words less
INTRODUCTION = " Here is a numbered list of words, some of which appear more often than others. Remember those.\n"
STEM = "\n Question: which 10 words are the most common ones in the list above? Answer: the 10 most common words are"


@dataclass(frozen=True)
class Repeats:
    """How often words appear: the ten that are asked for, and all others."""

    often: int
    seldom: int
    words_of_example: int
    often_in_example: int
    seldom_in_example: int


LONG_LIST = Repeats(30, 3, words_of_example=40, often_in_example=10, seldom_in_example=3)
SHORT_LIST = Repeats(6, 1, words_of_example=20, often_in_example=3, seldom_in_example=1)


@dataclass(frozen=True)
class CommonWords(Task):
    """Ten words appear 30 times and all others 3 times, behind one solved example.

    It is 6 times and once below 4096 tokens, as in RULER, and where a tokenizer makes so many tokens of the words that
    the long list does not fit; a sample's facts tell which.

    RULER's words are English ones; there are not enough of these in a list of our own for long contexts, so the words
    are compounds of two nouns. None of them contains another, which RULER's metric would take for the other.
    """

    name: str = "cwe"
    scope: str = "large"
    diffusion: str = "low"
    free: bool = True

    def sample(self, n_tokens: int, rng: random.Random, units: TokenUnits, depth: float | None = None) -> Sample:
        """One list with as many words as fit; noise in front makes up the rest, ``depth`` does not matter.

        Raises:
            TooShort: if ``n_tokens`` does not hold ten common words and another.
        """
        if n_tokens >= SHORT:
            try:
                return self._sample(LONG_LIST, n_tokens, rng, units)
            except TooShort:
                pass
        return self._sample(SHORT_LIST, n_tokens, rng, units)

    def _sample(self, repeats: Repeats, n_tokens: int, rng: random.Random, units: TokenUnits) -> Sample:
        drawn = draw(compounds(), n_tokens, rng)
        shown, common = list(islice(drawn, repeats.words_of_example)), list(islice(drawn, COMMON))
        introduction, stem = units.ids(INTRODUCTION), units.ids(STEM)
        items = _items(shown, repeats.often_in_example, repeats.seldom_in_example, rng)
        example = introduction + _listed(items, units) + stem + _listed(shown[:COMMON], units) + units.ids("\n\n")
        answer = _listed(common, units)
        room = max(ROOM, len(answer))
        n_list = haystack_tokens(self.name, n_tokens, units.bos, example, introduction, stem, [0] * room)

        words, used = words_that_fit(chain(common, drawn), repeats.often, repeats.seldom, n_list, units)
        if len(words) <= COMMON:
            raise TooShort(f"{self.name} needs more than {n_list} tokens for its list, {n_tokens} in all are too few")
        front = units.bos + padding(units, n_list - used) + example + introduction
        items = _items(words, repeats.often, repeats.seldom, rng)
        text = " ".join(f"{i}. {word}" for i, word in enumerate(common, 1))
        prompt, facts = front + _listed(items, units) + stem, {"often": repeats.often}
        return Sample(prompt, answer, text, math.nan, tuple(common), room, facts, len(front), len(stem))

    def solve(self, prompt_text: str) -> str:
        """The ten most common words of the last list."""
        *_, words = prompt_text.split(INTRODUCTION.strip())
        items = re.findall(r"\d+\. (\S+)", words.split(STEM.strip())[0])
        return " ".join(word for word, _ in Counter(items).most_common(COMMON))

    def score(self, prediction: str, sample: Sample) -> float:
        """The fraction of the ten words that the prediction contains."""
        return match_all(prediction, sample)


def words_that_fit(
    words: Iterable[str], often: int, seldom: int, n_tokens: int, units: TokenUnits
) -> tuple[list[str], int]:
    """The words that a list of ``n_tokens`` holds, the first ten ``often`` times, and the tokens that it has then.

    Raises:
        UserError: if there are too few words.
    """
    fit: list[str] = []
    n_items = used = 0
    for word in words:
        times = often if len(fit) < COMMON else seldom
        more = times * len(units.ids(f" {word}"))
        more += sum(len(units.ids(f" {i}.")) for i in range(n_items + 1, n_items + times + 1))
        if used + more > n_tokens:
            return fit, used
        fit.append(word)
        n_items, used = n_items + times, used + more
    raise UserError(f"a list of {n_tokens} tokens needs more than {len(fit)} words, there are no more")


def _items(words: Sequence[str], often: int, seldom: int, rng: random.Random) -> list[str]:
    """The words, the first ten ``often`` times and the others ``seldom`` times, in random order."""
    items = [*words[:COMMON]] * often + [*words[COMMON:]] * seldom
    rng.shuffle(items)
    return items


def _listed(words: Sequence[str], units: TokenUnits) -> list[int]:
    return joined([units.ids(f" {i}.") + units.ids(f" {word}") for i, word in enumerate(words, 1)])
