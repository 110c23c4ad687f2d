"""Rows of the battery: as long as they fit, right by their rules, and nothing but the problem tells the answer."""

import random
from collections import Counter

import pytest

from ropewalk.common.errors import UserError
from ropewalk.lab.battery import ANSWER, BEGIN, END, SEQUENCES, TEXT, TITLES, check, draw
from ropewalk.tasks.length_generalization import ALGORITHMS
from ropewalk.tasks.posgen import following


def parts(row):
    """Problem and answer, as text."""
    at = row.ids.index(ANSWER)
    assert row.ids[0] == BEGIN and row.ids[-1] == END and row.asked == row.learnt == at + 1
    return bytes(row.ids[1:at]).decode(), bytes(row.ids[at + 1 : -1]).decode()


@pytest.mark.parametrize("task", ALGORITHMS)
def test_problems_fill_a_row_and_depend_on_the_seed(task):
    rows = [draw(task, 90, random.Random(seed)) for seed in range(20)]
    assert all(len(row.ids) <= 90 for row in rows) and max(len(row.ids) for row in rows) > 75
    assert draw(task, 90, random.Random(3)) == rows[3] != rows[4]
    for row in rows:
        parts(row)


def test_answers_are_right():
    for seed in range(10):
        rng = random.Random(seed)
        problem, answer = parts(draw("copy", 40, rng))
        assert problem == answer and len(problem) == 18
        problem, answer = parts(draw("sort", 40, rng))
        assert answer == "".join(sorted(problem))
        problem, answer = parts(draw("addition", 40, rng))
        assert int(answer) == sum(map(int, problem.split("+")))
        problem, answer = parts(draw("sort_numbers", 40, rng))
        assert [int(one) for one in answer.split()] == sorted(int(one) for one in problem.split())
        problem, answer = parts(draw("parity", 40, rng))
        assert answer == "eo"[problem.count("1") % 2]


def test_how_long_a_row_is_tells_nothing_of_parity():
    rows = [parts(draw("parity", 20, random.Random(seed))) for seed in range(400)]
    assert {len(problem) for problem, _ in rows} == {16}
    assert 160 < Counter(answer for _, answer in rows)["e"] < 240


@pytest.mark.parametrize("task", SEQUENCES)
def test_sequences_follow_their_rule(task):
    row = draw(task, 30, random.Random(0))
    numbers = [one - ord("A") for one in row.ids[1:]]
    assert len(row.ids) == 30 and row.learnt == 5 and row.asked == 29
    for i in range(4, len(numbers)):
        assert numbers[i] == following(SEQUENCES[task], numbers[:i], 1, 3, 17)


def test_held_out_texts_are_others():
    mine, theirs = (draw(TEXT, 300, random.Random(0), held_out) for held_out in (False, True))
    assert len(mine.ids) == len(theirs.ids) == 300 and mine.ids != theirs.ids and mine.learnt == mine.asked == 1
    with pytest.raises(UserError, match="no text of the standard library has 50,000,000 bytes"):
        draw(TEXT, 50_000_000, random.Random(0), True)


def test_an_unknown_task_is_refused():
    with pytest.raises(UserError, match="unknown task 'revers'; did you mean 'reverse'"):
        check("revers")
    assert len(TITLES) == len(set(TITLES.values())) == len(ALGORITHMS) + len(SEQUENCES) + 1
