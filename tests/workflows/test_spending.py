"""A budget holds what is set aside and what it took; what servers take beyond our count is learnt."""

from __future__ import annotations

import random

import pytest

from ropewalk.common.errors import UserError
from ropewalk.workflows.spending import Budget, Spending


def test_a_budget_without_room_for_the_last_answer_is_refused() -> None:
    with pytest.raises(UserError, match="a budget of 99 tokens does not hold the last answer, which may take 100"):
        Spending(Budget(99), 100)


def test_a_call_is_set_aside_at_its_most_beside_the_last() -> None:
    spending = Spending(Budget(1000), 100)
    assert spending.affordable(20, 300) == 3
    asides = [spending.set_aside(300, False) for _ in range(4)]
    assert [one is None for one in asides] == [False, False, False, True] and spending.tokens == 900
    assert asides[0] and spending.affordable(20, 300) == 0
    spending.settle(asides[0], 50)
    assert spending.tokens == 650 and spending.set_aside(250, False) and not spending.set_aside(1, False)
    assert spending.set_aside(100, True) and not spending.overdrawn


def test_a_budget_of_calls_leaves_the_last() -> None:
    spending = Spending(Budget(calls=3), 100)
    assert spending.affordable(9, 10) == 2
    assert [bool(spending.set_aside(10, False)) for _ in range(3)] == [True, True, False]
    assert spending.set_aside(10, True) and not spending.set_aside(10, True)


def test_what_one_call_took_beyond_our_count_is_set_aside_for_the_next_ones() -> None:
    spending = Spending(Budget(2000), 100)
    first = spending.set_aside(100, False)
    assert first
    spending.settle(first, 350, 250, 240)
    assert (spending.tokens, spending.more) == (350, 240)
    assert spending.affordable(20, 100) == (2000 - 350 - 100 - 240) // 340
    second = spending.set_aside(100, False)
    assert second and spending.tokens == 350 + 340
    spending.settle(second, 90)
    assert spending.tokens == 440


@pytest.mark.parametrize("seed", range(5))
def test_the_last_is_paid_for_by_our_count_whatever_was_billed(seed: int) -> None:
    """Of any calls that servers bill for what they like, our own count alone decides whether the last one is made."""
    rng = random.Random(seed)
    spending, own = Spending(Budget(3000), 200), 0
    for _ in range(30):
        most = rng.randint(50, 300)
        aside = spending.set_aside(most, False)
        if aside is None:
            continue
        counted, beyond = rng.randint(10, most), rng.choice([0, rng.randint(0, 900)])
        own += counted
        spending.settle(aside, counted + beyond, beyond, max(0, counted + beyond - most))
    assert spending.set_aside(200, True) and own <= 2800
    assert spending.tokens >= own
