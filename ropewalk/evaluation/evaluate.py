"""Measures one model or server on a suite of tasks, with controls, and says how much of its context it uses."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from ropewalk.backends.backend import Backend
from ropewalk.common.errors import UserError
from ropewalk.common.statistics import LengthScore, Mean, Tally, average, effective_length, passing_probability
from ropewalk.common.store import Records, SampleStore
from ropewalk.evaluation.asking import Answer, Engine, Progress
from ropewalk.evaluation.controls import controls
from ropewalk.evaluation.findings import Measured, Row, accuracy, by_text, rows
from ropewalk.evaluation.samples import Cell, Skipped, cells
from ropewalk.evaluation.sequential import Sprt, decide, search
from ropewalk.tasks.registry import PPL, Material
from ropewalk.tasks.task import TooShort
from ropewalk.texts.documents import tokenise

THRESHOLD = 0.85  # accuracy that counts as using the context, close to RULER's 0.856
DOCUMENTS = 2  # perplexity at a length wants at least so many texts of that length
Answers = dict[tuple[str, int], list[Answer]]


@dataclass(frozen=True)
class Score:
    """A mean score with its interval; ``se`` is the standard error of an average over tasks."""

    value: float
    low: float | None
    high: float | None
    n: int
    se: float | None = None

    @classmethod
    def of(cls, mean: Mean) -> Score:
        return cls(mean.value, mean.low, mean.high, mean.n, mean.se)


@dataclass(frozen=True)
class TaskSummary:
    """One task: what kind it is, how far it passes, what its controls say.

    Attributes:
        task: name in the registry.
        scope: how much information is needed, "small" or "large".
        diffusion: how hard it is to find, "low" or "high".
        effective_length: longest tested length up to which every tested one passes, and by the bounds of the scores.
        controls: by name.
        checked: teacher-forced answers that were decoded as well.
        agreed: how many of these decoding confirmed.
        early: lengths at which the sequential test stopped before all samples were asked.
    """

    task: str
    scope: str
    diffusion: str
    effective_length: dict[str, int]
    controls: dict[str, Score]
    checked: int
    agreed: int
    early: list[int]


@dataclass(frozen=True)
class Evaluation:
    """Everything that ``evaluate`` found.

    Attributes:
        average: length -> mean over tasks, every task counting the same.
        quadrants: (scope, diffusion) as "small/low" -> length -> the same over the tasks of that kind.
        passing: length -> probability that the average passes there and at every shorter tested length.
        effective_length: of the average.
    """

    settings: dict[str, Any]
    model: dict[str, Any]
    how: str
    tokens: dict[str, int] | None
    results: list[Row]
    tasks: list[TaskSummary]
    average: dict[int, Score]
    quadrants: dict[str, dict[int, Score]]
    passing: dict[int, float]
    effective_length: dict[str, int] | None
    skipped: list[Skipped] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, strings and numbers; keys are strings, and a row has only what it knows."""
        whole = asdict(self)
        for row in whole["results"]:
            for name in ("depth", "start"):
                if row[name] is None:
                    del row[name]
        for name in ("average", "passing"):
            whole[name] = {str(length): score for length, score in whole[name].items()}
        whole["quadrants"] = {kind: {str(n): s for n, s in by.items()} for kind, by in whole["quadrants"].items()}
        return whole


