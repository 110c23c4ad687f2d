"""The catalogue, as it is listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ropewalk.common.results import Result, columns
from ropewalk.methods.catalogue import CATALOGUE, Entry
from ropewalk.verbs.request import Request, verb

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class ListMethodsRequest(Request):
    """Nothing to choose."""


@dataclass(frozen=True, repr=False)
class Listing(Result, Sequence[Entry]):
    """The catalogue, a sequence of its entries.

    Attributes:
        methods: in the order of the catalogue.
    """

    methods: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.methods)

    def __getitem__(self, index: Any) -> Any:
        return self.methods[index]

    def show(self, console: Console) -> None:
        wide = console.width >= 120
        headings = ["method", "kind", "training-free", "in a checkpoint", "paper"]
        table = columns(*headings, *(["what it does"] if wide else []))
        for entry in self.methods:
            cells = [entry.id, entry.kind, entry.training_free, entry.exportable, entry.paper]
            table.add_row(*cells, *([entry.summary] if wide else []))
        console.print(table)
        console.print("\nOptions in brackets, composition with +: yarn(beta_fast=16)  resonance+yarn")


@verb("methods")
def list_methods(request: ListMethodsRequest) -> Listing:
    """List the methods: what each decides, whether it needs training, how a checkpoint says it, its paper."""
    return Listing(CATALOGUE)
