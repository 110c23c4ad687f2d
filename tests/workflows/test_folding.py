"""What a budget has no calls for is left out in the middle, and what calls did not take pays for further ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from ropewalk.workflows.folding import in_turn, within_budget
from ropewalk.workflows.spending import Budget, Spending
from ropewalk.workflows.strategy import NoBudget

LAST, BESIDE, PART = 50, 20, 80


@dataclass(frozen=True)
class Piece:
    tokens: int


@dataclass
class Bounded:
    """What ``in_turn`` asks of a model: a budget, and notes."""

    tokens: int
    notes: list[str] = field(default_factory=list)

    def __post_init__(self):
        self.spending = Spending(Budget(self.tokens), LAST)

    @property
    def spent(self):
        return self.spending.tokens

    @property
    def kept_free(self):
        return self.spending.last

    def affordable(self, calls, tokens, beside=0):
        return self.spending.affordable(calls, tokens, beside)

    def note(self, text):
        self.notes.append(text)

    def read(self, parts, takes):
        """The numbers of the parts that are read, where a call takes that share of what is set aside for it."""
        numbers = []
        for number, part in in_turn(self, parts, BESIDE):
            aside = self.spending.set_aside(part.tokens + BESIDE, last=False)
            assert aside is not None
            self.spending.settle(aside, int(takes * aside.most))
            numbers.append(number)
        assert self.spending.set_aside(LAST, last=True) is not None
        return numbers


@pytest.mark.parametrize("calls", range(1, 12))
def test_calls_that_take_all_of_their_room_read_what_was_planned(calls):
    parts = [Piece(PART)] * 10
    model = Bounded(LAST + calls * (PART + BESIDE))
    planned = within_budget(Bounded(model.tokens), list(enumerated(parts)), BESIDE)
    assert model.read(parts, 1.0) == [part.number for part in planned]
    assert len(planned) == min(calls, 10)
    assert model.notes == ([] if calls >= 10 else [unread(10 - calls, 10)])


@pytest.mark.parametrize(("takes", "read"), [(1.0, [1, 2, 9, 10]), (0.7, [1, 2, 3, 9, 10]), (0.1, list(range(1, 11)))])
def test_what_calls_did_not_take_pays_for_further_ones(takes, read):
    model = Bounded(LAST + 4 * (PART + BESIDE))
    assert model.read([Piece(PART)] * 10, takes) == read
    assert model.notes == ([] if len(read) == 10 else [unread(10 - len(read), 10)])


def test_calls_that_grow_leave_one_for_the_end():
    growing, model = iter([30, 60, 100, 100, 100]), Bounded(LAST + 2 * (PART + BESIDE) + 20)
    numbers = []
    for number, part in in_turn(model, [Piece(PART)] * 10, BESIDE):
        aside = model.spending.set_aside(part.tokens + BESIDE, last=False)
        assert aside is not None
        model.spending.settle(aside, next(growing))
        numbers.append(number)
    assert numbers == [1, 7, 10]


def test_without_a_bound_all_is_read():
    model = Bounded(10**9)
    assert model.read([Piece(PART)] * 10, 1.0) == list(range(1, 11)) and not model.notes


def test_a_budget_for_no_call_is_refused_before_the_first():
    with pytest.raises(NoBudget, match="1 call of up to 100 tokens"):
        next(in_turn(Bounded(LAST + PART + BESIDE - 1), [Piece(PART)] * 3, BESIDE))


@dataclass(frozen=True)
class Numbered:
    number: int
    tokens: int


def enumerated(parts):
    return [Numbered(i, part.tokens) for i, part in enumerate(parts, 1)]


def unread(lost, of):
    return f"{lost * PART:,} of {of * PART:,} tokens of the text were not read: the budget has no calls for them"
