"""The page of a training says what was measured, and nothing of it as markup."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ropewalk.training.loop import StepLog
from ropewalk.training.readings import CAME
from ropewalk.training.recipe import Recipe
from ropewalk.training.states import States, beside
from ropewalk.training.trained import TRAINING, Trained, ended
from ropewalk.training.training_page import page_of_training


def reading(losses: list[float]) -> dict[str, Any]:
    one = {"value": 60.0, "low": 50.0, "high": 70.0, "n": len(losses), "losses": losses}
    share = {"value": 0.5, "low": 0.2, "high": 0.8, "n": 10}
    return {"perplexity": {"1-128": one, "128-256": one | {"value": 54.5}}, "passkey": {"128": share, "256": share}}


def trained(steps: int = 3, readings: tuple[int, ...] = (CAME, 0, 3), memory: int = 0, model: str = "demo") -> Trained:
    came, later = reading([4.0, 4.5, 5.0]), reading([3.3, 3.8, 4.3])
    log = [StepLog(i + 1, 4.0 - i / 10, 1.0, 1e-5, 512, 0.5, memory) for i in range(steps)]
    found = {step: came if step == CAME else later for step in readings}
    command = "ropewalk train pose demo texts --to 256"
    return Trained(Path("out"), Recipe(name="pose"), model, "texts", 128, 256, (7, 2), log, found, ["A note"], command)


def rendered(one: Trained) -> str:
    return page_of_training(one).render()


def test_it_shows_what_was_read_before_and_after() -> None:
    page = rendered(trained())
    words = (
        "Training did not surely change the perplexity at positions 128 to 255: 54.5 before, 54.5 after; as the model "
        "came, it was 54.5.", "the perplexity is 0.0% lower than the extended, untrained model’s (0.0% to 0.0%), which",
        ", and 1/2.01 of the model’s as it came (1/2.01 to 1/2.01)", "Within the window", "of 10, in 256 tokens",
        "Perplexity by position", "Pass keys by length", "A note", "learning_rate", "2 of the texts are in no sample",
        "ropewalk train pose demo texts --to 256",
    )  # fmt: skip
    text = " ".join(page.split())
    for said in words:
        assert said in text
    assert "<script src" not in page
    assert ">Memory, gib<" not in page


@pytest.mark.parametrize(
    ("untrained", "after", "said"),
    [
        ([3.3, 3.8, 4.3], [3.0, 3.49, 4.01], "Training lowered the perplexity at positions 128 to 255"),
        ([3.0, 3.49, 4.01], [3.3, 3.8, 4.3], "Training raised the perplexity"),
        ([3.3, 3.8, 4.3], [3.6, 3.5, 4.2], "Training did not surely change the perplexity"),
    ],
)
def test_what_the_extension_did_is_not_told_of_the_training(
    untrained: list[float], after: list[float], said: str
) -> None:
    one = trained()
    one.readings[0], one.readings[3] = reading(untrained), reading(after)
    page = page_of_training(one)
    assert page.headline.startswith(said) and page.headline.endswith("as the model came, it was 54.5.")
    one = trained(readings=(CAME, 3))
    one.readings[3] = reading([3.0, 3.49, 4.01])
    assert (
        page_of_training(one).headline == "Training lowered the perplexity at positions 128 to 255 from 54.5 to 54.5."
    )


def test_memory_is_drawn_where_it_was_counted() -> None:
    assert ">Memory, gib<" in rendered(trained(memory=1 << 30))


@pytest.mark.parametrize(("steps", "readings"), [(1, (CAME, 0, 1)), (500, (CAME, 0, 100, 200, 300, 400, 500)), (2, ())])
def test_it_takes_runs_of_any_length(steps: int, readings: tuple[int, ...]) -> None:
    assert f"{steps:,} steps" in rendered(trained(steps, readings)) or len(readings) > 1


def test_names_are_no_markup() -> None:
    assert "<b>" not in rendered(trained(model="<b>x"))


def test_a_person_at_a_prompt_sees_the_same() -> None:
    shown = repr(trained())
    assert "54.5" in shown and "50% (20%" in shown and "over 3 texts, paired" in shown


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    one = trained()
    one.log[1:] = [replace(one.log[1], loss=math.nan)]
    one.write(tmp_path)
    assert "NaN" not in (tmp_path / TRAINING).read_text()
    again = Trained.read(tmp_path)
    assert math.isnan(again.log[1].loss) and again.log[0] == one.log[0]
    assert again.readings == one.readings and again.recipe == one.recipe and again.texts == one.texts


def test_a_run_that_was_stopped_before_its_states_were_gone_has_ended(tmp_path: Path) -> None:
    one, states = trained(), States(beside(tmp_path / "out"), {})
    (tmp_path / "out").mkdir()
    one.write(tmp_path / "out")
    assert ended(tmp_path / "out", one.command, one.recipe) is None
    with states.opened():
        states.save(3, {"a": torch.ones(2)}, {})
    assert ended(tmp_path / "out", "another", one.recipe) is None and states.latest == 3
    assert ended(tmp_path / "out", one.command, one.recipe) == replace(one, folder=tmp_path / "out")
    (tmp_path / "out" / TRAINING).write_text("{}")
    assert ended(tmp_path / "out", one.command, one.recipe) is None


def test_a_model_that_diverged_is_shown() -> None:
    one = trained()
    one.readings[3] = reading([900.0, 1000.0, 2000.0])
    assert "1·10³⁰⁴ times the extended" in rendered(one) and "nan" not in rendered(one) and "e+304" in repr(one)
