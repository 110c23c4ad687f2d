from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.evaluation.sequential import Sprt, decide, search


def test_twelve_successes_pass_and_three_failures_fail() -> None:
    test = Sprt()
    assert [test.verdict(n, n) for n in (11, 12)] == [None, True]
    assert [test.verdict(0, n) for n in (2, 3)] == [None, False]
    assert test.verdict(0.5 * 3, 3) is None, "half right answers count half"


def test_errors_are_as_rare_as_promised() -> None:
    rng, test = random.Random(0), Sprt()

    def passes(rate: float) -> bool:
        total = n = 0
        while (verdict := test.verdict(total, n)) is None:
            total, n = total + (rng.random() < rate), n + 1
        return verdict

    assert sum(passes(0.7) for _ in range(1000)) < 65
    assert sum(passes(0.9) for _ in range(1000)) > 935


def test_asking_stops_when_the_outcome_is_clear() -> None:
    scores = {i: float(i % 2 == 0) for i in range(50)}
    asked: list[int] = []

    def ask(indices):
        asked.extend(indices)
        return [scores[i] for i in indices]

    evens = decide(Sprt(), list(range(0, 50, 2)), ask, 0.85)
    assert evens.passed and evens.early and list(evens.asked) == asked == list(range(0, 24, 2))
    odds = decide(Sprt(), list(range(1, 50, 2)), ask, 0.85)
    assert not odds.passed and odds.early and len(odds.asked) == 3
    few = decide(Sprt(), [0, 2, 4], ask, 0.85)
    assert few.passed and not few.early, "the threshold decides where samples run out"


@given(st.integers(1, 12), st.integers(0, 12))
def test_bisection_finds_the_boundary_of_a_falling_curve(n: int, boundary: int) -> None:
    lengths = [512 * 2**i for i in range(n)]
    passing = set(lengths[: min(boundary, n)])
    tests: list[int] = []

    def passes(length: int) -> bool:
        tests.append(length)
        return length in passing

    found = search(lengths, passes)
    assert len(tests) == len(set(tests)) == len(found)
    assert {length for length, passed in found.items() if passed} == passing & set(found)
    if passing:
        assert found[max(passing)]
    if len(passing) < n:
        assert not found[lengths[len(passing)]]


def test_a_long_grid_needs_few_tests() -> None:
    lengths = list(range(1, 65))
    assert len(search(lengths, lambda length: length <= 40)) <= 10
    assert len(search(lengths, lambda length: True)) == 2


def test_a_curve_that_does_not_fall_is_tested_everywhere() -> None:
    assert list(search([1, 2, 4, 8, 16], lambda n: n in (2, 16)).items()) == [
        (1, False), (2, True), (4, False), (8, False), (16, True),
    ]  # fmt: skip


def test_rates_that_make_no_test_are_refused() -> None:
    with pytest.raises(ValueError, match="no test"):
        Sprt(0.9, 0.7)
