"""What ``evaluate --suite`` runs: how many samples, and which tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.tasks.registry import PPL, TASKS, missing

CORE = (PPL, "passkey", "niah", "niah-planted")


@dataclass(frozen=True)
class Suite:
    """A named choice of tasks.

    Attributes:
        tasks: names of the registry, and "ppl".
        samples: of each task at each length.
        contexts: at most so many for them, where a task asks several questions about one.
        depths: of grids.
        documents: at most so many for perplexity.
    """

    tasks: tuple[str, ...]
    samples: int = 50
    contexts: int | None = None
    depths: int = 5
    documents: int = 16


def _family(name: str) -> tuple[str, ...]:
    return tuple(task for task, entry in TASKS.items() if entry.family == name)


SIZES = {
    "smoke": Suite(CORE, samples=10, documents=10),
    "standard": Suite(CORE, samples=55, depths=11),
    "publication": Suite(CORE, samples=198, depths=11, documents=100),
    "ruler-lite": Suite(_family("ruler"), samples=200, contexts=50),
}


def names() -> list[str]:
    """All suites: sizes, and the families of tasks."""
    return [*SIZES, *dict.fromkeys(entry.family for entry in TASKS.values() if entry.family)]


def suite(name: str) -> Suite:
    """The suite called ``name``; a family runs all of its tasks.

    Raises:
        UserError: if there is none; the nearest name is offered.
    """
    if name in SIZES:
        return SIZES[name]
    if name not in names():
        raise UserError(f"unknown suite {name!r}{did_you_mean(name, names())}", f"Known: {', '.join(names())}.")
    return Suite(_family(name))


def possible(suite: Suite, given: Mapping[str, Any]) -> tuple[Suite, dict[str, str]]:
    """The suite without tasks whose material is not there, and what takes the place of each ("" if nothing does)."""
    instead = {name: TASKS[name].stand_in for name in suite.tasks if name != PPL and missing(name, given)}
    tasks = tuple(task for name in suite.tasks if (task := instead.get(name, name)))
    return replace(suite, tasks=tasks), instead
