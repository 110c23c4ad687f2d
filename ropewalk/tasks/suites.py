"""Choices of tasks by name: sizes with their numbers of samples, families of the registry, benchmarks of real texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.naming import find
from ropewalk.tasks import benchmarks
from ropewalk.tasks.benchmarks.question import ALL
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
    """All suites: sizes, families of tasks, and benchmarks (``NAME/all`` where a family has the name too)."""
    return list(
        dict.fromkeys([*SIZES, *(entry.family for entry in TASKS.values() if entry.family), *benchmarks.MODULES])
    )


def suite(name: str) -> Suite:
    """The suite called ``name``; a family or a benchmark runs all of its tasks. Names of tasks, with commas, are one.

    Raises:
        UserError: if there is none; the nearest name is offered.
    """
    known = find(name, names())
    if known is None:
        return Suite(chosen(word.strip() for word in name.split(",")))
    return SIZES.get(known) or Suite(_family(known) or (f"{known}/{ALL}",))


def chosen(words: Iterable[str]) -> tuple[str, ...]:
    """Tasks out of names of tasks, suites, benchmarks and subsets of these ("longbench/hotpotqa"), each once.

    Raises:
        UserError: for an unknown name; the nearest one is offered.
    """
    tasks: list[str] = []
    for word in words:
        benchmark, slash, subset = word.partition("/")
        if slash:
            tasks.append(f"{benchmarks.called(benchmark)}/{subset}")
        elif (task := find(word, [PPL, *TASKS])) is not None:
            tasks.append(task)
        elif find(word, names()) is not None:
            tasks += suite(word).tasks
        else:
            about = {PPL: "perplexity", **{name: entry.title for name, entry in TASKS.items()}}
            hint = did_you_mean(word, [*about, *names()], about)
            raise UserError(f"unknown task or suite {word!r}{hint}", "ropewalk tasks")
    return tuple(dict.fromkeys(tasks))


def possible(suite: Suite, given: Mapping[str, Any]) -> tuple[Suite, dict[str, str]]:
    """The suite without tasks whose material is not there, and what takes the place of each ("" if nothing does)."""
    made = [name for name in suite.tasks if name in TASKS]
    instead = {name: TASKS[name].stand_in for name in made if missing(name, given)}
    tasks = tuple(task for name in suite.tasks if (task := instead.get(name, name)))
    return replace(suite, tasks=tasks), instead
