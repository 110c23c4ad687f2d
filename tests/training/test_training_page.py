"""The page of a training says what was measured, and nothing of it as markup."""

from pathlib import Path

import pytest

from ropewalk.training.loop import StepLog
from ropewalk.training.recipe import Recipe
from ropewalk.training.trained import Trained
from ropewalk.training.training_page import render


def trained(steps: int = 3, readings: tuple[int, ...] = (0, 3), memory: int = 0, model: str = "demo") -> Trained:
    one = {"value": 60.0, "low": 50.0, "high": 70.0, "n": 8}
    share = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 10}
    far = {"perplexity": {"1-128": one, "128-256": one | {"value": 54.5}}, "passkey": {"128": share, "256": share}}
    log = [StepLog(i + 1, 4.0 - i / 10, 1.0, 1e-5, 512, 0.5, memory) for i in range(steps)]
    return Trained(Path("out"), Recipe(name="pose"), model, "texts", 256, (7, 2), log, dict.fromkeys(readings, far),
                   ["a note"], "ropewalk train pose demo texts --to 256")  # fmt: skip


def test_it_shows_what_was_read_before_and_after() -> None:
    page = render(trained())
    words = ("was 54.5, and is 54.5", "Perplexity by position", "Pass keys by length", "a note", "learning_rate",
             "2 of the texts are too short", "ropewalk train pose demo texts --to 256")  # fmt: skip
    text = " ".join(page.split())
    for said in words:
        assert said in text
    assert "<script src" not in page
    assert ">Memory<" not in page


def test_memory_is_drawn_where_it_was_counted() -> None:
    assert ">Memory<" in render(trained(memory=1 << 30))


@pytest.mark.parametrize(("steps", "readings"), [(1, (0, 1)), (500, (0, 100, 200, 300, 400, 500)), (2, (0,))])
def test_it_takes_runs_of_any_length(steps: int, readings: tuple[int, ...]) -> None:
    assert f"{steps:,} steps" in render(trained(steps, readings)) or len(readings) > 1


def test_names_are_no_markup() -> None:
    assert "<b>" not in render(trained(model="<b>x"))


def test_a_person_at_a_prompt_sees_the_same() -> None:
    shown = repr(trained())
    assert "54.5 (50.0" in shown and "50% (20%" in shown
