"""What it takes to bring a model without a rope to a length: methods that fit, the cache, the commands to run next."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ropewalk.carriers.carrier import BUCKETS, STATE, TABLE
from ropewalk.checkpoint.carrier_inspection import CARRIED, inspect_carrier
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.lengths import show
from ropewalk.common.results import Result
from ropewalk.methods.carriers.carrier_entries import ANY, CARRIER_METHODS, fits
from ropewalk.planning.plan_view import Choice, show_choices

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.checkpoint.checkpoint import Checkpoint

MILLION = 2**20


@dataclass(frozen=True, repr=False)
class CarrierPlan(Result):
    """What ``ropewalk plan`` shows of a model without a rope.

    Attributes:
        model: as the user named it.
        kind: of what carries its positions.
        window: tokens that it was made for; None where no key says it.
        target: length wanted.
        cache: bytes of the cache of one text of that length.
        methods: that fit it.
        notes: what to know before choosing.
        commands: to run next.
    """

    model: str
    kind: str
    window: int | None
    target: int
    cache: int
    methods: list[Choice]
    notes: list[str]
    commands: list[str]

    def show(self, console: Console) -> None:
        window = "a window that no key says" if self.window is None else f"{self.window:,}"
        console.print(f"{self.model}: {window} -> {self.target:,} tokens", style="bold")
        console.print(f"positions: {CARRIED[self.kind]}")
        console.print(f"cache of one text: {self.cache / MILLION:,.1f} MiB")
        if self.methods:
            show_choices(self.methods, console)
        for note in self.notes:
            console.print(note)
        console.print("\nNext", style="bold")
        for line in self.commands:
            console.print(line)

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "methods": [asdict(one) for one in self.methods]}


def plan_carrier(checkpoint: Checkpoint, to: int) -> CarrierPlan:
    """Plan the way of one to ``to`` tokens; only its configuration and the headers of its weights are read.

    Raises:
        UserError: naming key, value seen, value expected and the mend.
    """
    checkpoint.refuse_unsound()
    seen = inspect_carrier(checkpoint)
    window, kind = seen.window, seen.carrier.kind
    if window is not None and to <= window:
        raise UserError(
            f"the target of {to:,} tokens is not beyond the window of {window:,}",
            f"Say --to {show(2 * window)}, or more.",
        )
    one, length = checkpoint.name, show(to)
    commands = [command("evaluate", one, "--lengths", length)] if kind == STATE else []
    commands += [command("compare", one, "--to", length)] if kind != STATE else []
    commands += [command("extend", one, "--to", length)] if kind in (TABLE, BUCKETS) else []
    methods = [Choice(m.id, m.summary, m.exportable) for m in CARRIER_METHODS if m.kind != ANY and fits(m, kind)]
    return CarrierPlan(one, kind, window, to, seen.kv_bytes_per_token * to, methods, seen.notes, commands)
