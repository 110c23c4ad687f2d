"""What ``evaluate --suite`` runs: how many samples, and which tasks."""

from __future__ import annotations

from dataclasses import dataclass

from ropewalk.errors import UserError, did_you_mean
from ropewalk.evaluation.tasks.registry import PPL, TASKS

CORE = (PPL, "passkey", "niah", "niah-planted")


@dataclass(frozen=True)
class Suite:
    """A named choice of tasks.

    Attributes:
        tasks: names of the registry, and "ppl".
        samples: of each task at each length.
        depths: of grids.
        documents: at most so many for perplexity.
    """

    tasks: tuple[str, ...]
    samples: int = 50
    depths: int = 5
    documents: int = 16


SIZES = {
    "smoke": Suite(CORE, samples=10, documents=10),
    "standard": Suite(CORE, samples=55, depths=11),
    "publication": Suite(CORE, samples=198, depths=11, documents=100),
}


def names() -> list[str]:
    """All suites: three sizes of the core, and the families of tasks."""
    return [*SIZES, *dict.fromkeys(entry.family for entry in TASKS.values())]


def suite(name: str) -> Suite:
    """The suite called ``name``; a family runs all of its tasks.

    Raises:
        UserError: if there is none; the nearest name is offered.
    """
    if name in SIZES:
        return SIZES[name]
    tasks = tuple(task for task, entry in TASKS.items() if entry.family == name)
    if not tasks:
        raise UserError(f"unknown suite {name!r}{did_you_mean(name, names())}", f"Known: {', '.join(names())}.")
    return Suite(tasks)
