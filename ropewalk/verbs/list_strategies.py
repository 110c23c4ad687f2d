"""The strategies of reading, as they are listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropewalk.common.results import Result, columns
from ropewalk.verbs.request import Request, verb
from ropewalk.workflows.strategy_entries import STRATEGIES, StrategyEntry

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ListStrategiesRequest(Request):
    """Nothing to choose."""


@dataclass(frozen=True, repr=False)
class Strategies(Result, Sequence[StrategyEntry]):
    """The strategies, a sequence of their entries.

    Attributes:
        strategies: in the order of the list.
    """

    strategies: tuple[StrategyEntry, ...]

    def __len__(self) -> int:
        return len(self.strategies)

    def __getitem__(self, index: Any) -> Any:
        return self.strategies[index]

    def show(self, console: Console) -> None:
        table = columns("strategy", "calls", "what it does", "?needs", "?paper")
        for entry in self.strategies:
            table.add_row(entry.id, entry.calls, entry.summary, entry.needs, entry.paper)
        console.print(table)
        console.print('\nOf a text of n chunks. ropewalk read FILE --question "..." --strategy rag --model MODEL')


@verb("strategies")
def list_strategies(request: ListStrategiesRequest) -> Strategies:
    """List the strategies that 'ropewalk read' takes: ways to read more than a window holds."""
    return Strategies(STRATEGIES)
