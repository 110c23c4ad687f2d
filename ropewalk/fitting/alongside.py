"""Workers that search along: processes of this machine, or a Ray cluster.

A search is the same in every process, for it depends on its seed and on losses. So a worker needs no orders: it follows
the search as everybody does, begins at its own share of each round, and finds in the store what others have read. One
that dies is missed by nobody.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ropewalk.common.cluster import LOCAL, RAY, check, gpu_share
from ropewalk.common.errors import UserError
from ropewalk.common.local_workers import follow
from ropewalk.common.store import Records, SampleStore
from ropewalk.evaluation.workers import Kept, on_ray

Turn = tuple[int, int]
Work = Callable[[Records, Turn], object]  # may be sent to another process


@contextmanager
def alongside(work: Work, store: Path, on: str, workers: int) -> Iterator[None]:
    """While it is on, all workers but the first, who is the caller, do what ``work`` does; then they are stopped.

    Args:
        work: what to do, with which records, as which of how many.
        store: where candidates' losses are kept.
        on: "local" or "ray".
        workers: how many there are, with the caller.

    Raises:
        UserError: if there is no such place or number, or Ray is missing.
    """
    check(on, workers)
    if on == RAY and workers == 1:
        raise UserError("on is 'ray', and workers is 1: that is this process alone", "Say --workers 2, or more.")
    if workers == 1:
        yield
    elif on == LOCAL:
        with _processes(work, store, workers):
            yield
    else:
        with on_ray(store) as (ray, keeper):
            remote = ray.remote(num_cpus=1, num_gpus=gpu_share(ray, workers), max_retries=0)(_remotely)
            tasks = [remote.remote(work, keeper, (worker, workers)) for worker in range(1, workers)]
            try:
                yield
            finally:
                for task in tasks:
                    ray.cancel(task, force=True)


@contextmanager
def _processes(work: Work, store: Path, workers: int) -> Iterator[None]:
    import torch

    threads, share = torch.get_num_threads(), max(1, (os.cpu_count() or 1) // workers)
    context = multiprocessing.get_context("spawn")
    turns = [(worker, workers) for worker in range(1, workers)]
    others = [context.Process(target=_locally, args=(work, store, turn, share), daemon=True) for turn in turns]
    for one in others:
        one.start()
    torch.set_num_threads(min(threads, share))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        for one in others:
            one.terminate()
        for one in others:
            one.join()


def _locally(work: Work, store: Path, turn: Turn, threads: int) -> None:
    import torch

    follow()
    torch.set_num_threads(threads)
    with SampleStore(store) as records:
        _quietly(work, records, turn)


def _remotely(work: Work, keeper: Any, turn: Turn) -> None:
    _quietly(work, Kept(keeper), turn)


def _quietly(work: Work, records: Records, turn: Turn) -> None:
    """What is wrong is said by the caller, who does the same."""
    try:
        work(records, turn)
    except UserError:
        return
