"""The samples of a task at one context length, the same for every model and method that is measured."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, ClassVar

from ropewalk.common.fingerprints import ids_fingerprint
from ropewalk.common.store import Record, content_key
from ropewalk.evaluation.grid import PlantedGrid
from ropewalk.tasks import registry
from ropewalk.tasks.benchmarks.question import Question, Subset
from ropewalk.tasks.niah import NeedleInHaystack
from ropewalk.tasks.task import Sample, Task, TooShort
from ropewalk.texts.pieces import TokenUnits

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PER_CONTEXT = 4  # questions about one context, where a task has several


@dataclass(frozen=True)
class Cell:
    """One task at one length; sample ``i`` depends on (seed, task, length, i) alone and is built when it is needed.

    Attributes:
        task: what is asked.
        length: prompt and answer have this many tokens together.
        depths: where the needed information of each sample stands, 0 to 1.
        seed: of the samples.
        units: the tokenizer's.
        name: of the task, as in results.
        hashes: sha256 of the token ids of each sample, and of the references of a free answer.
        stands: where the needed information of each sample stands; None where it is spread.
        rooms: tokens kept free for each answer.
        of_text: whether every prompt can be told into a text and a question about it.

    Raises:
        TooShort: if ``length`` does not hold the fixed parts of the task.
    """

    task: Task
    length: int
    depths: tuple[float | None, ...]
    seed: int
    units: TokenUnits
    name: str = ""
    hashes: tuple[str, ...] = field(init=False)
    stands: tuple[float | None, ...] = field(init=False)
    rooms: tuple[int, ...] = field(init=False)
    of_text: bool = field(init=False)
    gridded: ClassVar[bool] = False  # whether scores by depth mean something

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.task.name)
        about = [
            (self._asked(one), None if math.isnan(one.depth) else one.depth, one.room, one.after)
            for one in self.samples(range(len(self)))
        ]
        *values, afters = zip(*about, strict=True)
        for name, value in zip(("hashes", "stands", "rooms", "of_text"), (*values, all(afters)), strict=True):
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.depths)

    def sample(self, i: int) -> Sample:
        return self.task.sample(self.length, self._chance(i), self.units, self.depths[i])

    def samples(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Some samples, in their order."""
        return map(self.sample, indices)

    def context(self, i: int) -> int:
        """Samples with the same number share a text, so that they are not independent."""
        return i

    def ends(self, i: int) -> tuple[str, ...]:
        """Texts at which the answer of a sample is over."""
        return ()

    def score(self, i: int, record: Record) -> float:
        """The score of a sample, 0 to 1, by its stored record."""
        return float(record["score"] if "score" in record else record["right"])

    def _asked(self, sample: Sample) -> str:
        """A hash of all that decides a sample's score: its tokens, and what a free answer is held against."""
        ids = ids_fingerprint(sample.prompt + sample.answer)
        return content_key({"ids": ids, "references": sample.references}) if self.task.free else ids

    def _chance(self, i: int) -> random.Random:
        return random.Random(f"{self.seed}/{self.name}/{self.length}/{i}")


@dataclass(frozen=True)
class GridCell(Cell):
    """Single needles at every depth of a grid; the samples of a round, at all lengths, share their haystack."""

    rounds: int = 1
    gridded: ClassVar[bool] = True

    def sample(self, i: int) -> Sample:
        assert isinstance(self.task, NeedleInHaystack)
        chance = random.Random(f"{self.seed}/{self.name}/haystack/{self.context(i)}")
        task = replace(self.task, start=chance.randrange(len(self.task.haystack)))
        return task.sample(self.length, self._chance(i), self.units, self.depths[i])

    def context(self, i: int) -> int:
        return i % self.rounds


@dataclass(frozen=True)
class PlantedCell(Cell):
    """Needles of all cells in one haystack per round, asked for one at a time."""

    grids: tuple[PlantedGrid, ...] = ()
    gridded: ClassVar[bool] = True

    def sample(self, i: int) -> Sample:
        return self.grids[self.context(i)].sample(self.length, self.depths[i] or 0.0)

    def context(self, i: int) -> int:
        return i % len(self.grids)


