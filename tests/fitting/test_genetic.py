"""The papers' genetic search: within its bounds, rising, by its seed, and able to find what was planted."""

import math
import random

import pytest

from ropewalk.fitting.genetic import Genetic, Individual

PLANTED = [1.0, 1.1, 1.5, 2.4, 3.0, 3.9, 4.0, 4.6]


def far_from_planted(one):
    return sum((math.log(a) - math.log(b)) ** 2 for a, b in zip(one.factors, PLANTED, strict=True))


def followed(search, loss):
    """All that was asked, round by round, and the losses."""
    asked = [next(search)]
    while True:
        try:
            asked.append(search.send([loss(one) for one in asked[-1]]))
        except StopIteration:
            return asked


def small(**more):
    return Genetic(8, 1.0, 5.0, **{"population": 16, "mutations": 8, "crossings": 8, "parents": 8, **more})


def test_what_was_planted_is_found_and_the_best_never_gets_worse():
    rounds = followed(small(rounds=60).search([Individual(0, (4.0,) * 8)]), far_from_planted)
    bests = [min(far_from_planted(one) for some in rounds[: i + 1] for one in some) for i in range(len(rounds))]
    assert bests == sorted(bests, reverse=True)
    assert bests[-1] < bests[0] / 20 and bests[-1] < 0.05


def test_every_individual_is_new_rising_within_bounds_and_in_hundredths():
    rounds = followed(small(rounds=10).search([Individual(0, (2.0,) * 8), Individual(0, (9.0,) * 8)]), far_from_planted)
    every = [one for some in rounds for one in some]
    assert 16 + 9 * 16 < len(every) == len(set(every)) <= 16 + 10 * 16
    assert rounds[0][:2] == [Individual(0, (2.0,) * 8), Individual(0, (5.0,) * 8)], "seeds, cut to the bounds"
    for _, factors in every:
        assert list(factors) == sorted(factors) and factors[0] >= 1 and factors[-1] <= 5
        assert all(abs(100 * factor - round(100 * factor)) < 1e-9 for factor in factors)


def test_the_seed_decides_everything():
    one, same, other = (
        followed(small(rounds=3, seed=seed).search([Individual(0, (4.0,) * 8)]), far_from_planted) for seed in (1, 1, 2)
    )
    assert one == same != other


def test_the_papers_numbers_are_the_defaults():
    rounds = followed(Genetic(32, 1.0, 10.0).search([Individual(0, (8.0,) * 32)]), lambda one: sum(one.factors))
    assert [len(some) for some in rounds] == [64] + [32] * 40


def test_factors_before_the_critical_dimension_follow_from_it():
    search = Genetic(64, 16.0, 32.0, starts=(30,))
    factors = search.clipped(Individual(30, (1.0,) * 30 + (20.0,) * 34)).factors
    assert [factors[i] for i in (10, 20, 29, 30)] == pytest.approx([2.714418, 7.368063, 18.099323, 20], rel=1e-6)
    base = 5e5 * 20 ** (128 / 60)  # b' = b lambda ** (d / 2 d_rcd): the same by another base
    assert base == pytest.approx(298195209.16, rel=1e-9)
    for i in range(30):
        assert factors[i] == pytest.approx(5e5 ** (-i / 64) / base ** (-i / 64), rel=1e-9)


def test_another_critical_dimension_may_come_and_only_what_is_behind_it_is_drawn():
    search, draw = Genetic(16, 4.0, 8.0, starts=range(5, 9)), random.Random(0)
    one = search.drawn(draw)
    starts = set()
    for _ in range(200):
        one = search.mutated(one, draw)
        starts.add(one.start)
        assert list(one.factors) == sorted(one.factors) and one.factors[0] == 1
        assert one.factors[one.start] >= 4 and one.factors[-1] <= 8
        assert one.factors[one.start - 1] == pytest.approx(one.factors[one.start] ** (1 - 1 / one.start))
    assert starts == {5, 6, 7, 8}


def test_a_space_that_is_known_whole_ends_the_search():
    rounds = followed(Genetic(2, 1.0, 1.01).search([Individual(0, (1.0, 1.0))]), lambda one: sum(one.factors))
    every = [one.factors for some in rounds for one in some]
    assert sorted(every) == [(1.0, 1.0), (1.0, 1.01), (1.01, 1.01)]
