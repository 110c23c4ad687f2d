"""Rows of the battery: as long as they fit, right by their rules, and nothing but the problem tells the answer."""

import random
from collections import Counter

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.lab.battery import (
    ANSWER,
    BEGIN,
    BY_COLUMN,
    END,
    HINTED,
    PRIMED,
    PRIMES,
    SEQUENCES,
    STATES,
    TEXT,
    TITLES,
    asked,
    check,
    draw,
    shortest,
    taught,
)
from ropewalk.lab.reasoning import REASONING
from ropewalk.lab.regular_languages import LANGUAGES
from ropewalk.tasks.length_generalization import ALGORITHMS
from ropewalk.tasks.posgen import following


def parts(row):
    """Problem and answer, as text."""
    at = row.ids.index(ANSWER)
    assert row.ids[0] == BEGIN and row.ids[-1] == END and row.asked == row.learnt == at + 1
    return bytes(row.ids[1:at]).decode(), bytes(row.ids[at + 1 : -1]).decode()


@pytest.mark.parametrize("task", [*ALGORITHMS, *REASONING, *STATES, *PRIMED, *HINTED])
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


def dihedral(word):
    """D4 as matrices: 0 turns over, 1 turns by a quarter."""
    turn, over = np.array([[0, -1], [1, 0]]), np.array([[1, 0], [0, -1]])
    state = np.eye(2, dtype=int)
    for one in word:
        state = state @ (turn if one == "1" else over)
    return state


def test_states_are_those_of_another_computation():
    matrices = {}
    for seed in range(200):
        rng = random.Random(seed)
        word, state = parts(draw("state_c2_x_c4", 30, rng))
        assert ord(state) - ord("0") == 4 * (word.count("0") % 2) + word.count("1") % 4
        word, state = parts(draw("state_even_pairs", 30, rng))
        assert state == str(int(word[0] != word[-1]))
        word, state = parts(draw("state_cycle", 30, rng))
        assert int(state) == (word.count("2") - word.count("0")) % 5
        word, state = parts(draw("state_arithmetic", 30, rng))
        assert int(state) == eval(word.translate({53: "+", 54: "-", 55: "*"})) % 5
        word, state = parts(draw("state_d4", 29 + seed % 2, rng))
        assert np.array_equal(matrices.setdefault(state, dihedral(word)), dihedral(word))
    assert len({one.tobytes() for one in matrices.values()}) == len(matrices) == 8


@pytest.mark.parametrize("task", STATES)
def test_how_long_a_word_is_tells_nothing_of_its_state(task):
    rows = [parts(draw(task, 24, random.Random(seed))) for seed in range(600)]
    assert len({len(word) for word, _ in rows}) == 1
    labels = Counter(state for _, state in rows)
    occurring = LANGUAGES[task.removeprefix("state_").replace("_", " ")].labels // (1 + (task[6:] in ("d4", "c2_x_c4")))
    assert len(labels) > 0.8 * occurring and max(labels.values()) < 600 * 2.6 / occurring


@pytest.mark.parametrize("task", PRIMED)
def test_priming_is_a_few_rows_of_two_windows(task):
    rows = [taught(task, 20, 7, random.Random(seed)) for seed in range(6000)]
    long = [bytes(row.ids) for row in rows if len(row.ids) > 20]
    assert 80 < len(long) < 160 and 30 < len(set(long)) <= PRIMES and max(map(len, long)) <= 40
    assert not set(long) & {bytes(taught(task, 20, 8, random.Random(seed)).ids) for seed in range(2000)}
    for row in rows[:100]:
        problem, answer = parts(row)
        (sign,) = set(problem) & set("+*")
        a, b = (int(one[::-1]) for one in problem.split(sign))
        assert int(answer[::-1]) == (a + b if sign == "+" else a * b)
    assert len({len(draw(task, 20, random.Random(seed)).ids) > 20 for seed in range(500)}) == 1


def test_half_of_what_hints_are_learnt_from_are_successors_and_none_is_asked():
    rows = [parts(taught("sort_hinted", 20, 0, random.Random(seed))) for seed in range(400)]
    hints = [(problem[:-2], problem[-1], answer) for problem, answer in rows if problem[-2:-1] == "?"]
    assert 160 < len(hints) < 240
    for word, digit, answer in hints:
        larger = [one for one in sorted(word) if one > digit]
        assert digit in word and answer == (larger[0] if larger else "n")
    assert {answer for *_, answer in hints} >= {"n", "9", "5"}
    for seed in range(50):
        (row,) = asked("sort_hinted", 30, random.Random(seed))
        problem, answer = parts(row)
        assert answer == "".join(sorted(problem))


def test_a_sum_by_column_is_all_of_its_columns():
    for seed in range(60):
        (whole,) = asked("addition_reversed", 40, random.Random(seed))
        _, answer = parts(whole)
        found, carry = "", "0"
        for row in asked(BY_COLUMN, 40, random.Random(seed)):
            column, said = parts(row)
            assert column[0] == carry and len(row.ids) == 8
            found, carry = found + said[0], said[1]
        assert found + carry.strip("0") == answer
    taught_rows = {parts(taught(BY_COLUMN, 64, 0, random.Random(seed))) for seed in range(6000)}
    assert len(taught_rows) == 200  # all there are


@pytest.mark.parametrize("task", [one for one in TITLES if one not in (TEXT, BY_COLUMN)])
def test_what_is_asked_is_never_taught(task):
    """At a few bytes, where all problems there are come in training."""
    window = shortest(task) + 3
    rows = [taught(task, window, 0, random.Random(seed)) for seed in range(1500)]
    seen = {bytes(row.ids[: row.learnt]) for row in rows}
    for seed in range(60):
        (row,) = asked(task, window, random.Random(seed))
        assert len(row.ids) <= window and bytes(row.ids[: row.learnt]) not in seen
    if task not in PRIMED:
        assert max(len(row.ids) for row in rows) <= window


@pytest.mark.parametrize("task", TITLES)
def test_the_smallest_problem_is_taught(task):
    least = shortest(task)
    assert all(len(draw(task, least, random.Random(seed)).ids) <= least for seed in range(20))


def test_a_row_that_holds_no_problem_is_not_made_longer():
    with pytest.raises(UserError, match="copy has no row of 4 bytes that is kept from training"):
        asked("copy", 4, random.Random(0))
    with pytest.raises(UserError, match="parity has no row of 4 bytes that is left for training"):
        draw("parity", 4, random.Random(0))


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
    some = ALGORITHMS, REASONING, SEQUENCES, STATES, PRIMED, HINTED
    assert len(TITLES) == len(set(TITLES.values())) == sum(map(len, some)) + 2
