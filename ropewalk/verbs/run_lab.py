"""Encodings of positions, trained from scratch on small tasks, side by side beyond the length that they saw."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.verbs.request import Count, Length, Lengths, Place, Request, Words, verb

if TYPE_CHECKING:
    from ropewalk.evaluation.outcome import Outcome
    from ropewalk.lab.lab_grid import Grid

FULL: dict[str, Any] = {
    "tasks": ("copy", "reverse", "sort", "parity", "addition_reversed", "lookup", "text"), "seeds": 5, "window": 64,
    "samples": 64, "steps": 2000, "learning_rate": 3e-3, "layers": 3,
}  # fmt: skip
QUICK: dict[str, Any] = {
    "tasks": ("copy", "parity"), "seeds": 1, "window": 16, "samples": 32, "steps": 400, "learning_rate": 5e-3,
    "layers": 2,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunLabRequest(Request):
    """What is trained, and what is asked.

    Attributes:
        setup: A paper's encodings, tasks, window and lengths, where nothing else is said: nope, randomized, fire, xpos,
            kerple, priming, hinting, formats or columns, as docs/lab.md lists them; quick keeps its own window.
        encodings: Encodings, as docs/lab.md lists them; by default all.
        tasks: What they learn: algorithms (copy, addition, ...), posgen_recurrent and the like, and text, which is
            source code; by default copy,reverse,sort,parity,addition_reversed,lookup,text, quick copy,parity.
        seeds: Trainings of each, of other weights and rows; by default 5, quick 1.
        window: Bytes of the longest row that is trained on; by default 64, quick 16, or what the tasks' smallest rows
            take.
        lengths: Bytes of the rows that are asked; by default the window, twice and four times as much.
        samples: Rows of each length that are asked; by default 64, quick 32.
        plain: Read encodings beyond the window as they were trained alone, in none of the ways that change them there.
        steps: Steps of training; by default 2,000, quick 400.
        batch: Rows per step.
        learning_rate: Learning rate at its peak; by default 0.003, quick 0.005.
        width: Of hidden states.
        layers: Of a decoder; by default 3, quick 2.
        heads: Of attention.
        quick: Short rows, small decoders and few steps, where nothing else is said.
        on: Where cells are trained: local (this machine) or ray (a Ray cluster, or a local one if none runs).
        workers: How many cells are trained at the same time, each on a processor; results are the same.
        out: Folder for results, report and trained models.
        overwrite: Replace the results of another run; what was trained stays.
    """

    setup: str = ""
    encodings: Words | None = None
    tasks: Words | None = None
    seeds: Count | None = None
    window: Length | None = None
    lengths: Lengths | None = None
    samples: Count | None = None
    plain: bool = False
    steps: Count | None = None
    batch: Count = 32
    learning_rate: float | None = None
    width: Count = 64
    layers: Count | None = None
    heads: Count = 4
    quick: bool = False
    on: str = "local"
    workers: Count = 1
    out: Place = Path("runs/lab")
    overwrite: bool = False

    def grid(self) -> Grid:
        """All of it.

        Raises:
            UserError: for what cannot be trained or asked.
        """
        from ropewalk.lab.battery import shortest
        from ropewalk.lab.cell import Budget
        from ropewalk.lab.encoding_entries import BY_ID
        from ropewalk.lab.lab_grid import Grid
        from ropewalk.lab.setups import setup

        plain: dict[str, Any] = {"encodings": tuple(BY_ID), "times": (1, 2, 4), **(QUICK if self.quick else FULL)}
        if self.setup:
            papers = setup(self.setup)
            plain |= {"encodings": papers.encodings, "tasks": papers.tasks, "times": papers.times}
            plain |= {} if self.quick else {"window": papers.window}
        given = {name: getattr(self, name) for name in plain if name != "times"}
        said = plain | {name: value for name, value in given.items() if value is not None}
        said |= {name: getattr(self, name) for name in ("batch", "width", "heads")}
        if self.window is None:
            said["window"] = max(said["window"], *map(shortest, said["tasks"]), 0)
        budget = Budget(**{one.name: said[one.name] for one in fields(Budget)})
        lengths = self.lengths or tuple(int(times * budget.window) for times in said["times"])
        return Grid(
            said["encodings"],
            said["tasks"],
            said["seeds"],
            lengths,
            said["samples"],
            not self.plain,
            budget,
            self.setup,
        )


@verb("lab run", keeps=True)
def run_lab(request: RunLabRequest) -> Outcome:
    """Train encodings from scratch on small tasks, and ask what they learnt at lengths beyond those they saw.

    Every encoding has the same decoder, rows and steps; beyond the window it is read as it was trained, and in the ways
    that change it there without training. Cells that are trained are not trained again, also after an interruption.

    Returns:
        Scores by encoding, way, task and length, and where their page is.

    Raises:
        UserError: for an unknown encoding or task, rows that are too long, or a folder that cannot be written.
    """
    from ropewalk.common.cluster import check
    from ropewalk.common.progress import shown
    from ropewalk.evaluation.outcome import kept
    from ropewalk.lab.lab_grid import run
    from ropewalk.lab.lab_page import write

    check(request.on, request.workers)
    grid = request.grid()
    with shown() as heard:
        outcome = kept(
            request.out,
            grid.key,
            lambda store: run(grid, request.out, store, heard, request.workers, request.on),
            [],
            request.command,
            overwrite=request.overwrite,
        )
        write(outcome.results, request.out / "report.html")
    return outcome
