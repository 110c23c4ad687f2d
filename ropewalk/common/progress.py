"""How far long work has come, on standard error: a bar where somebody watches, else a line now and then."""

from __future__ import annotations

import time
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


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """Yields what to call with each step."""
    from rich import progress as bars

    from ropewalk.common.terminal import Terminal

    console = Terminal(stderr=True)
    watched = console.is_terminal
    columns = (
        bars.SpinnerColumn(), bars.TextColumn("{task.description}", markup=False), bars.BarColumn(),
        bars.MofNCompleteColumn(), bars.TimeElapsedColumn(), bars.TimeRemainingColumn(),
    )  # fmt: skip
    with bars.Progress(*columns, console=console, transient=True, disable=not watched) as bar:
        line = bar.add_task("", total=None)
        told = 0.0

        def update(progress: Progress) -> None:
            nonlocal told
            bar.update(line, completed=progress.done, total=progress.total or None, description=progress.what)
            now, ends = time.monotonic(), progress.done in (0, progress.total)
            if not watched and (ends or now - told >= EVERY):
                told = now
                task = bar.tasks[0]
                left = "" if task.time_remaining is None else f", about {_clock(task.time_remaining)} left"
                count = f"{progress.done}/{progress.total}  " if progress.total else ""
                words = f"{count}{progress.what}  ({_clock(task.elapsed or 0)}{left})"
                console.print(words, soft_wrap=True)

        yield update


def _clock(seconds: float) -> str:
    """62.5 -> 1:02"""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
