"""An experiment on many workers: processes of this machine, or a Ray cluster.

It is cut into jobs, each of which measures its samples into one store. The experiment itself then runs over that store,
where it finds every sample. A worker that dies loses the sample that it was at: its job is started again, and takes
the others from the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ropewalk.common.cluster import ATTEMPTS, LOCAL, check, gpu_share, ray_cluster
from ropewalk.common.local_workers import on_processes
from ropewalk.common.progress import Progress
from ropewalk.common.store import Record, Records, SampleStore
from ropewalk.evaluation.contestants import Contestant
from ropewalk.evaluation.experiment import Experiment, Material, Plan, asked, measure, open_contestant, spelling


@dataclass(frozen=True)
class Job:
    """A part of an experiment: one model, method or strategy, task and seed, at one length or at all of them."""

    part: Experiment

    @property
    def name(self) -> str:
        part, lengths = self.part, self.part.lengths or ()
        where = f" at {lengths[0]:,}" if len(lengths) == 1 else ""
        return f"{part.models[0]}  {spelling(part.ways[0])}  {part.tasks[0]}{where}, seed {part.seeds[0]}"


def jobs(experiment: Experiment, reach: Callable[[str], tuple[int | None, Sequence[int]]]) -> list[Job]:
    """The parts that can run apart, the longest contexts first.

    The target of a method stays that of the whole, so that a part gives the same samples. What one text serves at all
    lengths (perplexity, planted needles), and what is stopped early, is one job.

    Args:
        experiment: the whole.
        reach: target and tested lengths of a model.
    """
    from ropewalk.tasks.registry import PPL, entry

    found = []
    for model in experiment.models:
        to, lengths = reach(model)
        alone: list[dict[str, Any]] = [{"methods": (one,), "strategies": ()} for one in experiment.methods]
        alone += [{"methods": (), "strategies": (one,)} for one in experiment.strategies]
        for how in alone:
            for task in experiment.tasks:
                if task == PPL and not how["methods"]:
                    continue  # losses are the model's own
                of_file = "/" in task
                whole = task == PPL or (not of_file and entry(task).asked == "planted")
                seeds: list[tuple[int, ...]] = [(seed,) for seed in experiment.seeds]
                if task == PPL or (of_file and not experiment.questions):
                    seeds = seeds[:1]
                if experiment.sequential and task != PPL:
                    whole, seeds = True, [experiment.seeds]
                for some in [tuple(lengths)] if whole else [(length,) for length in sorted(lengths)]:
                    for own in seeds:
                        first = min(some) == min(lengths) and own[0] == experiment.seeds[0]  # controls belong to it
                        part = replace(
                            experiment, models=(model,), **how, tasks=(task,), lengths=some, to=to, seeds=own,
                            controls=experiment.controls and first,
                        )  # fmt: skip
                        found.append(Job(part))
    return sorted(found, key=lambda job: -max(job.part.lengths or (0,)))


def fill(
    experiment: Experiment,
    store: Path,
    *,
    on: str = "local",
    workers: int = 2,
    progress: Callable[[Progress], None] = lambda _: None,
) -> None:
    """Put every sample of an experiment into a store; the same store goes on where it was.

    Args:
        experiment: what is measured.
        store: file of finished samples.
        on: "local" or "ray".
        workers: how many jobs run at the same time.
        progress: called at the start and after every job.

    Raises:
        UserError: for everything that a user can mend; jobs that are running are finished first.
    """
    check(on, workers)
    todo = jobs(experiment, lambda model: _reach(experiment, model))
    progress(Progress(0, len(todo), f"the first of {len(todo)} jobs, on {workers} workers"))
    for done, job in enumerate((_locally if on == LOCAL else _on_ray)(todo, store, workers), 1):
        progress(Progress(done, len(todo), job.name))


def _reach(experiment: Experiment, model: str) -> tuple[int | None, Sequence[int]]:
    """Target and tested lengths of a model, from its configuration alone."""
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.evaluation.contestants import reach

    bounds = Contestant()
    if not model.startswith(("http://", "https://")):
        bounds.window, bounds.length = reach(Checkpoint.open(model, experiment.trust_remote_code).config)
    return experiment.reach(bounds)


_held: dict[str, Contestant] = {}  # the model of this worker: opened once for all of its jobs


def work(job: Job, store: Records) -> None:
    """Measure a job's samples into the store."""
    (name,), (one,) = job.part.models, job.part.ways
    if name not in _held:
        _held.clear()
        _held[name] = open_contestant(name, job.part)
    contestant = _held[name]
    plan = Plan.of(job.part, contestant, Material.of(job.part, store))
    with asked(contestant, one, job.part, plan.to, store) as backend:
        measure(backend, plan, job.part, store, spelling(one))


def _work_locally(store: Path, workers: int, job: Job) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    with SampleStore(store) as records:
        work(job, records)


def _locally(todo: Sequence[Job], store: Path, workers: int) -> Iterator[Job]:
    """Every job when it is finished."""
    return on_processes(partial(_work_locally, store, workers), todo, workers, lambda job: job.name)


def _on_ray(todo: Sequence[Job], store: Path, workers: int) -> Iterator[Job]:
    """Every job when it is finished; the store stays on this machine, behind an actor."""
    with on_ray(store) as (ray, keeper):
        remote = ray.remote(num_cpus=1, num_gpus=gpu_share(ray, workers), max_retries=ATTEMPTS - 1)(_work_on_ray)
        waiting = list(todo)
        running: dict[Any, Job] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[remote.remote(job, keeper)] = job
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            ray.get(ready)
            yield running.pop(ready)


def _work_on_ray(job: Job, keeper: Any) -> None:
    work(job, Kept(keeper))


@contextmanager
def on_ray(store: Path) -> Iterator[tuple[Any, Any]]:
    """Ray, and a store on this machine behind an actor, which is gone on leaving.

    Raises:
        UserError: if ray is not installed, a task fails, or a worker is lost.
    """
    with ray_cluster("Run the same again; finished samples are kept.") as ray:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), False)
        keeper = ray.remote(num_cpus=0, scheduling_strategy=here)(SampleStore).remote(str(store.absolute()))
        try:
            yield ray, keeper
        finally:
            ray.get(keeper.close.remote())
            ray.kill(keeper)


class Kept:
    """The records of a store behind an actor of Ray."""

    def __init__(self, keeper: Any):
        self.keeper = keeper

    def get(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records that are there, by key."""
        import ray

        found: dict[str, Record] = ray.get(self.keeper.get.remote(list(keys)))
        return found

    def put(self, records: Mapping[str, Record]) -> None:
        """Keep records."""
        import ray

        ray.get(self.keeper.put.remote(dict(records)))
