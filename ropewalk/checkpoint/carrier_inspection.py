"""What the files of a model without a rope say about its window, gathered for a person or a program."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ropewalk.carriers.carrier import ALIBI, BUCKETS, STATE, TABLE, TWO_TABLES, Carrier
from ropewalk.checkpoint.inspection import BYTES
from ropewalk.checkpoint.inspection_view import show_verdict
from ropewalk.common.errors import cut
from ropewalk.common.lengths import show as length
from ropewalk.common.results import Result
from ropewalk.rope.config import text_config

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.rope.problems import Problem

CARRIED = {
    ALIBI: "slopes: every head lowers its logits in proportion to the distance",
    TABLE: "a table with a row for each position",
    BUCKETS: "a bias of the logits by buckets of distances",
    TWO_TABLES: "a table with a row for each position in the encoder, and one in the decoder",
    STATE: "nothing by itself: a state takes in one token after the other",
}


@dataclass(frozen=True, repr=False)
class CarrierInspection(Result):
    """What ``ropewalk inspect`` shows of a model without a rope.

    Attributes:
        model: as the user named it.
        architecture: class name in the configuration, or the model type.
        carrier: what it knows of positions.
        kv_bytes_per_token: bytes of cache that one more token costs.
        dtype: of that cache.
        extended_by: the method that ropewalk applied, if it did.
        problems: misconfigurations; empty for a sound model.
        notes: what else to know.
        wrote: file that was changed -> where its old content is.
    """

    model: str
    architecture: str
    carrier: Carrier
    kv_bytes_per_token: int
    dtype: str
    extended_by: str | None
    problems: list[Problem]
    notes: list[str]
    wrote: dict[str, str] = field(default_factory=dict)

    @property
    def window(self) -> int | None:
        """Tokens that it was made for; None where no key says it."""
        return self.carrier.window

    @property
    def sound(self) -> bool:
        return not self.problems

    def show(self, console: Console) -> None:
        for file, old in self.wrote.items():
            console.print(f"wrote {file}; what it was is in {old}")
        one = self.carrier
        console.print(Text(cut(self.architecture), "bold"), f"  {self.model}", sep="")
        by = f", extended by ropewalk with {self.extended_by}" if self.extended_by else ""
        window = "no key says the window" if one.window is None else (
            f"window {one.window:,} tokens ({length(one.window)}), by {one.family.key}")  # fmt: skip
        console.print(window + by)
        console.print(f"positions: {CARRIED[one.kind]}")
        if one.slopes:
            console.print(f"slopes {', '.join(f'{m:.6g}' for m in one.slopes)}")
        if one.kind == TABLE and one.window is not None:
            console.print(f"{one.window + one.family.first:,} rows, position 0 at row {one.family.first}")
        if one.buckets is not None:
            console.print(f"{one.buckets[0]} buckets; from distance {one.buckets[1]} on all are in the last")
        cache = f"{self.kv_bytes_per_token:,} bytes per token in {self.dtype}" if one.cache else "none that grows"
        console.print(f"{one.layers} layers; cache {cache}")
        show_verdict(self.notes, self.problems, self.sound, console)

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "carrier": {
                **asdict(self.carrier),
                "family": dict(vars(self.carrier.family)),
                "kind": self.carrier.kind,
            },
            "window": self.window,
            "problems": [asdict(problem) for problem in self.problems],
        }


def inspect_carrier(checkpoint: Checkpoint) -> CarrierInspection:
    """Inspect one; of its weights only the headers are read.

    Raises:
        UserError: if a file cannot be read, or the window is no number of tokens.
    """
    carrier, config = checkpoint.carrier, checkpoint.config
    assert carrier is not None
    dtype = str(text_config(config).dtype or config.dtype or "bfloat16").removeprefix("torch.")
    return CarrierInspection(
        model=checkpoint.name,
        architecture=str((config.architectures or [config.model_type])[0]),
        carrier=carrier,
        kv_bytes_per_token=carrier.cache * BYTES.get(dtype, 2),
        dtype=dtype,
        extended_by=checkpoint.made.get("method"),
        problems=checkpoint.problems,
        notes=checkpoint.notes,
    )
