"""Losses and evaluations to the tracker that the user has, through accelerate's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.extras import extra
from ropewalk.training.loop import StepLog

PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}
Track = Callable[[int, Mapping[str, float]], None]


def kind_of(name: str) -> Any:
    """Accelerate's class of a tracker, None for an empty name.

    Raises:
        UserError: for an unknown tracker, or one that is not installed.
    """
    if not name:
        return None
    if name not in PACKAGES:
        raise UserError(f"track is {name!r}, expected one of {', '.join(PACKAGES)}{did_you_mean(name, PACKAGES)}")
    if not any(find_spec(one) for one in PACKAGES[name]):
        raise UserError(f"{name} is not installed", f"pip install {PACKAGES[name][0]}")
    return extra("accelerate.tracking", "Trackers").LOGGER_TYPE_TO_CLASS[name]


@contextmanager
def tracked(name: str, run: str, folder: Path, settings: Mapping[str, Any]) -> Iterator[Track]:
    """What takes numbers of a step.

    Args:
        name: one of ``PACKAGES``; empty: nothing is tracked.
        run: its name there.
        folder: where a tracker that writes files has a folder ``RUN.NAME``.
        settings: that the run was asked for, in plain values.

    Raises:
        UserError: for an unknown tracker, or one that is not installed.
    """
    kind = kind_of(name)
    if kind is None:
        yield lambda step, values: None
        return
    tracker = kind(f"{run}.{name}", folder) if kind.requires_logging_directory else kind(run)
    getattr(tracker, "start", lambda: None)()
    if name != "tensorboard":  # which would write them to a file of its own, in other words
        tracker.store_init_configuration(dict(settings))
    try:
        yield lambda step, values: tracker.log(dict(values), step=step)
    finally:
        tracker.finish()


def numbers(log: StepLog) -> dict[str, float]:
    """What is tracked of a step."""
    found = {"loss": log.loss, "grad_norm": log.norm, "learning_rate": log.learning_rate,
             "tokens_per_second": log.tokens / max(log.seconds, 1e-9)}  # fmt: skip
    return found | ({"memory_gib": log.memory / 2**30} if log.memory else {})


def read(reading: Mapping[str, Any]) -> dict[str, float]:
    """What is tracked of an evaluation."""
    return {
        f"{kind}/{place}": one["value"]
        for kind in ("perplexity", "passkey")
        for place, one in reading.get(kind, {}).items()
    }
