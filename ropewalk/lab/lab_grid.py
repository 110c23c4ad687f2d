"""Encodings by tasks by seeds: each cell is trained once and kept with its answers, so that a kill costs one cell."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from functools import cached_property, partial
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from safetensors import SafetensorError

from ropewalk import __version__
from ropewalk.common.cluster import LOCAL, RAY, spread
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD
from ropewalk.common.fingerprints import code_fingerprint
from ropewalk.common.local_workers import on_processes
from ropewalk.common.progress import Progress
from ropewalk.common.statistics import LengthScore, Mean, Tally, average, cluster_mean, effective_length, exp
from ropewalk.common.store import Record, SampleStore, content_key
from ropewalk.common.whole import new_folder
from ropewalk.lab.battery import PRIMED, TEXT, TITLES, asked, check, shortest
from ropewalk.lab.cell import Budget, Cell, answers, trained
from ropewalk.lab.decoder import Decoder
from ropewalk.lab.encoding import Additive
from ropewalk.lab.encoding_entries import encoding
from ropewalk.lab.receptive_field import receptive_fields
from ropewalk.report.numbers import Estimate
from ropewalk.report.schema import Average, Model, NotMeasured, Results, Row, Subject, Task, TaskFindings
from ropewalk.rope.config import quiet

ROOMS = "rope", "texts", "attention", "tasks", "methods", "encoders", "training", "lab"  # whose code decides a result
THRESHOLD = 0.85
MODELS = "models"
REMOVE = "Remove it: it is trained again."
FIELDS, SUMMED = "receptive fields", 2**16  # and the distances that are summed up for them
DECODER = "decoder"  # the one model that all encodings are put into

Answered = list[tuple[float, int, int]]
Keys = Mapping[tuple[Cell, str, int], str]  # cell, way and length -> where it is kept
Files = Mapping[str, bytes]  # of a trained model


@dataclass(frozen=True)
class Grid:
    """What is trained, and what is asked.

    Attributes:
        encodings: ids.
        tasks: names.
        seeds: how many, from 0 on.
        lengths: bytes of the rows that are asked.
        samples: rows of each length.
        ways: whether encodings are read in their ways too, beyond the window.
        budget: of every cell.
        setup: the paper's that it began with, if any.
    """

    encodings: tuple[str, ...]
    tasks: tuple[str, ...]
    seeds: int
    lengths: tuple[int, ...]
    samples: int
    ways: bool
    budget: Budget
    setup: str = ""

    def __post_init__(self) -> None:
        for name in self.encodings:
            encoding(name)
        for name in self.tasks:
            check(name)
        for what in ("encodings", "tasks", "lengths"):
            if not getattr(self, what):
                raise UserError(f"no {what} are named, expected one at least")
        for what, n in (("the window", self.budget.window), ("a row that is asked", min(self.lengths))):
            if small := next((name for name in self.tasks if shortest(name) > n), None):
                raise UserError(
                    f"{what} has {n} bytes, and the smallest problem of {small} takes {shortest(small)}",
                    f"Say --{'lengths' if what.startswith('a') else 'window'} {shortest(small)} or more, or leave "
                    f"{small} out.",
                )
        for name in self.tasks:
            asked(name, min(self.lengths), random.Random(0))  # short rows are few, and may all be taught
        primed = [name for name in self.tasks if name in PRIMED]
        ending = [name for name in self.encodings if encoding(name).load().ends]
        if primed and ending:
            raise UserError(
                f"{primed[0]} is trained on rows beyond the window, and {ending[0]} has no positions there",
                f"Name --encodings without {ending[0]}, or other --tasks.",
            )

    @cached_property
    def key(self) -> str:
        """Of all that decides the results."""
        return content_key({**asdict(self), "code": code_fingerprint(ROOMS)})

    @property
    def cells(self) -> Iterator[Cell]:
        """In the order in which they are trained."""
        for seed in range(self.seeds):
            for task in self.tasks:
                yield from (Cell(name, task, seed) for name in self.encodings)

    def read_as(self, name: str) -> tuple[str, ...]:
        """The ways in which an encoding is read; "" is how it was trained."""
        return ("", *encoding(name).ways) if self.ways and self.lengths[-1] > self.budget.window else ("",)

    @property
    def readings(self) -> Iterator[tuple[str, str]]:
        """Every encoding in every way."""
        for name in self.encodings:
            yield from ((name, way) for way in self.read_as(name))

    def asked(self, way: str) -> Sequence[int]:
        """Lengths; those of a way are beyond the window."""
        return [n for n in sorted(self.lengths) if not way or n > self.budget.window]


def run(
    grid: Grid, folder: Path, store: Path, heard: Callable[[Progress], None], workers: int = 1, on: str = LOCAL
) -> Results:
    """Train and ask what is not there yet.

    Args:
        grid: what.
        folder: trained models are kept below.
        store: of answers.
        heard: told of every cell.
        workers: how many cells are at work at the same time; one of this machine is this process.
        on: "local" or "ray".

    Raises:
        UserError: if a row cannot be made, files cannot be written, ray is not installed, or workers die.
    """
    cells = list(grid.cells)
    if workers > 1 or on == RAY:
        heard(Progress(0, len(cells), f"the first cells, on {workers} workers"))
        done = (
            on_processes(partial(_work, grid, folder, store), cells, workers)
            if on == LOCAL
            else _on_ray(grid, folder, store, cells, workers)
        )
        for i, cell in enumerate(done, 1):
            heard(Progress(i, len(cells), str(cell)))
    found: dict[tuple[Cell, str, int], Any] = {}
    with SampleStore(store) as records:
        for i, cell in enumerate(cells):
            if workers == 1 and on == LOCAL:
                heard(Progress(i, len(cells), str(cell)))
            found |= _cell(grid, cell, folder, records)
    heard(Progress(len(cells), len(cells), "done"))
    return _results(grid, found)


def _work(grid: Grid, folder: Path, store: Path, cell: Cell) -> None:
    with SampleStore(store) as records:
        _cell(grid, cell, folder, records)


def _on_ray(grid: Grid, folder: Path, store: Path, cells: Sequence[Cell], workers: int) -> Iterator[Cell]:
    """Every cell when it is finished: answers and trained models stay on this machine, and travel as bytes."""
    with SampleStore(store) as records, spread(RAY, workers) as each:
        todo = []
        for cell in cells:
            if missing := _missing(_keys(grid, cell), records):
                todo.append((cell, missing))
            else:
                yield cell
        places = [_place(grid, cell, folder) for cell, _ in todo]
        sent = ((*one, _files(place)) for one, place in zip(todo, places, strict=True))
        for (cell, _), place, (found, files) in zip(todo, places, each(partial(_away, grid), sent), strict=True):
            if not place.exists():
                with new_folder(place, []) as writing:
                    _unpack(files, writing)
            records.put(found)
            yield cell


def _away(grid: Grid, given: tuple[Cell, Keys, Files]) -> tuple[Mapping[str, Record], Files]:
    """What a cell answers, and its model, on a machine that has none of the files."""
    cell, missing, files = given
    with TemporaryDirectory() as folder:
        place = Path(folder) / "model"
        if files:
            place.mkdir()
            _unpack(files, place)
        return dict(_answered(grid, cell, place, missing)), _files(place)


def _files(place: Path) -> Files:
    return {one.name: one.read_bytes() for one in place.iterdir()} if place.exists() else {}


def _unpack(files: Files, place: Path) -> None:
    for name, content in files.items():
        if name != RECORD:
            (place / name).write_bytes(content)


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums have one order then, however many processors and workers there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _cell(grid: Grid, cell: Cell, folder: Path, records: SampleStore) -> Mapping[tuple[Cell, str, int], Any]:
    """What a cell answers, by way and length, and the receptive fields of its bias."""
    keys = _keys(grid, cell)
    if missing := _missing(keys, records):
        for key, record in _answered(grid, cell, _place(grid, cell, folder), missing):
            records.put({key: record})
    there = records.get(keys.values())
    return {at: there[key] for at, key in keys.items()}


def _of_training(grid: Grid, cell: Cell) -> dict[str, Any]:
    """All that decides a trained model."""
    return {**asdict(cell), **asdict(grid.budget), "code": code_fingerprint(ROOMS)}


def _keys(grid: Grid, cell: Cell) -> Keys:
    """Where what is found of a cell is kept, by way and length."""
    of_training = _of_training(grid, cell)
    keys = {
        (cell, way, n): content_key({**of_training, "way": way, "length": n, "samples": grid.samples})
        for way in grid.read_as(cell.encoding)
        for n in grid.asked(way)
    }
    if issubclass(encoding(cell.encoding).load(), Additive):
        keys[cell, FIELDS, 0] = content_key({**of_training, FIELDS: SUMMED})
    return keys


def _missing(keys: Keys, records: SampleStore) -> Keys:
    there = records.get(keys.values())
    return {at: key for at, key in keys.items() if key not in there}


def _place(grid: Grid, cell: Cell, folder: Path) -> Path:
    """Of the trained model."""
    return folder / MODELS / f"{str(cell).replace(' ', '-')}-{content_key(_of_training(grid, cell))[:12]}"


def _answered(grid: Grid, cell: Cell, place: Path, missing: Keys) -> Iterator[tuple[str, Record]]:
    """What is to be kept, one after the other."""
    with one_thread():
        model = _model(grid, cell, place)
        for (_, way, n), key in missing.items():
            yield key, _record(model, grid, cell.task, way, n)


def _record(model: Decoder, grid: Grid, task: str, way: str, length: int) -> dict[str, Any]:
    """What is kept of one way at one length, or of a bias; infinity is None there."""
    if way == FIELDS:
        biases = [one for one in model.each_encoding if isinstance(one, Additive)]
        every = [field for one in biases for field in receptive_fields(one, farthest=SUMMED)]
        return {FIELDS: [field if math.isfinite(field) else None for field in every]}
    try:
        return {"answers": answers(model, task, way, length, grid.samples, grid.budget.steps)}
    except UserError as error:
        return {"refused": error.message}


def _model(grid: Grid, cell: Cell, place: Path) -> Decoder:
    """Trained now, or before.

    Raises:
        UserError: if what is there is damaged: transformers would fill in random weights.
    """
    if not place.exists():
        model = trained(cell, grid.budget)
        with new_folder(place, []) as writing, quiet():
            model.save_pretrained(writing)
    try:
        with quiet():
            found: Any = Decoder.from_pretrained(place, output_loading_info=True)
    except (OSError, SafetensorError) as error:
        raise UserError(f"the trained model {place} cannot be read: {error}", REMOVE) from None
    loaded, problems = found
    if wrong := [name for some in problems.values() for name in some]:
        raise UserError(f"the trained model {place} is not whole: {wrong[0]}, and {len(wrong) - 1} more", REMOVE)
    return cast(Decoder, loaded.eval())


def is_of_the_lab(results: Results) -> bool:
    """Whether results are those of a grid."""
    return {one.name for one in fields(Budget)} <= results.settings.keys()


# What it says


def _results(grid: Grid, found: Mapping[tuple[Cell, str, int], Any]) -> Results:
    to = max(grid.lengths)
    rows: list[Row] = []
    lost: list[NotMeasured] = []
    subjects: list[Subject] = []
    for name, way in grid.readings:
        method = f"{name} + {way}" if way else name
        scores: dict[tuple[str, int], Tally] = {}
        text: Mean | None = None
        for task, n in product(grid.tasks, grid.asked(way)):
            every = [found[Cell(name, task, seed), way, n] for seed in range(grid.seeds)]
            if refused := next((one["refused"] for one in every if "refused" in one), None):
                lost.append(NotMeasured(DECODER, task, refused, n, method))
                continue
            answered = [one["answers"] for one in every]
            if task == TEXT:
                mean = perplexity(answered)
                text = mean if n == to else text
            else:
                scores[task, n] = tally(answered)
                mean = average([scores[task, n]])
            rows.append(Row(DECODER, method, task, n, mean.value, mean.low, mean.high, mean.n))
        subjects.append(_subject(grid, name, way, method, scores, text))
    return Results(
        {
            **asdict(grid.budget),
            "seeds": grid.seeds,
            "samples": grid.samples,
            "threshold": THRESHOLD,
            "intervals over": "seeds",
            **({"setup": grid.setup} if grid.setup else {}),
            FIELDS: {name: some for name in grid.encodings if (some := _fields(grid, name, found))},
        },
        [Model(DECODER, grid.budget.window, None, to, sorted(grid.lengths))],
        subjects,
        [Task(one, TITLES[one], "perplexity" if one == TEXT else "score") for one in grid.tasks],
        rows,
        not_measured=lost,
        versions={"ropewalk": __version__, "torch": version("torch"), "transformers": version("transformers")},
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
    )


def _fields(grid: Grid, name: str, found: Mapping[tuple[Cell, str, int], Any]) -> list[float | None]:
    """The shortest, the median and the longest receptive field of an encoding's heads, over all cells; None: no end."""
    cells = (cell for cell in grid.cells if cell.encoding == name and (cell, FIELDS, 0) in found)
    every = sorted(math.inf if one is None else one for cell in cells for one in found[cell, FIELDS, 0][FIELDS])
    chosen = [every[0], every[len(every) // 2], every[-1]] if every else []
    return [one if math.isfinite(one) else None for one in chosen]


def _subject(
    grid: Grid, name: str, way: str, method: str, scores: Mapping[tuple[str, int], Tally], text: Mean | None
) -> Subject:
    judged, title = [task for task in grid.tasks if task != TEXT], encoding(name).title
    means = {
        n: average([scores[task, n] for task in judged])
        for n in grid.asked(way)
        if judged and all((task, n) in scores for task in judged)
    }
    of_task = {task: {n: average([one]) for (of, n), one in scores.items() if of == task} for task in judged}
    return Subject(
        DECODER,
        method,
        title=f"{title} + {way}" if way else title,
        effective_length=_effective(means) if means and not way else None,  # a way begins beyond the window
        perplexity_at_to=Estimate(text.value, text.low, text.high, text.n) if text else None,
        averages=[Average(n, one.value, one.low, one.high, one.n, one.se) for n, one in means.items()],
        tasks=[TaskFindings(task, _effective(some)) for task, some in of_task.items() if some and not way],
    )


def _effective(means: Mapping[int, Mean]) -> Estimate:
    told = effective_length(
        (
            LengthScore(n, one.value, one.low or 0.0, one.value if one.high is None else one.high)
            for n, one in means.items()
        ),
        THRESHOLD,
    )
    return Estimate(told.value, told.low, told.high)


def tally(every: Sequence[Answered]) -> Tally:
    """Rows that were answered without a fault; of several seeds, those of one count as alike as they are."""
    right = [[float(missed == 0) for _, _, missed in one] for one in every]
    return Tally.of(right if len(right) > 1 else [[one] for one in right[0]])


def perplexity(every: Sequence[Answered]) -> Mean:
    """Per byte; all seeds are asked the same rows, so that the interval is the wider of those over rows and seeds."""
    rows = cluster_mean(*([sum(one[k][i] for one in every) for k in range(len(every[0]))] for i in (0, 1)))
    seeds = rows if len(every) == 1 else cluster_mean(*([sum(row[i] for row in one) for one in every] for i in (0, 1)))
    mean = max((rows, seeds), key=lambda one: math.inf if one.low is None or one.high is None else one.high - one.low)
    low, high = (None if bound is None else exp(bound) for bound in (mean.low, mean.high))
    value = exp(mean.value)
    return Mean(value, None if mean.se is None else value * mean.se, low, high, seeds.n)
