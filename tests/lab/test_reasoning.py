"""Tasks of many steps: right by another computation, and guessed no better than by chance."""

import random
from collections import Counter

import pytest

from ropewalk.lab.reasoning import REASONING, actions, applied, evaluated, followed, sign

SAID = {
    "lego": [("a=+;", "?a", "+"), ("b=-a;a=-;c=-b;", "?c", "-"), ("b=-a;a=-;c=-b;", "?b", "+")],
    "multi_hop": [("a>b;c>d;b>e;", "?a", "e"), ("a>b;c>d;b>e;", "?c", "d"), ("a>b;", "?x", "x")],
}


@pytest.mark.parametrize(("task", "solve"), [("lego", sign), ("multi_hop", followed)])
def test_chains_are_followed_in_any_order(task, solve):
    for clauses, asked, answer in SAID[task]:
        assert solve([*clauses, *asked]) == [answer]
    words = REASONING[task].problem(random.Random(0), 90)  # names of two letters
    assert solve(words) == REASONING[task].answer(words) and max(map(len, words)) == 2


def test_polynomials_are_those_of_python():
    assert evaluated([*"3:2x2+9x0+1x3"]) == ["4"]  # 18 + 9 + 27
    for seed in range(100):
        words = REASONING["polynomial"].problem(random.Random(seed), 1 + seed % 5)
        x, terms = "".join(words).split(":")
        assert evaluated(words) == [str(sum(int(one[0]) * int(x) ** int(one[2]) for one in terms.split("+")) % 10)]


@pytest.mark.parametrize(("command", "done"), [
    ("j", "J"), ("w2", "WW"), ("j<2", "<J<J"), ("t<", "<"), ("t<o", "<<"), ("t>a", ">>>>"), ("k>o", ">>K"),
    ("r<a", "<R<R<R<R"), ("w>a2", ">W>W>W>W" * 2), ("j&w", "JW"), ("j~w", "WJ"), ("j2~t<o&k", "<<JJK"),
    ("j~w~r", "RWJ"), ("t>3", ">>>"),
])  # fmt: skip
def test_commands_are_done_as_in_scan(command, done):
    assert "".join(actions([*command])) == done


@pytest.mark.parametrize(("said", "found"), [
    ("C:123", "123"), ("R:123", "321"), ("S:123", "231"), ("X:1234", "4231"), ("E:12", "122"), ("RS:123", "132"),
    ("SR:123", "213"), ("X:7", "7"), ("XE:123", "3231"),
])  # fmt: skip
def test_functions_are_applied_from_the_digits_on(said, found):
    assert "".join(applied([*said])) == found


@pytest.mark.parametrize("task", REASONING)
def test_problems_grow_and_are_not_guessed(task):
    one = REASONING[task]
    lengths = [max(len(one.problem(random.Random(seed), size)) for seed in range(50)) for size in (1, 2, 5, 20, 90)]
    assert lengths == sorted(set(lengths))
    answers = Counter("".join(one.answer(one.problem(random.Random(seed), 12))) for seed in range(500))
    assert max(answers.values()) < 500 * {"lego": 0.58, "polynomial": 0.25}.get(task, 0.1)


def test_what_nothing_leads_away_from_is_not_always_where_a_chain_ends():
    """Each chain has one such name, so that half of the guesses are right."""
    right = []
    for seed in range(400):
        rng = random.Random(seed)
        words = REASONING["multi_hop"].problem(rng, 9)
        text = "".join(words[: words.index("?")])
        hops = dict(hop.split(">") for hop in text.split(";") if hop)
        ends = sorted({words[-1], *hops.values()} - hops.keys())
        right.append(followed(words) == [rng.choice(ends)])
    assert 0.35 < sum(right) / 400 < 0.75
