"""How far long work has come, on standard error: a bar where somebody watches, else a line now and then."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

EVERY = 5.0  # seconds between two lines


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` samples, jobs or steps have a result; ``what`` is at work. A total of 0 is yet unknown."""

    done: int
    total: int
    what: str


class Pace:
    """How long the rest takes, by the later half of the time so far.

    Work comes in bursts, a round of candidates at a time or from several workers; and what an earlier run kept comes at
    once, and tells nothing.
    """

    def __init__(self) -> None:
        self._began = 0.0
        self._seen: deque[tuple[float, int]] = deque()  # when, and how much was done

    def left(self, now: float, done: int, total: int) -> float | None:
        """Seconds; None if nothing tells yet.

        Args:
            now: in seconds, from any moment on.
            done: how much is.
            total: how much there is; 0 as long as nobody knows.
        """
        if not total:
            return None
        if not self._seen:
            self._began = now
        if self._seen and done < self._seen[-1][1]:  # other work begins
            self._began = now
            self._seen.clear()
        if not self._seen or self._seen[-1][1] != done:
            self._seen.append((now, done))
        half = (self._began + now) / 2
        while len(self._seen) > 1 and self._seen[1][0] <= half:
            self._seen.popleft()
        since, before = self._seen[0]
        return (total - done) * (now - since) / (done - before) if done > before else None


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """Yields what to call with each step."""
    from rich import progress as bars

    from ropewalk.common.terminal import Terminal

    console = Terminal(stderr=True)
    watched = console.is_terminal
    columns = (
        bars.SpinnerColumn(), bars.TextColumn("{task.description}", markup=False), bars.BarColumn(),
        bars.MofNCompleteColumn(), bars.TimeElapsedColumn(), bars.TextColumn("{task.fields[left]}"),
    )  # fmt: skip
    with bars.Progress(*columns, console=console, transient=True, disable=not watched) as bar:
        line, pace = bar.add_task("", total=None, left=""), Pace()
        told = 0.0

        def update(progress: Progress) -> None:
            nonlocal told
            now, ends = time.monotonic(), progress.done in (0, progress.total)
            rest = pace.left(now, progress.done, progress.total)
            left = "" if rest is None else f"about {_clock(rest)} left"
            bar.update(
                line, completed=progress.done, total=progress.total or None, description=progress.what, left=left
            )
            if not watched and (ends or now - told >= EVERY):
                told = now
                count = f"{progress.done}/{progress.total}  " if progress.total else ""
                times = ", ".join(filter(None, [_clock(bar.tasks[0].elapsed or 0), left]))
                console.print(f"{count}{progress.what}  ({times})")

        yield update


def _clock(seconds: float) -> str:
    """62.5 -> 1:02"""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
