"""Work side by side, by threads that nobody waits for when something ends it."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

LEAVING = 1.0  # seconds that work which is under way is waited for, when something ends the rest
T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def side_by_side(
    work: Callable[[T], R], items: Sequence[T], workers: int, stop: threading.Event
) -> Iterator[Iterator[R]]:
    """What ``work`` makes of each item, in their order; what it raises is raised where its result would be.

    A single worker is this thread, so that Ctrl-C ends it where it is. Several are threads that end with the process:
    one that waits for a server does not keep it.

    Args:
        work: may wait for ``stop``, and end when it is set.
        items: each is begun once, until ``stop`` is set.
        workers: items at the same time.
        stop: set on leaving.
    """
    left: deque[tuple[T, Future[R]]] = deque((item, Future()) for item in items)
    futures = [future for _, future in left]
    threads: list[threading.Thread] = []

    def serve() -> None:
        while not stop.is_set():
            try:
                item, future = left.popleft()
            except IndexError:
                return
            try:
                future.set_result(work(item))
            except BaseException as error:  # raised again by the thread that waits
                future.set_exception(error)

    try:
        for _ in range(min(workers, len(items)) if workers > 1 else 0):
            threads.append(threading.Thread(target=serve, daemon=True))
            threads[-1].start()
        yield (future.result() for future in futures) if workers > 1 else map(work, items)
    finally:
        stop.set()
        end = time.monotonic() + LEAVING
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
