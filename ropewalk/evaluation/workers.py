"""Many evaluations at once, model x method x task x length x seed, on processes of this machine or on a Ray cluster.

Every job measures its cells into one store of samples. When all are done, each evaluation is put together from the
store, where it finds every sample. A worker that dies loses the sample that it was at: its job is started again, and
takes the others from the store.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.common.store import Record, Records, SampleStore
from ropewalk.verbs.evaluate import Request, asked, measure

ATTEMPTS = 3  # of a job whose worker died
PLACES = ("local", "ray")


@dataclass(frozen=True)
class Job:
    """One task at one length of an evaluation."""

    request: Request

    @property
    def name(self) -> str:
        request = self.request
        where = f" at {request.lengths[0]:,}" if request.lengths else ""
        return f"{request.model} {request.method} {request.tasks[0]}{where}, seed {request.seed}"


@dataclass(frozen=True)
class Done:
    """``done`` of ``total`` jobs are finished, the last one being ``name``."""

    done: int
    total: int
    name: str


def jobs(requests: Sequence[Request]) -> list[Job]:
    """The parts of evaluations that can run apart, the longest contexts first.

    The target of a method stays that of the whole evaluation, so that a part gives the same samples. Perplexity is one
    job for all lengths, since one pass gives all.

    Raises:
        UserError: if a request names no lengths: they decide what the jobs are.
    """
    from ropewalk.tasks.registry import PPL, entry

    found = []
    for request in requests:
        if request.lengths is None:
            raise UserError("a sweep needs to be told its lengths", "Add --lengths 512..8k.")
        target = request.to or max(request.lengths)
        for task in asked(request)[0].tasks:
            whole = task == PPL or entry(task).asked == "planted"  # one text serves all lengths
            for lengths in [request.lengths] if whole else [(length,) for length in sorted(request.lengths)]:
                shortest = min(lengths) == min(request.lengths)  # controls belong to it
                part = replace(request, tasks=(task,), lengths=lengths, to=target, controls=shortest)
                found.append(Job(part))
    return sorted(found, key=lambda job: -max(job.request.lengths or (0,)))


def requests(models: Sequence[str], methods: Sequence[str], seeds: Sequence[int], pattern: Request) -> list[Request]:
    """Every combination, in the order of the arguments."""
    combined = product(models, methods, seeds)
    return [replace(pattern, model=model, method=method, seed=seed) for model, method, seed in combined]


def sweep(
    wanted: Sequence[Request],
    store: Path,
    *,
    on: str = "local",
    workers: int = 2,
    progress: Callable[[Done], None] = lambda done: None,
) -> list[dict[str, Any]]:
    """Run all evaluations; the content of a results.json of each, in their order.

    Args:
        wanted: the evaluations.
        store: file of finished samples; the same file goes on where it was.
        on: "local" or "ray".
        workers: how many jobs run at the same time.
        progress: called after every job.

    Raises:
        UserError: for everything that a user can mend; jobs that are running are finished first.
    """
    if on not in PLACES:
        raise UserError(f"on is {on!r}, expected one of {', '.join(PLACES)}")
    if workers < 1:
        raise UserError(f"workers is {workers}, expected at least 1")
    todo = jobs(wanted)
    run = _locally if on == "local" else _on_ray
    for done, job in enumerate(run(todo, store, workers), 1):
        progress(Done(done, len(todo), job.name))
    with SampleStore(store) as records:
        return [measure(request, records) for request in wanted]


def work(job: Job, records: Records) -> None:
    """Measure a job's samples into the store."""
    measure(job.request, records)


def _work_locally(job: Job, store: Path, workers: int) -> None:
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    with SampleStore(store) as records:
        work(job, records)


def _locally(todo: Sequence[Job], store: Path, workers: int) -> Iterator[Job]:
    """Every job when it is finished; a pool that lost a worker is replaced, and goes on with what is left."""
    left = list(todo)
    for attempt in range(ATTEMPTS):
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            running: dict[Future[None], Job] = {pool.submit(_work_locally, job, store, workers): job for job in left}
            try:
                for future in as_completed(running):
                    future.result()
                    left.remove(running[future])
                    yield running[future]
            except BrokenProcessPool:
                time.sleep(attempt)
                continue
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return
    raise UserError(
        f"a worker died {ATTEMPTS} times; {len(left)} jobs are left, the first is {left[0].name}",
        "Give the workers more memory, or run fewer of them; finished samples are kept.",
    )


def _on_ray(todo: Sequence[Job], store: Path, workers: int) -> Iterator[Job]:
    """Every job when it is finished; the store stays on this machine, behind an actor."""
    try:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
    except ImportError:
        raise UserError("a sweep on Ray needs ray", "pip install 'ropewalk[sweep]'") from None
    if not ray.is_initialized():
        ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), False)
    keeper = ray.remote(num_cpus=0, scheduling_strategy=here)(SampleStore).remote(str(store.absolute()))
    gpus = min(1.0, ray.cluster_resources().get("GPU", 0.0) / workers)
    remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=ATTEMPTS - 1)(_work_on_ray)
    try:
        waiting = list(todo)
        running: dict[Any, Job] = {}
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.pop(0)
                running[remote.remote(job, keeper)] = job
            (ready, *_), _ = ray.wait(list(running), num_returns=1)
            ray.get(ready)
            yield running.pop(ready)
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, UserError) else UserError(f"a job failed: {error}")) from None
    except ray.exceptions.RayError as error:
        raise UserError(f"a worker was lost: {error}", "Run the same again; finished samples are kept.") from None
    finally:
        ray.get(keeper.close.remote())
        ray.kill(keeper)


def _work_on_ray(job: Job, keeper: Any) -> None:
    import ray

    class Remote:
        """The store behind the actor."""

        def get(self, keys: Iterable[str]) -> dict[str, Record]:
            found: dict[str, Record] = ray.get(keeper.get.remote(list(keys)))
            return found

        def put(self, records: Mapping[str, Record]) -> None:
            ray.get(keeper.put.remote(dict(records)))

    work(job, Remote())