def evaluate(
    backend: Backend,
    *,
    method: str = "none",
    tasks: Sequence[str],
    lengths: Sequence[int],
    documents: Mapping[str, str] | None = None,
    given: Mapping[str, Any] | None = None,
    max_documents: int = 16,
    samples: int = 50,
    contexts: int | None = None,
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    seed: int = 0,
    threshold: float = THRESHOLD,
    sequential: Sprt | None = None,
    with_controls: bool = True,
    store: Records | None = None,
    progress_callback: Callable[[Progress], None] = lambda progress: None,
) -> Evaluation:
    """Measure one backend; a sample that ``store`` holds is not computed again.

    Args:
        backend: a live model with its method, a server, or a stand-in.
        method: how records name what is applied to the model.
        tasks: of the registry, and "ppl".
        lengths: context lengths in tokens.
        documents: texts by name, for "ppl".
        given: parts of the material that tasks are made from, see ``registry.Material``.
        max_documents: how many of the long enough documents to use.
        samples: of each task at each length.
        contexts: at most so many for them, where a task asks several questions about one.
        depths: of grids, 0 (start) to 1 (end).
        seed: of the samples and of the bootstrap.
        threshold: accuracy that passes.
        sequential: stop asking where the outcome is clear, and bisect over the lengths.
        with_controls: measure ceiling, closed book and altered information too, at the shortest length.
        store: where finished samples are kept; by default in memory.
        progress_callback: called after every sample.

    Raises:
        UserError: if an argument makes no sense.
    """
    lengths = sorted(set(lengths))
    check(tasks, lengths, samples, depths)
    asked = [name for name in tasks if name != PPL]
    material = Material(backend.tokenizer, given)
    planned, skipped = cells(asked, lengths, samples, depths, seed, backend.tokenizer, material, contexts)
    texts, read, too_long = _texts(backend, documents or {}, lengths, max_documents if PPL in tasks else 0)
    by_task = {name: list(some) for name, some in groupby(planned, lambda cell: cell.name)}
    control_cells = {name: _controls(some[0], samples) if with_controls else {} for name, some in by_task.items()}
    done = 0
    total = sum(map(len, planned)) + sum(len(c) for some in control_cells.values() for c in some.values())

    def advance(n: int, method: str, task: str, length: int) -> None:
        nonlocal done
        done += n
        progress_callback(Progress(done, total, method, task, length))

    engine = Engine(backend, method, SampleStore() if store is None else store, advance)
    total += len(texts) * engine.passes(read)
    losses = engine.losses(texts, read) if texts else None
    answers: Answers = {}
    early: dict[str, list[int]] = {name: [] for name in by_task}
    if sequential is None:
        answers = engine.answers(planned)
    else:
        for name, some in by_task.items():
            found, early[name] = _sequentially(engine, some, sequential, threshold, seed)
            answers |= found
    summaries = []
    for name, some in by_task.items():
        scored = {
            c: _score(engine.ask([(cell, i) for i in range(len(cell))])) for c, cell in control_cells[name].items()
        }
        summaries.append(_summarise(some[0], answers, scored, early[name], threshold))
    tallies = _tallies(answers, list(by_task))
    kinds = {name: f"{some[0].task.scope}/{some[0].task.diffusion}" for name, some in by_task.items()}
    means = _averages(tallies, seed)
    return Evaluation(
        settings={
            "method": method,
            "tasks": list(tasks),
            "lengths": lengths,
            "samples": samples,
            "contexts": contexts,
            "depths": list(depths),
            "seed": seed,
            "threshold": threshold,
            "sequential": None if sequential is None else asdict(sequential),
            "documents": list(texts),
        },
        model=backend.describe(),
        how=backend.how,
        tokens=backend.tokens,
        results=rows(method, Measured(losses, answers)),
        tasks=summaries,
        average=means,
        quadrants={
            kind: _averages(_tallies(answers, [name for name in kinds if kinds[name] == kind]), seed)
            for kind in sorted(set(kinds.values()))
        },
        passing=passing_probability(tallies, threshold, seed=seed) if tallies else {},
        effective_length=_effective(means, threshold) if means else None,
        skipped=[*skipped, *too_long],
    )


def check(tasks: Sequence[str], lengths: Sequence[int], samples: int, depths: Sequence[float]) -> None:
    """Refuse what makes no sense.

    Raises:
        UserError: naming the argument.
    """
    if not tasks:
        raise UserError("no tasks", "name a suite or tasks")
    if not lengths or min(lengths) < 2:
        raise UserError(f"lengths are {list(lengths)}, expected numbers of tokens from 2 on")
    if samples < 1:
        raise UserError(f"samples is {samples}, expected at least 1")
    if not depths or not all(0 <= depth <= 1 for depth in depths) or len(set(depths)) < len(depths):
        raise UserError(f"depths {list(depths)} must be different numbers from 0 to 1")


