"""How far long work has come: one line on standard error."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ropewalk.evaluation.asking import Progress


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """A progress bar; yields what to call after each batch."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    parts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bar(*parts, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("loading", total=None)

        def update(progress: Progress) -> None:
            bar.update(line, completed=progress.done, total=progress.total, description=progress.what)

        yield update
