"""Parts of work that need nothing of each other, on processes of this machine, side by side."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from ropewalk.common.cluster import ATTEMPTS
from ropewalk.common.errors import UserError

T = TypeVar("T")


def on_processes(
    work: Callable[[T], None], todo: Sequence[T], workers: int, name: Callable[[T], str] = str
) -> Iterator[T]:
    """Every part when it is finished; a pool that lost a worker is replaced, and goes on with what is left.

    Args:
        work: keeps its result itself, where a second attempt finds what is done; sent to other processes.
        todo: the parts.
        workers: processes.
        name: of a part.

    Raises:
        UserError: of a part (those that are running are finished first), or if workers die again and again.
    """
    left = list(todo)
    for attempt in range(ATTEMPTS):
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, context, initializer=follow) as pool:
            running: dict[Future[None], T] = {pool.submit(work, one): one for one in left}
            try:
                for future in as_completed(running):
                    future.result()
                    left.remove(running[future])
                    yield running[future]
            except BrokenProcessPool:
                time.sleep(attempt)
                continue
            except KeyboardInterrupt:  # what is finished is kept, so nobody waits for the others
                for process in multiprocessing.active_children():
                    process.terminate()
                raise
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return
    raise UserError(
        f"a worker died {ATTEMPTS} times; {len(left)} jobs are left, the first is {name(left[0])}",
        "Give the workers more memory, or run fewer of them; what is finished is kept.",
    )


def follow() -> None:
    """Leave Ctrl-C and the end of a terminal, which reach the whole group, to the process that started this one.

    When that is gone, whatever ended it, this one ends as well: nobody else would stop it.
    """
    for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_first, daemon=True).start()


def _end_with_the_first() -> None:
    first = multiprocessing.parent_process()
    if first is not None:
        first.join()
    os._exit(1)
