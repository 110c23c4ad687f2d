"""The catalogue, as it is listed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ropewalk.common.results import Result, columns
from ropewalk.encoders.encoder_entries import ENCODER_METHODS, EncoderEntry
from ropewalk.methods.carriers.carrier_entries import CARRIER_METHODS
from ropewalk.methods.catalogue import CATALOGUE, Entry, entry
from ropewalk.verbs.request import Request, verb

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class ListMethodsRequest(Request):
    """Which to list.

    Attributes:
        name: One method, with its options; by default all of them.
        encoders: List those for embedding models with a table of positions instead.
        without_rope: List those for models that write without a rope (ALiBi, tables of positions, T5) instead.
    """

    name: str = field(default="", kw_only=False)
    encoders: bool = False
    without_rope: bool = False


@dataclass(frozen=True, repr=False)
class Listing(Result, Sequence[Entry]):
    """The catalogue, a sequence of its entries.

    Attributes:
        methods: in the order of the catalogue, or the one that was asked for.
    """

    methods: tuple[Entry, ...]

    def __len__(self) -> int:
        return len(self.methods)

    def __getitem__(self, index: Any) -> Any:
        return self.methods[index]

    def show(self, console: Console) -> None:
        if len(self) == 1:
            _show(self[0], console)
            return
        table = columns("method", "what it does", "?training-free", "?in a checkpoint", "?decides", "?paper")
        for one in self.methods:
            table.add_row(one.id, one.summary, one.training_free, one.exportable, one.kind, one.paper)
        console.print(table)
        console.print(
            "\nOne with its options: ropewalk methods yarn. For embedding models: ropewalk methods --encoders; for "
            "models without a rope: --without-rope"
        )
        console.print("Options in brackets, composition with +: yarn(beta_fast=16)  resonance+yarn")


def _show(one: Entry, console: Console) -> None:
    """One method in full."""
    console.print(f"{one.id}, {one.title}: {one.summary}", style="bold")
    about = {"decides": one.kind, "training-free": one.training_free, "in a checkpoint": one.exportable,
             "paper": one.paper, "options": ", ".join(_options(one)) or "none"}  # fmt: skip
    for name, text in about.items():
        if text:
            console.print(f"{name:<15}  {text}")


def _options(of: Entry) -> list[str]:
    """Each option with its default, as it is written in brackets."""
    kind = of.load()
    found = [f"{one.name}={one.default}" if one.default is not MISSING else one.name for one in fields(kind)]  # type: ignore[arg-type]
    return found + ["fitted=FILE of ropewalk fit"] * bool(kind.measured or kind.tunable)


@dataclass(frozen=True, repr=False)
class EncoderListing(Result, Sequence[EncoderEntry]):
    """The methods for embedding models, a sequence of their entries.

    Attributes:
        methods: in the order of the list.
    """

    methods: tuple[EncoderEntry, ...]

    def __len__(self) -> int:
        return len(self.methods)

    def __getitem__(self, index: Any) -> Any:
        return self.methods[index]

    def show(self, console: Console) -> None:
        table = columns("method", "what it does", "?decides", "?in a folder", "?paper")
        for one in self.methods:
            table.add_row(one.id, one.summary, one.axis, one.exportable, one.paper)
        console.print(table)
        console.print("\nOptions in brackets, composition with +: pi(effective_window=128)  grouped+late-chunking")


@verb("methods")
def list_methods(request: ListMethodsRequest) -> Listing | EncoderListing:
    """List the methods: what each decides, whether it needs training, how a checkpoint says it, its paper.

    Raises:
        UserError: if there is no method of the name that was asked for.
    """
    if request.without_rope:
        request.refuse_unused(["name", "encoders"], "with --without-rope")
        return Listing(CARRIER_METHODS)
    if request.encoders:
        request.refuse_unused(["name"], "with --encoders")
        return EncoderListing(ENCODER_METHODS)
    return Listing((entry(request.name.partition("(")[0]),) if request.name else CATALOGUE)
