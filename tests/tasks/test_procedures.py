"""Tasks whose answer is a long trace: path traversal, belief tracking, countdown."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.belief_tracking import STEP, BeliefTracking
from ropewalk.tasks.context import share_before_first_error
from ropewalk.tasks.countdown import TRY, Countdown, search, search_trace, solves
from ropewalk.tasks.path_traversal import CONNECTION, HOP, PathTraversal
from ropewalk.tasks.task import Sample, Task
from ropewalk.texts.pieces import TokenUnits


@pytest.mark.parametrize(
    ("said", "share"),
    [("", 0), ("a", 1 / 3), ("ab", 2 / 3), ("abc", 1), ("xbc", 0), ("axc", 1 / 3), ("abcd", 3 / 4), ("abcdef", 1 / 2)],
)
def test_steps_count_up_to_the_first_wrong_one(said: str, share: float) -> None:
    assert share_before_first_error(said, "abc") == share


@pytest.mark.parametrize(
    ("task", "step", "n"),
    [(PathTraversal(6), HOP, 2000), (BeliefTracking(6, 2), STEP, 4000), (Countdown(20), TRY, 3000)],
    ids=lambda one: getattr(one, "name", ""),
)
def test_a_reference_cut_after_step_i_earns_i_of_n(
    task: Task, step: re.Pattern[str], n: int, tokenizer: PreTrainedTokenizerFast
) -> None:
    for seed in range(3):
        sample = task.sample(n, random.Random(seed), TokenUnits(tokenizer))
        ends = [found.end() for found in step.finditer(sample.text)]
        assert len(ends) >= 5 and ends[-1] == len(sample.text)
        for i, end in enumerate(ends, 1):
            assert task.score(sample.text[:end], sample) == pytest.approx(i / len(ends))
        assert task.score(sample.text[ends[0] :], sample) == 0.0 or task.name == "countdown_20"


def test_a_route_by_hand() -> None:
    text = (
        " From Oakby one can go to Elmton by bus. From Ashham one can go to Oakby by ferry. From Elmton one can go to"
        " Pinefold by train. What is the route from Ashham to Elmton, connection by connection? It is:"
    )
    assert PathTraversal().solve(text) == "From Ashham to Oakby by ferry. From Oakby to Elmton by bus."


def test_every_town_has_one_connection_and_the_route_goes_on(tokenizer: PreTrainedTokenizerFast) -> None:
    units = TokenUnits(tokenizer)
    for seed in range(3):
        sample = PathTraversal(8).sample(6000, random.Random(seed), units)
        connections = CONNECTION.findall(units.decode(sample.prompt))
        assert max(Counter(start for start, _, _ in connections).values()) == 1 and len(connections) > 40
        assert len(HOP.findall(sample.text)) == 8
        goal = HOP.findall(sample.text)[-1].split()[3]
        assert goal in {start for start, _, _ in connections}


def test_beliefs_by_hand() -> None:
    """Bruno sees the spoon, leaves, Ada moves it, and Bruno learns of it when he comes back."""
    text = (
        " Step 1: Ada goes to the kitchen. Step 2: Bruno goes to the kitchen. Step 3: Bruno goes to the study."
        " Step 4: Ada moves the spoon to the basket. Step 5: Bruno goes to the kitchen."
        " Where is each thing after each step, and where do Ada, Bruno think that it is? The steps are:"
    )
    steps = [re.findall(r"spoon in (\w+), Ada thinks (\w+), Bruno thinks (\w+)", line)[0] for line in STEP.findall(
        BeliefTracking().solve(text)
    )]  # fmt: skip
    assert steps == [
        ("cupboard", "cupboard", "unknown"),
        ("cupboard", "cupboard", "cupboard"),
        ("cupboard", "cupboard", "cupboard"),
        ("basket", "basket", "cupboard"),
        ("basket", "basket", "basket"),
    ]


def test_stories_have_false_beliefs(tokenizer: PreTrainedTokenizerFast) -> None:
    false = 0
    for seed in range(10):
        text = BeliefTracking().sample(8000, random.Random(seed), TokenUnits(tokenizer)).text
        for state in re.split(r"[;.]", text):
            place = re.search(r" in (\w+)", state)
            thoughts = set(re.findall(r"thinks (\w+)", state)) - {"unknown"}
            false += place is not None and bool(thoughts - {place.group(1)})
    assert false >= 5


def test_the_search_by_hand() -> None:
    assert search_trace([3, 5, 2], 6) == [
        "5 + 3 = 8 leaves 2 8.",
        "8 + 2 = 10 leaves 10.",
        "8 - 2 = 6 leaves 6.",
        "Solution: 5 + 3 = 8, 8 - 2 = 6.",
    ]
    assert [tried for tried, _, _ in search([4, 0])] == [
        "4 + 0 = 4 leaves 4.",
        "4 - 0 = 4 leaves 4.",
        "4 * 0 = 0 leaves 0.",
    ]
    assert "1000 * 3" not in " ".join(tried for tried, _, _ in search([1000, 3]))
    assert "6 / 3 = 2 leaves 2." in [tried for tried, _, _ in search([3, 6])]


def test_any_right_solution_counts() -> None:
    sample = Sample([1], [2], "Solution: 5 + 3 = 8, 8 - 2 = 6.", 0.5, facts={"numbers": [3, 5, 2], "target": 6})
    task = Countdown()
    assert task.score(" Solution: 5 - 2 = 3, 3 + 3 = 6.", sample) == 1.0
    assert task.score(" no. Solution: 5 - 2 = 4, 4 + 3 = 6.", sample) == 0.0
    assert not solves("3 + 3 = 6", [3, 5, 2], 6) and not solves("5 - 2 = 3", [3, 5, 2], 6)
    assert not solves("9 - 3 = 6", [3, 5, 2], 6)


def test_targets_are_reached_within_the_lines_and_verify(tokenizer: PreTrainedTokenizerFast) -> None:
    for seed in range(10):
        sample = Countdown(40).sample(6000, random.Random(seed), TokenUnits(tokenizer))
        *tries, solution = [found.group() for found in TRY.finditer(sample.text)]
        assert len(tries) <= 40 and solves(solution, sample.facts["numbers"], sample.facts["target"])
