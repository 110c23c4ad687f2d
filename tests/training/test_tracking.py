"""What goes to a tracker: accelerate's own classes, with a stand-in for the package behind them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ropewalk.common.errors import UserError
from ropewalk.training import tracking
from ropewalk.training.loop import StepLog
from ropewalk.training.tracking import kind_of, numbers, read, tracked


class Tracker:
    requires_logging_directory = True

    def __init__(self, run: str, folder: Path):
        self.said: list[Any] = [(run, folder)]

    def start(self) -> None:
        self.said.append("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.said.append(values)

    def log(self, values: dict[str, float], step: int) -> None:
        self.said.append((step, values))

    def finish(self) -> None:
        self.said.append("finish")


def test_steps_and_evaluations_arrive_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Tracker] = []

    class Kept(Tracker):
        def __init__(self, *given: Any):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr(tracking, "kind_of", lambda name: Kept)
    log = StepLog(1, 2.5, 1.0, 1e-5, 100, 0.5)
    with tracked("wandb", "run", Path("here"), {"steps": 3}) as track:
        track(0, read({"perplexity": {"1-128": {"value": 60.0}}, "passkey": {"128": {"value": 0.5}}}))
        track(1, numbers(log))
    assert made[0].said == [
        ("run.wandb", Path("here")), "start", {"steps": 3}, (0, {"perplexity/1-128": 60.0, "passkey/128": 0.5}),
        (1, {"loss": 2.5, "grad_norm": 1.0, "learning_rate": 1e-5, "tokens_per_second": 200.0}), "finish",
    ]  # fmt: skip


def test_memory_is_tracked_where_it_is_counted() -> None:
    assert numbers(StepLog(1, 2.5, 1.0, 1e-5, 100, 0.5, 1 << 30))["memory_gib"] == 1


def test_nothing_is_tracked_unasked() -> None:
    with tracked("", "run", Path("here"), {}) as track:
        track(1, {"loss": 1.0})


def test_trackers_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean"):
        kind_of("wand")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="not installed") as refused:
        kind_of("trackio")
    assert refused.value.mend == "pip install trackio"


@pytest.mark.parametrize("name", tracking.PACKAGES)
def test_accelerate_has_the_trackers_by_these_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    assert kind_of(name).name == name
