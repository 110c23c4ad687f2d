from __future__ import annotations

import random
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.latent_list import LISTS, SLICE, WHOLE, LatentList, change, idle
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

PROGRAM = " a = [1, 2, 3, 4, 5]; a.append(7); a.pop(0); a.sort(); a.reverse(); a.insert(2, 9); a.remove(3);"


def run(program: str, values: dict[str, Any] | None = None) -> dict[str, Any]:
    """The names after Python itself has run the lines."""
    names: dict[str, Any] = {"print": lambda *_: None, **(values or {})}
    exec(program.strip(), names)
    return names


@pytest.mark.parametrize(
    ("view", "answer"), [("a[0:5]", "[7, 5, 9, 4, 2]"), ("len(a)", "5"), ("sum(a)", "27"), ("a[1:3]", "[5, 9]")]
)
def test_a_program_by_hand(view: str, answer: str) -> None:
    assert LatentList().solve(f"{PROGRAM} What does print({view}) print at the end? It prints") == answer
    assert str(eval(view, run(PROGRAM))) == answer


@pytest.mark.parametrize("relevant", [1, 5, 20])
def test_python_gives_the_same_answers(relevant: int, tokenizer: PreTrainedTokenizerFast) -> None:
    units, task = TokenUnits(tokenizer), LatentList(relevant)
    for seed in range(6):
        samples = task.questions(1500, random.Random(seed), units, 5)
        assert {one.facts["view"] for one in samples} == {SLICE, *WHOLE}, (
            "no constant answer is right more than once in five"
        )
        for one in samples:
            text = units.decode(one.prompt)
            program, _, asked = text[text.index(" a =") :].rpartition(" What does print(")
            assert str(eval(asked.partition(") print")[0], run(program))) == one.text


def test_idle_lines_leave_the_list_as_it_is_and_others_change_it() -> None:
    rng = random.Random(0)
    lists = {name: [rng.randint(1, 99) for _ in range(5)] for name in LISTS}
    others = {name: list(values) for name, values in lists.items()}
    for _, line in zip(range(300), idle(lists, rng), strict=False):
        values = [rng.randint(1, 99) for _ in range(rng.randint(1, 9))]
        found = run(line, {**others, "a": list(values)})
        assert found["a"] == values
        others = {name: found[name] for name in LISTS}
    assert {name: values for name, values in others.items() if name != "a"} == {
        name: values for name, values in lists.items() if name != "a"
    }
    values = [3, 1, 2, 9]
    for _ in range(300):
        before = list(values)
        line = change("a", values, rng)
        assert run(line, {"a": list(before)})["a"] == values != before and 4 <= len(values) <= 9


def test_numbers_are_graded_and_lists_are_not() -> None:
    task, number, part = LatentList(), Sample([1], [2], "27", 0.5), Sample([1], [2], "[5, 9]", 0.5)
    assert task.score(" 27.", number) == task.score(" it is 27", number) == 1.0
    assert task.score(" 127", number) == task.score(" 28", number) == task.score(" a27", number) == 0.0
    assert task.readings(" 37", number) == {"nearness of a number": pytest.approx(0.367879, abs=1e-6)}
    assert task.readings(" 9" * 9000, number)["nearness of a number"] == pytest.approx(0.165299, abs=1e-6)
    assert task.readings(" " + "9" * 9000, number) == task.readings(" none", number) == {"nearness of a number": 0.0}
    assert task.score(" [5,9]", part) == 1.0 and task.score(" [9, 5]", part) == task.score(" 5, 9", part) == 0.0
    assert task.readings(" [5, 9]", part) == {}
