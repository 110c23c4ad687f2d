"""Experiments on models and stand-ins that are in memory already."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ropewalk.backends.backend import Backend
from ropewalk.common.progress import Progress
from ropewalk.common.store import Records, SampleStore
from ropewalk.evaluation.contestants import AsItIs, Contestant
from ropewalk.evaluation.experiment import Experiment, Material, run
from ropewalk.methods.base import Method
from ropewalk.methods.frequencies.none import Plain
from ropewalk.report.schema import Average, Results, Row, TaskFindings


def experiment(
    asked: Backend | Contestant,
    *,
    tasks: Sequence[str],
    lengths: Sequence[int] | None = None,
    methods: Sequence[Method] = (Plain(),),
    texts: Mapping[str, str] | None = None,
    given: Mapping[str, Any] | None = None,
    store: Records | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
    **options: Any,
) -> Results:
    """Run an experiment on one model."""
    contestant = asked if isinstance(asked, Contestant) else AsItIs(asked)
    spec = Experiment(
        (contestant.name,), tuple(methods), tuple(tasks), lengths=None if lengths is None else tuple(lengths), **options
    )
    material = Material((texts or {}) if "ppl" in tasks else {}, {}, given or {})
    records = SampleStore() if store is None else store
    return run(spec, records, progress, lambda name, spec: contestant, material=material)


def by_length(found: Results, task: str, method: str = "none") -> dict[int, float]:
    """A task's values over all depths."""
    return {row.length: row.value for row in rows(found, task=task, method=method, depth=None)}


def rows(found: Results, **wanted: Any) -> list[Row]:
    return [row for row in found.rows if all(getattr(row, name) == value for name, value in wanted.items())]


def row(found: Results, **wanted: Any) -> Row:
    (one,) = rows(found, **wanted)
    return one


def averages(found: Results, kind: str = "") -> dict[int, Average]:
    return {one.length: one for one in found.subjects[0].averages if one.kind == kind}


def task(found: Results, name: str) -> TaskFindings:
    return next(one for one in found.subjects[0].tasks if one.task == name)