def _texts(
    backend: Backend, documents: Mapping[str, str], lengths: Sequence[int], most: int
) -> tuple[dict[str, list[int]], list[int], list[Skipped]]:
    """The documents' ids, cut to the longest length that enough of them have; the lengths up to it, and the others."""
    if not most or not documents:
        return {}, [], []
    if not backend.scores_texts:
        return {}, [], [Skipped(PPL, n, "what is asked does not give the log-probabilities of a text") for n in lengths]
    ids = tokenise(documents, backend.tokenizer, 2)
    enough = min(DOCUMENTS, len(ids))
    fitting = [n for n in lengths if sum(len(row) >= n for row in ids.values()) >= enough]
    longest = max(map(len, ids.values()))
    reason = f"fewer than {enough} documents are that long; the longest has {longest} tokens"
    skipped = [Skipped(PPL, n, reason) for n in lengths if n not in fitting]
    if not fitting:
        return {}, [], skipped
    kept = [(name, row[: fitting[-1]]) for name, row in ids.items() if len(row) >= fitting[-1]]
    return dict(kept[:most]), fitting, skipped


def _controls(cell: Cell, samples: int) -> dict[str, Cell]:
    try:
        return controls(cell, min(samples, len(cell)))
    except TooShort:
        return {}


def _sequentially(
    engine: Engine, some: Sequence[Cell], test: Sprt, threshold: float, seed: int
) -> tuple[Answers, list[int]]:
    """One task's answers at the lengths that had to be tested, and where the test stopped early."""
    by_length = {cell.length: cell for cell in some}
    answers: Answers = {}
    early = []

    def passes(length: int) -> bool:
        cell = by_length[length]
        order = random.Random(f"{seed}/order/{cell.name}/{length}").sample(range(len(cell)), len(cell))
        given: list[Answer] = []

        def ask(indices: Sequence[int]) -> list[float]:
            given.extend(engine.ask([(cell, i) for i in indices]))
            return [answer.score for answer in given[-len(indices) :]]

        verdict = decide(test, order, ask, threshold)
        answers[cell.name, length] = given
        if verdict.early:
            early.append(length)
        return verdict.passed

    search(sorted(by_length), passes)
    return dict(sorted(answers.items())), sorted(early)


def _summarise(
    cell: Cell, answers: Answers, scored: dict[str, Score], early: list[int], threshold: float
) -> TaskSummary:
    own = {length: some for (name, length), some in answers.items() if name == cell.name}
    scores = {length: _score(some) for length, some in own.items()}
    checks = [answer.decoded for some in own.values() for answer in some if answer.decoded is not None]
    task = cell.task
    effective = _effective(scores, threshold)
    return TaskSummary(cell.name, task.scope, task.diffusion, effective, scored, len(checks), sum(checks), early)


def _score(answers: Sequence[Answer]) -> Score:
    value, low, high = accuracy(answers)
    return Score(value, low, high, len(answers))


def _tallies(answers: Answers, names: Sequence[str]) -> dict[int, list[Tally]]:
    """The scores of the named tasks at each length that all of them were tested at."""
    lengths = sorted({length for _, length in answers})
    complete = [n for n in lengths if names and all((name, n) in answers for name in names)]
    return {n: [Tally.of(by_text(answers[name, n])) for name in names] for n in complete}


def _averages(tallies: Mapping[int, Sequence[Tally]], seed: int) -> dict[int, Score]:
    return {length: Score.of(average(some, seed=seed)) for length, some in tallies.items()}


def _effective(scores: Mapping[int, Score], threshold: float) -> dict[str, int]:
    bounded = [LengthScore(n, s.value, s.low or 0.0, s.value if s.high is None else s.high) for n, s in scores.items()]
    return asdict(effective_length(bounded, threshold))
