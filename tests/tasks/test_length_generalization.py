from __future__ import annotations

import random

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.length_generalization import ALGORITHMS, LengthGeneralization, largest, operands
from ropewalk.tasks.task import Sample, TooShort
from ropewalk.texts.pieces import TokenUnits


@pytest.mark.parametrize(
    ("algorithm", "problem", "answer"),
    [
        ("copy", "3 1 4", "3 1 4"),
        ("reverse", "3 1 4", "4 1 3"),
        ("recopy", "3 6 7", "3 6 6 6 7 7 7 7 7"),
        ("inverse_recopy", "3 3 6 6 6 7 7 7 7 7", "3 3 6 7"),
        ("deduplicate", "3 6 6 6 3 3 3 3 3", "3 6 3"),
        ("retrieve", "2 0 3 1", "3 2 1 0"),
        ("retrieve", "9 0", "none 9"),
        ("lookup", "4 A B C D", "7 2 6 9"),
        ("lookup_reverse", "D C B A 4", "7 2 6 9"),
        ("parity", "1 0 1 1", "odd"),
        ("parity", "0 0", "even"),
        ("sum", "9 8 7", "4"),
        ("sort", "3 1 4 1", "1 1 3 4"),
        ("sort_numbers", "20 3 100", "3 20 100"),
        ("addition", "9 5 + 1 7", "1 1 2"),
        ("addition_reversed", "5 9 + 7 1", "2 1 1"),
        ("addition_hints", "a 5 b 9 + a 7", "a 2 b 0 c 1"),
        ("addition_scratchpad", "5 9 + 7", "5 + 7 + 0 = 12 ; 9 + 0 + 1 = 10 ; 2 0 1"),
        ("addition_spaced", "_ 5 9 _ + _ 7 1", "2 1 1"),
        ("multiplication_reversed", "5 9 * 7 1", "5 1 6 1"),
        ("multiplication_reversed", "2 * 3", "6"),
    ],
)
def test_algorithms_by_hand(algorithm: str, problem: str, answer: str) -> None:
    assert ALGORITHMS[algorithm].answer(problem.split()) == answer.split()
    assert LengthGeneralization(algorithm).solve(f"Input: 1 Output: 2. Input: {problem} Output:") == answer


@pytest.mark.parametrize("algorithm", [one for one in ALGORITHMS if one.startswith("addition")])
def test_every_format_adds_as_python_does(algorithm: str) -> None:
    """The result stands at the end; with more than 26 digits hints have two letters."""
    for seed in range(30):
        size = random.Random(seed).randint(1, 60)
        problem = ALGORITHMS[algorithm].problem(random.Random(seed), size)
        first, second = (
            [word for word in part.split() if word.isdigit()] for part in " ".join(problem).split("+", maxsplit=1)
        )
        answer = ALGORITHMS[algorithm].answer(problem)
        result = [word for word in " ".join(answer).rpartition(";")[2].split() if word.isdigit()]
        step = 1 if algorithm == "addition" else -1
        a, b, c = (int("".join(word[::step])) for word in (first, second, result))
        assert a + b == c and max(len(first), len(second)) == size


def test_products_are_pythons() -> None:
    for seed in range(60):
        size = random.Random(seed).randint(1, 40)
        problem = ALGORITHMS["multiplication_reversed"].problem(random.Random(seed), size)
        product = "".join(ALGORITHMS["multiplication_reversed"].answer(problem))[::-1]
        first, second = "".join(problem).split("*")
        assert len(first) == size and len(second) <= 3 and product == str(int(first[::-1]) * int(second[::-1]))


def test_spaces_among_digits_are_many_and_mean_nothing() -> None:
    words = ALGORITHMS["addition_spaced"].problem(random.Random(0), 200)
    assert 40 < words.count("_") < 140
    digits = [word for word in words if word != "_"]
    assert ALGORITHMS["addition_spaced"].answer(words) == ALGORITHMS["addition_reversed"].answer(digits)


def test_the_number_of_digits_is_uniform() -> None:
    lengths = [min(map(len, operands(random.Random(seed), 10))) for seed in range(1000)]
    assert all(60 <= lengths.count(n) <= 140 for n in range(1, 11))


def test_numbers_may_be_longer_than_python_spells(tokenizer: PreTrainedTokenizerFast) -> None:
    task = LengthGeneralization("addition", 5000)
    sample = task.sample(40_000, random.Random(0), TokenUnits(tokenizer))
    assert task.solve(TokenUnits(tokenizer).decode(sample.prompt)) == sample.text


def test_half_of_the_parities_are_even(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    answers = [LengthGeneralization("parity").sample(300, random.Random(i), units).text for i in range(80)]
    assert 28 <= answers.count("even") <= 52


def test_problems_grow_with_the_length_and_keep_an_asked_size(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    sizes = [LengthGeneralization("copy").sample(n, random.Random(0), units).facts["size"] for n in (300, 600, 1200)]
    assert sizes[0] < sizes[1] < sizes[2] and sizes[2] - sizes[1] > 100
    sample = LengthGeneralization("copy", 7).sample(600, random.Random(0), units)
    assert len(sample.text.split()) == 7
    with pytest.raises(TooShort, match="lengen_copy_500 needs"):
        LengthGeneralization("copy", 500).sample(600, random.Random(0), units)


def test_a_prediction_must_begin_with_the_answer() -> None:
    sample, task = Sample([1], [2], "1 2", 0.5), LengthGeneralization()
    assert task.score(" 1 2. Input: 5", sample) == 1.0
    assert task.score(" 1 23", sample) == task.score(" 0 1 2", sample) == task.score(" 1", sample) == 0.0


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
def test_the_largest_size_that_fits_is_found(limit: int) -> None:
    assert largest(lambda size: size <= limit) == limit
