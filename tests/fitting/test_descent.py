"""A descent on losses that are known: it finds what was planted, all texts have their turns, and a limit is kept."""

import itertools
import math

import numpy as np
import pytest

from ropewalk.fitting.descent import BATCH, Descent
from ropewalk.methods.frequencies.longrope import LongRoPE

FACTORS = (1.0, 1.0, 2.0, 4.0)
START = LongRoPE(FACTORS, 1.2)


class Bowl:
    """Texts whose losses are squared distances, in logs: of text i to ``wanted`` and what text i adds to it."""

    def __init__(self, wanted, t, texts=1, noise=0.0, near=0.0):
        chance = np.random.default_rng(0)
        self.wanted = np.log([*wanted, t]) + noise * chance.normal(size=(texts, len(wanted) + 1))
        self.rows, self.asked, self.weight = range(texts), [], near

    @staticmethod
    def at(method):
        return np.log([*method.factors, method.attention_factor or 1.0])

    def far(self, method):
        return float(np.mean((self.at(method) - self.wanted) ** 2))

    def far_slope(self, method, rows):
        self.asked.append(rows)
        return self.turned(2 * np.mean(self.at(method) - self.wanted[rows], axis=0))

    def near(self, method):
        """The further from the plain model, the worse."""
        return np.array([self.weight * np.sum(self.at(method) ** 2) if method.name != "none" else 0.0])

    def near_slope(self, method, rows):
        self.asked.append(None)
        return self.turned(2 * self.weight * self.at(method))

    @staticmethod
    def turned(by):
        return np.array([*-by[:-1], by[-1]])  # a frequency falls as its factor rises


def followed(descent, bowl):
    search, told = descent.search(bowl), None
    while True:
        try:
            candidates = search.send(told)
        except StopIteration:
            return
        yield candidates
        told = [bowl.far(one) for one in candidates]


def test_it_finds_what_was_planted():
    bowl = Bowl((1.1, 1.4, 2.5, 5.0), 1.15)
    *steps, ends = followed(Descent(START, 10.0, True, None, 60), bowl)
    assert steps == [[]] * 60 and len(ends) == 2
    assert min(map(bowl.far, ends)) < bowl.far(START) / 50


def test_the_mean_forgets_what_single_texts_say():
    bowl = Bowl((1.2, 1.4, 2.5, 5.0), 1.15, texts=8, noise=0.3)
    mean, last = list(followed(Descent(START, 10.0, True, None, 60), bowl))[-1]
    best = float(np.mean((bowl.wanted - bowl.wanted.mean(0)) ** 2))  # what nobody can do better on all texts
    assert bowl.far(mean) - best < bowl.far(START) - best and bowl.far(mean) <= bowl.far(last) + 1e-3


@pytest.mark.parametrize("of_a_step", [1, BATCH, 3])
@pytest.mark.parametrize("texts", [1, 2, 3, 5, 8])
def test_all_texts_have_their_turns(texts, of_a_step):
    bowl = Bowl(FACTORS, 1.2, texts)
    list(followed(Descent(START, 10.0, True, None, 3 * texts, of_a_step), bowl))
    assert all(len(rows) == len(set(rows)) == min(of_a_step, texts) for rows in bowl.asked)
    turns = [sum(row in rows for rows in bowl.asked) for row in range(texts)]
    assert max(turns) - min(turns) <= 1 and min(turns) >= 3


def test_factors_stay_within_their_bounds():
    bowl = Bowl((0.2, 0.5, 2.0, 90.0), 1.2)
    for candidates in followed(Descent(LongRoPE((1.0, 1.0, 2.0, 9.9), 1.2), 10.0, True, None, 40), bowl):
        for one in candidates:
            assert min(one.factors) >= 1 and max(one.factors) <= 10 + 1e-9
    assert one.factors[0] == one.factors[1] == 1.0 and one.factors[3] == pytest.approx(10, rel=1e-3)


def test_a_given_attention_factor_stays():
    ends = list(followed(Descent(START, 10.0, False, None, 20), Bowl((1.2, 1.4, 2.5, 5.0), 3.0)))[-1]
    assert [one.attention_factor for one in ends] == [pytest.approx(1.2)] * 2


def test_under_a_limit_short_texts_are_followed_until_they_keep_it():
    bowl = Bowl((1.0, 1.5, 3.0, 6.0), 1.2, near=0.1)
    limit = math.expm1(0.8 * float(bowl.near(START)[0]))
    seen = list(itertools.chain.from_iterable(followed(Descent(START, 10.0, True, limit, 80), bowl)))
    on_the_way = seen[:-2]
    assert None in bowl.asked, "it begins above the limit"
    assert on_the_way and all(bowl.near(one)[0] <= math.log1p(limit) for one in on_the_way)
    free = list(followed(Descent(START, 10.0, True, None, 80), bowl))[-1][0]
    assert bowl.far(free) < min(map(bowl.far, on_the_way)), "a limit costs"
    assert min(map(bowl.far, on_the_way)) < bowl.far(on_the_way[0]), "along the limit it goes on"
