"""What a training ends with: a checkpoint, the recipe that repeats it, and what was seen on the way."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.common.naming import counted
from ropewalk.common.outside import read_json
from ropewalk.common.results import Result, columns
from ropewalk.common.statistics import Mean, ratio
from ropewalk.common.whole import write_text
from ropewalk.report import numbers
from ropewalk.report.numbers import Estimate
from ropewalk.training.loop import StepLog
from ropewalk.training.readings import AS_IT_CAME, CAME, named, stretch, times
from ropewalk.training.recipe import RECIPE, Recipe
from ropewalk.training.states import MOST, States, beside

if TYPE_CHECKING:
    from rich.console import Console

TRAINING, PAGE = "training.json", "training.html"
PRINTERS: dict[str, numbers.Printer] = {"perplexity": numbers.quantity, "passkey": numbers.percent}
PLAIN = "model", "data", "window", "to", "notes", "command", "rope"  # fields that are in its file as they are
Key = tuple[str, str]  # perplexity or passkey, and its place


@dataclass(frozen=True, repr=False)
class Trained(Result):
    """A training.

    Attributes:
        folder: the new checkpoint.
        recipe: as it was resolved; ``ropewalk train FOLDER/recipe.json ...`` repeats it.
        model: as the user named it.
        data: the texts, as the user named them.
        window: that the model had, in tokens.
        to: target length in tokens.
        texts: how many were trained on, and how many were too short for a sample, or are in no row.
        log: of every step.
        readings: steps done -> perplexity by position and pass keys, measured with the rope that the model is written
            with; ``CAME`` -> the same of the model as it came, with its own.
        notes: what else to know.
        command: the line that asks for the same.
        rope: what must be put on to read texts, since no configuration says it; empty if one does.
        memory: whether the folder holds a memory, and no checkpoint: it is put on the model as it came.
    """

    folder: Path
    recipe: Recipe
    model: str
    data: str
    window: int
    to: int
    texts: tuple[int, int]
    log: Sequence[StepLog]
    readings: Mapping[int, Mapping[str, Any]]
    notes: Sequence[str]
    command: str
    rope: str = ""
    memory: bool = False

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
        begun, stages = 0, self.recipe.schedule_of_stages()
        for i, (_, steps) in enumerate(stages, 1):  # which may be of other lengths, or have other losses
            losses = [one.loss for one in self.log[begun : begun + steps]]
            begun += steps
            if losses:
                tail = losses[-max(1, len(losses) // 10) :]
                over = f"over the last {len(tail)} steps" if tail[1:] else "at last"
                where = f"stage {i} of {len(stages)}: " * (len(stages) > 1)
                console.print(f"{where}loss {losses[0]:.3f} at first, {sum(tail) / len(tail):.3f} {over}")
        if skipped:
            console.print(f"{skipped} steps had no finite gradient, and moved no weight")
        if self.lines:
            *earlier, last = [step for step in (CAME, 0, done) if step in self.readings]
            table = columns("", *(f">{named(step)}" for step in (*earlier, last)), ">last against as it came")
            for key, label in self.lines.items():
                cells = [PRINTERS[key[0]](self.estimate(step, key).value) for step in (*earlier, last)]
                if key[0] == "passkey":
                    cells[-1] = numbers.in_full(self.estimate(last, key), PRINTERS[key[0]])
                table.add_row(label, *cells, times(self.change(key)))
            console.print(table)
            counts = [change.n for key in self.lines if (change := self.change(key))]
            if counts:
                console.print(f"in brackets 95 % intervals, of the ratios over {counted(counts[0], 'text')}, paired")
        for note in self.notes:
            console.print(note)
        console.print(f"\nwritten to {self.folder}; {PAGE} in it shows the training")
        on = f" --methods {shlex.quote(self.rope)} --to {self.to}" if self.rope else ""
        on += " --data topics" if self.data == "stdlib" else ""  # which it would read else, and was trained on
        console.print(f"next: ropewalk evaluate {shlex.quote(self.model if self.memory else str(self.folder))}{on}")

    @property
    def lines(self) -> dict[Key, str]:
        """What was measured, with its name for people."""
        if not self.readings:
            return {}
        last = self.readings[max(self.readings)]
        found = {("perplexity", place): f"perplexity at {stretch(place)}" for place in last["perplexity"]}
        return found | {("passkey", place): f"pass keys in {int(place):,}" for place in last["passkey"]}

    def estimate(self, step: int, key: Key) -> Estimate:
        """What was measured at a step."""
        one = self.readings[step][key[0]].get(key[1])
        return Estimate() if one is None else Estimate(one["value"], one["low"], one["high"], one["n"])

    def change(self, key: Key) -> Mean | None:
        """The last perplexity over that of the model as it came, paired by text; None where there are no two."""
        last = max(self.readings)
        if key[0] != "perplexity" or not {CAME, last} <= self.readings.keys() or last == CAME:
            return None
        ours, theirs = (self.readings[step]["perplexity"][key[1]]["losses"] for step in (last, CAME))
        return ratio(ours, theirs)

    def to_dict(self) -> dict[str, Any]:
        return {
            **{
                name: getattr(self, name)
                for name in ("model", "data", "window", "to", "texts", "notes", "command", "rope", "memory")
            },
            "folder": str(self.folder),
            "recipe": self.recipe.to_dict(),
            "log": [
                {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row}
                for row in (asdict(one).items() for one in self.log)
            ],
            "readings": {AS_IT_CAME if step == CAME else str(step): one for step, one in sorted(self.readings.items())},
            "tokens_per_second": self.tokens_per_second,
        }

    def write(self, folder: Path) -> None:
        """Put recipe, log and page into the checkpoint's folder."""
        from ropewalk.training.training_page import page_of_training

        write_text(folder / RECIPE, json.dumps(self.recipe.to_dict(), indent=2) + "\n")
        write_text(folder / TRAINING, json.dumps(self.to_dict(), indent=2) + "\n")
        write_text(folder / PAGE, page_of_training(self).render())

    @classmethod
    def read(cls, folder: Path) -> Trained:
        """What ``write`` wrote.

        Raises:
            UserError: if it cannot be read; KeyError, TypeError or ValueError if it is of another kind.
        """
        content = read_json(folder / TRAINING, most=MOST)
        rows: list[dict[str, Any]] = [
            {name: math.nan if value is None else value for name, value in one.items()} for one in content["log"]
        ]
        readings = {CAME if step == AS_IT_CAME else int(step): one for step, one in content["readings"].items()}
        rest = {name: content[name] for name in (*PLAIN, "memory")}
        recipe = Recipe.from_dict(content["recipe"])
        return cls(
            folder,
            recipe,
            texts=tuple(content["texts"]),
            log=[StepLog(**one) for one in rows],
            readings=readings,
            **rest,
        )


def ended(out: Path, command: str, recipe: Recipe) -> Trained | None:
    """What the same command wrote that was stopped before its states were gone.

    Args:
        out: folder of the checkpoint.
        command: that is asked for.
        recipe: what it resolves to, for it may name a file.
    """
    states = States(beside(out), {})
    if not (out / TRAINING).is_file() or states.latest is None:
        return None
    try:
        found = Trained.read(out)
    except (UserError, KeyError, TypeError, ValueError):  # another's, or of another version
        return None
    same = found.command == command and found.recipe == recipe
    return found if same and states.latest == len(found.log) else None
