"""The languages: labels that are known, and each automaton against another way to say the same."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random

import pytest

from ropewalk.lab.regular_languages import LANGUAGES, cyclic


@pytest.mark.parametrize(("name", "word", "labels"), [
    ("cycle", [0, 2, 2, 1, 0, 2], [4, 0, 1, 1, 0, 1]),
    ("d4", [1, 0, 1, 1, 0, 1], [1, 5, 4, 7, 3, 0]),
    ("c2 x c4", [1, 0, 1, 1, 0, 1], [1, 5, 6, 7, 3, 0]),
    ("a5", [0, 1, 0, 0, 1], [16, 29, 23, 57, 47]),
    ("parity", [1, 0, 1, 1], [1, 1, 0, 1]),
    ("even pairs", [1, 0, 1], [0, 1, 0]),
])  # fmt: skip
def test_known_words_have_known_labels(name, word, labels) -> None:
    assert LANGUAGES[name].labels_of(word) == labels


def value(word: list[int]) -> int:
    """Python's own."""
    return int(eval("".join("01234+-*"[one] for one in word))) % 5


AGAIN = {
    "parity": lambda word: sum(word) % 2,
    "even pairs": lambda word: sum(a != b for a, b in pairwise(word)) % 2,
    "cycle": lambda word: sum(one - 1 for one in word) % 5,
    "arithmetic": value,
    "c2 x c4": lambda word: 4 * (word.count(0) % 2) + word.count(1) % 4,
}


@pytest.mark.parametrize("name", LANGUAGES)
def test_words_are_of_their_length_and_labels_as_said_another_way(name) -> None:
    language, rng, seen = LANGUAGES[name], Random(0), set()
    for length in (1, 2, 3, 7, 12, 40) * 12:
        shown, label = language.asked(rng, length)
        word = shown[: len(shown) - language.query]
        assert len(word) == length - (name == "arithmetic" and length % 2 == 0)
        assert all(one < language.symbols - language.query for one in word)
        assert shown[len(word) :] == [language.symbols - 1] * language.query
        assert label == language.labels_of(word)[-1] < language.labels
        if name in AGAIN:
            assert label == AGAIN[name](word)
        seen.add(label)
    assert len(seen) > language.labels / 2


@pytest.mark.parametrize("name", ["c2 x c4", "d4"])
def test_half_of_the_labels_occur_at_one_length(name) -> None:
    seen = {LANGUAGES[name].asked(rng, 20)[1] for rng in map(Random, range(200))}
    assert seen == {0, 2, 5, 7}


def test_groups_are_of_their_size() -> None:
    assert LANGUAGES["a5"].labels == math.factorial(5) // 2 and cyclic(30).labels == 60
