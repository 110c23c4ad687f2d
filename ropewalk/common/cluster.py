"""Parts of work that need nothing of each other: here, one after the other, or on a Ray cluster, side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from ropewalk.common.errors import UserError
from ropewalk.common.extras import install

ATTEMPTS = 3  # of a task whose worker died
LOCAL, RAY = "local", "ray"
PLACES = (LOCAL, RAY)
T = TypeVar("T")
R = TypeVar("R")


class Each(Protocol):
    """Does the same to many things."""

    def __call__(self, work: Callable[[T], R], things: Iterable[T], /) -> Iterable[R]:
        """What comes of each, in their order."""


def check(on: str, workers: int) -> None:
    """Refuse places that are none.

    Raises:
        UserError: naming the option.
    """
    if on not in PLACES:
        raise UserError(f"on is {on!r}, expected one of {', '.join(PLACES)}")
    if workers < 1:
        raise UserError(f"workers is {workers}, expected at least 1")


@contextmanager
def spread(on: str, workers: int) -> Iterator[Each]:
    """Yields what does the same to many things.

    Args:
        on: "local" (this process) or "ray".
        workers: tasks of Ray that run at the same time.

    Raises:
        UserError: if there is no such place, ray is not installed, a task fails, or a worker is lost.
    """
    check(on, workers)
    if on == LOCAL:
        yield map
        return
    with ray_cluster("Run the same again; what is done is kept.") as ray:
        task = ray.remote(num_cpus=1, num_gpus=gpu_share(ray, workers), max_retries=ATTEMPTS - 1)(_done)

        def each(work: Callable[[T], R], things: Iterable[T], /) -> Iterator[R]:
            held, running = ray.put(work), deque[Any]()
            for one in things:
                running.append(task.remote(held, one))
                if len(running) >= workers:
                    yield ray.get(running.popleft())
            while running:
                yield ray.get(running.popleft())

        yield each


def _done(work: Callable[[T], R], thing: T) -> R:
    return work(thing)


@contextmanager
def ray_cluster(mend: str) -> Iterator[Any]:
    """Ray, on the cluster that this process belongs to, or started on this machine.

    Args:
        mend: what to do when a worker is lost.

    Raises:
        UserError: if it is not installed, a task fails, or a worker is lost.
    """
    try:
        import ray
    except ImportError:
        raise UserError("workers on Ray need ray", install("ray")) from None
    if not ray.is_initialized():
        ray.init(ignore_reinit_error=True, include_dashboard=False, log_to_driver=False)
    try:
        yield ray
    except ray.exceptions.RayTaskError as error:
        raise (error.cause if isinstance(error.cause, UserError) else UserError(f"a task failed: {error}")) from None
    except ray.exceptions.RayError as error:
        raise UserError(f"a worker was lost: {error}", mend) from None


def gpu_share(ray: Any, workers: int) -> float:
    """Of a GPU, for each of so many workers."""
    return min(1.0, float(ray.cluster_resources().get("GPU", 0.0)) / workers)
