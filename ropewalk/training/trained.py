"""What a training ends with: a checkpoint, the recipe that repeats it, and what was seen on the way."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.results import Result, columns
from ropewalk.common.whole import write_text
from ropewalk.report import numbers
from ropewalk.training.loop import StepLog
from ropewalk.training.recipe import Recipe

if TYPE_CHECKING:
    from rich.console import Console

RECIPE, TRAINING, PAGE = "recipe.json", "training.json", "training.html"


@dataclass(frozen=True, repr=False)
class Trained(Result):
    """A training.

    Attributes:
        folder: the new checkpoint.
        recipe: as it was resolved; ``ropewalk train FOLDER/recipe.json ...`` repeats it.
        model: as the user named it.
        data: the texts, as the user named them.
        to: target length in tokens.
        texts: how many were trained on, and how many were too short for a sample.
        log: of every step.
        readings: steps done -> perplexity by position and pass keys, measured.
        notes: what else to know.
        command: the line that asks for the same.
    """

    folder: Path
    recipe: Recipe
    model: str
    data: str
    to: int
    texts: tuple[int, int]
    log: Sequence[StepLog]
    readings: Mapping[int, Mapping[str, Any]]
    notes: Sequence[str]
    command: str

    @property
    def tokens_per_second(self) -> float:
        """Over all steps but the first, which warms up."""
        some = self.log[1:] or self.log
        return sum(one.tokens for one in some) / max(sum(one.seconds for one in some), 1e-9)

    def show(self, console: Console) -> None:
        done, tokens = len(self.log), sum(one.tokens for one in self.log)
        skipped = sum(not one.taken for one in self.log)
        console.print(
            f"{self.recipe.name}: {done:,} steps, {tokens:,} tokens ({self.tokens_per_second:,.0f} a second)",
            style="bold",
        )
        losses = [one.loss for one in self.log]
        tail = losses[-max(1, len(losses) // 10) :]
        over = f"over the last {len(tail)} steps" if tail[1:] else "at last"
        console.print(f"loss {losses[0]:.3f} at first, {sum(tail) / len(tail):.3f} {over}")
        if skipped:
            console.print(f"{skipped} steps had no finite gradient, and moved no weight")
        if len(self.readings) > 1 and self._lines():
            table = columns("", *(f">{'before' if not step else f'step {step:,}'}" for step in sorted(self.readings)))
            for name, label in self._lines():
                cells = [self._cell(self.readings[step], name) for step in sorted(self.readings)]
                table.add_row(label, *cells)
            console.print(table)
        for note in self.notes:
            console.print(note, soft_wrap=True)
        console.print(f"\nwritten to {self.folder}; {PAGE} in it shows the training", soft_wrap=True)
        console.print(f"next: ropewalk evaluate {shlex.quote(str(self.folder))}", soft_wrap=True)

    def _lines(self) -> list[tuple[tuple[str, str], str]]:
        first = self.readings[min(self.readings)]
        found = [(("perplexity", key), f"perplexity at {key}") for key in first["perplexity"]]
        return found + [(("passkey", key), f"pass keys in {int(key):,}") for key in first["passkey"]]

    def _cell(self, reading: Mapping[str, Any], name: tuple[str, str]) -> str:
        one = reading[name[0]].get(name[1])
        if one is None:
            return ""
        printer = numbers.quantity if name[0] == "perplexity" else numbers.percent
        return numbers.in_full(numbers.Estimate(one["value"], one["low"], one["high"], one["n"]), printer)

    def to_dict(self) -> dict[str, Any]:
        return {
            **{name: getattr(self, name) for name in ("model", "data", "to", "texts", "notes", "command")},
            "folder": str(self.folder),
            "recipe": self.recipe.to_dict(),
            "log": [asdict(one) for one in self.log],
            "readings": {str(step): one for step, one in sorted(self.readings.items())},
            "tokens_per_second": self.tokens_per_second,
        }

    def write(self, folder: Path) -> None:
        """Put recipe, log and page into the checkpoint's folder."""
        from ropewalk.training.training_page import render

        write_text(folder / RECIPE, json.dumps(self.recipe.to_dict(), indent=2) + "\n")
        write_text(folder / TRAINING, json.dumps(self.to_dict(), indent=2) + "\n")
        write_text(folder / PAGE, render(self))