@dataclass(frozen=True)
class QuestionCell(Cell):
    """Several questions about each context: as many as the task has, and the length holds.

    A context that the length does not hold is left out, and not replaced: it counts as one of the samples.

    Attributes:
        contexts: at most so many, even if that makes fewer samples than ``depths`` asks for.
        per_context: at most so many questions about each.
        places: the context of each sample, and its number there.
        left_out: why contexts were left out.

    Raises:
        TooShort: if none of the contexts fits (or not the first one, where all are alike).
    """

    contexts: int | None = None
    per_context: int = PER_CONTEXT
    places: tuple[tuple[int, int], ...] = field(init=False)
    left_out: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name or self.task.name)
        places: list[tuple[int, int]] = []
        left_out: list[str] = []
        for n in islice(count(), self.contexts):
            if (room := len(self) - len(places) - len(left_out)) <= 0:
                break
            try:
                places += [(n, k) for k in range(len(self._about(n)))][:room]
            except TooShort as error:
                if self.task.alike and not places:
                    raise
                left_out.append(str(error))
        if not places:
            raise TooShort(left_out[0])
        for name, values in (
            ("places", tuple(places)), ("left_out", tuple(left_out)), ("depths", self.depths[: len(places)]),
        ):  # fmt: skip
            object.__setattr__(self, name, values)
        super().__post_init__()

    def sample(self, i: int) -> Sample:
        context, k = self.places[i]
        return self._about(context)[k]

    def samples(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Some samples, in their order; a context is built once for neighbours that share it."""
        for context, some in groupby((self.places[i] for i in indices), key=itemgetter(0)):
            asked = self._about(context)
            yield from (asked[k] for _, k in some)

    def context(self, i: int) -> int:
        return self.places[i][0]

    def _about(self, context: int) -> list[Sample]:
        for n in range(self.per_context, 1, -1):
            try:
                return self.task.questions(self.length, self._chance(context), self.units, n)
            except TooShort:
                continue
        return self.task.questions(self.length, self._chance(context), self.units, 1)


@dataclass(frozen=True)
class RowCell(Cell):
    """Questions of a file, their prompts cut to the length; those that it does not hold are left out.

    Attributes:
        rows: indices of the questions, those about one text side by side.
        left_out: why questions were left out.
    """

    rows: tuple[int, ...] = ()
    left_out: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        rows: list[int] = []
        hashes: list[str] = []
        rooms: list[int] = []
        of_text: list[bool] = []
        left_out: list[str] = []
        for row in self.rows:
            try:
                one = self.subset.prompted(self.subset.asked[row], self.length, self.units)
            except TooShort as error:
                left_out.append(str(error))
                continue
            rows.append(row)
            hashes.append(ids_fingerprint(one.prompt))
            rooms.append(one.room)
            of_text.append(one.after > 0)
        nowhere = (None,) * len(rows)
        for name, values in (
            ("rows", rows), ("hashes", hashes), ("rooms", rooms), ("left_out", left_out), ("stands", nowhere),
            ("depths", nowhere),
        ):  # fmt: skip
            object.__setattr__(self, name, tuple(values))
        object.__setattr__(self, "of_text", all(of_text))

    @property
    def subset(self) -> Subset:
        assert isinstance(self.task, Subset)
        return self.task

    def question(self, i: int) -> Question:
        return self.subset.asked[self.rows[i]]

    def sample(self, i: int) -> Sample:
        return self.subset.prompted(self.question(i), self.length, self.units)

    def ends(self, i: int) -> tuple[str, ...]:
        return self.question(i).ends

    def context(self, i: int) -> int:
        return self.subset.texts[self.question(i).context]

    def score(self, i: int, record: Record) -> float:
        return self.subset.grade(record["text"], self.question(i))


@dataclass(frozen=True)
class Skipped:
    """What is not asked at a length (None: at any), and why."""

    task: str
    length: int | None
    reason: str


def cells(
    names: Sequence[str],
    lengths: Sequence[int],
    samples: int,
    depths: Sequence[float],
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    material: registry.Material | None = None,
    contexts: int | None = None,
) -> tuple[list[Cell], list[Skipped]]:
    """Every task at every length that it fits in.

    Args:
        names: of the registry.
        lengths: in tokens.
        samples: of each cell; of grids, as many rounds of ``depths`` as hold that many.
        depths: of needles on a grid.
        seed: of the samples.
        tokenizer: of the model.
        material: for the tokenizer.
        contexts: of each cell at most, for tasks that ask several questions about one.
    """
    material = registry.Material(tokenizer) if material is None else material
    units = TokenUnits(tokenizer)
    found: list[Cell] = []
    skipped: list[Skipped] = []
    for name in names:
        task, asked = registry.make(name, material), registry.entry(name).asked
        fitting = list(lengths)
        rounds = math.ceil(samples / len(depths))
        grid = grid_depths(depths, rounds)
        plans: tuple[PlantedGrid, ...] = ()
        if asked == "planted":
            plans, fitting, too_short = _planted(name, task, fitting, depths, seed, rounds, units)
            skipped += too_short
        for length in fitting:
            try:
                if asked == "grid":
                    found.append(GridCell(task, length, grid, seed, units, name, rounds))
                elif asked == "planted":
                    found.append(PlantedCell(task, length, grid, seed, units, name, plans))
                elif asked == "spread":
                    found.append(Cell(task, length, spread_depths(samples, seed), seed, units, name))
                else:
                    cell = QuestionCell(task, length, (None,) * samples, seed, units, name, contexts)
                    found.append(cell)
                    if why := cell.left_out:
                        lost = f"{len(why)} of {len(why) + len(cell)} questions left out: {why[0]}"
                        skipped.append(Skipped(name, length, lost))
            except TooShort as error:
                skipped.append(Skipped(name, length, str(error)))
    return found, skipped


def row_cells(
    subset: Subset, lengths: Sequence[int], samples: int | None, seed: int, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Cell], list[Skipped]]:
    """A subset of a benchmark at every length.

    Args:
        subset: whose questions are asked.
        lengths: of a prompt and its answer together.
        samples: of each cell, drawn at random; None asks all questions.
        seed: of the draw.
        tokenizer: of the model.
    """
    total, units = len(subset.asked), TokenUnits(tokenizer)
    chosen = random.Random(f"{seed}/{subset.name}").sample(range(total), min(total, samples or total))
    rows = tuple(sorted(chosen, key=lambda i: subset.asked[i].context))
    made = [RowCell(subset, n, (), seed, units, subset.name, rows) for n in lengths]
    skipped = [
        Skipped(subset.name, cell.length, f"{len(why)} of {len(rows)} questions: {why[0]}")
        for cell in made
        if (why := cell.left_out)
    ]
    return [cell for cell in made if len(cell)], skipped


def _planted(
    name: str, task: Task, lengths: list[int], depths: Sequence[float], seed: int, rounds: int, units: TokenUnits
) -> tuple[tuple[PlantedGrid, ...], list[int], list[Skipped]]:
    """One haystack per round, without the shortest lengths if these do not hold a needle."""
    assert isinstance(task, NeedleInHaystack)
    skipped: list[Skipped] = []
    while lengths:
        try:
            grids = tuple(PlantedGrid(task, tuple(lengths), tuple(depths), seed, n, units) for n in range(rounds))
            return grids, lengths, skipped
        except TooShort as error:
            skipped.append(Skipped(name, lengths[0], str(error)))
            lengths = lengths[1:]
    return (), [], skipped


def grid_depths(depths: Sequence[float], rounds: int) -> tuple[float, ...]:
    """Every depth ``rounds`` times."""
    return tuple(depth for depth in depths for _ in range(rounds))


def spread_depths(n: int, seed: int) -> tuple[float, ...]:
    """``n`` depths that cover [0, 1] evenly: one drawn uniformly from each n-th of it."""
    rng = random.Random(f"{seed}/depths")
    return tuple((i + rng.random()) / n for i in range(n))
