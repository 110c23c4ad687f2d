"""The tasks, as they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ropewalk.common.results import Result, columns
from ropewalk.verbs.request import Request, verb

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class ListTasksRequest(Request):
    """Which to list.

    Attributes:
        name: A task, or a suite of them; by default all.
    """

    name: str = field(default="", kw_only=False)


@dataclass(frozen=True)
class Listed:
    """A task: its name, the suites of whole families that it belongs to, and what is asked."""

    name: str
    family: str
    title: str


@dataclass(frozen=True, repr=False)
class Tasks(Result, Sequence[Listed]):
    """What can be asked, a sequence of the tasks.

    Attributes:
        tasks: in the order of the registry.
        suites: names that stand for several tasks; none where some tasks were asked for.
        benchmarks: names that stand for questions about real texts, which come from files.
    """

    tasks: tuple[Listed, ...]
    suites: tuple[str, ...]
    benchmarks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: Any) -> Any:
        return self.tasks[index]

    def show(self, console: Console) -> None:
        table = columns("task", "?suite", "what is asked")
        for one in self.tasks:
            table.add_row(one.name, one.family, one.title)
        console.print(table)
        if not self.suites:
            return
        console.print(f"\nsuites: {', '.join(self.suites)}")
        console.print(f"benchmarks, whose rows come from files (--rows): {', '.join(self.benchmarks)}")


@verb("tasks")
def list_tasks(request: ListTasksRequest) -> Tasks:
    """List what can be asked: tasks, suites of them, and benchmarks of real texts.

    Raises:
        UserError: if there is no task or suite of the name that was asked for.
    """
    from ropewalk.tasks import benchmarks, suites
    from ropewalk.tasks.registry import PPL, TASKS

    listed = [Listed(PPL, "", "Perplexity by length, loss by position")]
    listed += [Listed(name, entry.family, entry.title) for name, entry in TASKS.items()]
    if request.name:
        known = {one.name: one for one in listed}
        some = suites.chosen((request.name,))
        asked = (known.get(name, Listed(name, name.partition("/")[0], "Rows of a file (--rows)")) for name in some)
        return Tasks(tuple(asked), (), ())
    names = tuple(name for name in suites.names() if name not in benchmarks.MODULES or suites.suite(name).tasks[1:])
    return Tasks(tuple(listed), names, tuple(benchmarks.MODULES))
