"""What an experiment found: rows, a summary of every subject, and what was not measured, as ``report.schema``."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import groupby
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ropewalk.backends.backend import Spent
from ropewalk.common.one_number import area, harmonic_mean
from ropewalk.common.statistics import (
    LengthScore,
    Mean,
    Tally,
    average,
    cluster_mean,
    effective_length,
    mcnemar,
    passing_probability,
)
from ropewalk.evaluation.asking import Answer, Losses
from ropewalk.evaluation.controls import GUESS
from ropewalk.evaluation.perplexity import perplexity, position_curve
from ropewalk.evaluation.samples import RowCell
from ropewalk.evaluation.sequential import Sprt
from ropewalk.report.numbers import Estimate
from ropewalk.report.schema import (
    PLAIN,
    Average,
    BenchmarkTable,
    Change,
    Cost,
    Gain,
    Model,
    NotMeasured,
    Reading,
    Results,
    Row,
    Subject,
    Task,
    TaskFindings,
)
from ropewalk.tasks.benchmarks.question import Scored
from ropewalk.tasks.registry import PPL, TASKS, categories

if TYPE_CHECKING:
    from ropewalk.evaluation.contestants import Contestant
    from ropewalk.evaluation.experiment import Experiment, Material, Measured, Plan

K_MAX_ACCURACY = 0.2
LOSSES = Task(PPL, "Perplexity", "perplexity"), Task("position", "Loss by position", "nll")
Answers = Mapping[tuple[str, int], Sequence[Answer]]


class Findings:
    """Collects what was measured, subject by subject."""

    def __init__(self, experiment: Experiment, material: Material):
        self.experiment, self.material = experiment, material
        self.models: dict[str, Model] = {}
        self.subjects: list[Subject] = []
        self.tasks: dict[str, Task] = {}
        self.rows: list[Row] = []
        self.tables: list[BenchmarkTable] = []
        self.not_measured: list[NotMeasured] = []
        self.documents: list[str] = []
        self._plain: dict[str, Measured] = {}  # by model

    def add(
        self, contestant: Contestant, method: str, facts: Mapping[str, Any], plan: Plan, measured: Measured
    ) -> None:
        """One subject's, a model with a method or read by a strategy, as that is spelled; ``facts`` describe it."""
        name = contestant.name
        if name not in self.models:
            known = {key: value for key, value in measured.facts.items() if key != "name"}
            self.models[name] = Model(name, contestant.window, contestant.length, plan.to, list(plan.lengths), known)
            self.not_measured += [NotMeasured(name, one.task, one.reason, one.length) for one in plan.skipped]
            self.documents += [text for text in plan.texts if text not in self.documents]
            self._note_tasks(plan)
        self.not_measured += [
            NotMeasured(name, one.task, one.reason, one.length, method) for one in measured.unmeasured
        ]
        if method == PLAIN:
            self._plain[name] = measured
        self.rows += _rows(name, method, measured)
        self.tables += self._tables(name, method, measured)
        self.subjects.append(self._subject(contestant, method, facts, plan, measured))

    def results(self) -> Results:
        """All of it, in the order in which it came."""
        e = self.experiment
        settings = {
            "methods": [method.id for method in e.methods],
            **(
                {
                    "strategies": [strategy.spelling for strategy in e.strategies],
                    "spend": e.spend,
                    "calls of": e.window,
                    "embed": e.embed,
                }
                if e.strategies
                else {}
            ),
            "tasks": list(e.tasks),
            "seeds": list(e.seeds),
            "samples": e.samples,
            "questions": e.questions,
            "contexts": e.contexts,
            "depths": list(e.depths),
            "threshold": e.threshold,
            "sequential": asdict(Sprt()) if e.sequential else None,
            "controls": e.controls,
            "judge": None if e.judge is None else repr(e.judge),
            "data": e.data,
            "rows": e.rows,
            "documents": self.documents,
            "bos": e.bos,
        }
        return Results(
            settings,
            list(self.models.values()),
            self.subjects,
            [one for one in (*LOSSES, *self.tasks.values()) if any(row.task == one.id for row in self.rows)
             or any(one.id == lost.task for lost in self.not_measured)],
            self.rows,
            self.tables,
            self.not_measured,
        )  # fmt: skip

    def _note_tasks(self, plan: Plan) -> None:
        for name in [*plan.cells, *(one.task for one in plan.skipped)]:
            if name in self.tasks or name == PPL:
                continue
            if name in self.material.subsets or "/" in name:
                bench, _, subset = name.partition("/")
                self.tasks[name] = Task(name, subset, "score", benchmark=bench)
            else:
                cells = plan.cells.get(name)
                labels = (cells[0].task.scope, cells[0].task.diffusion) if cells else ("", "")
                self.tasks[name] = Task(name, TASKS[name].title, "score", *labels)

    def _tables(self, model: str, method: str, measured: Measured) -> list[BenchmarkTable]:
        """What benchmarks report, from the answers to their questions."""
        scored: dict[tuple[str, int], list[Scored]] = {}
        for (task, length), answers in measured.answers.items():
            if task in self.material.subsets:
                for answer in answers:
                    assert answer.place is not None and isinstance(answer.place[0], RowCell)
                    question = answer.place[0].question(answer.place[1])
                    one = Scored(question, answer.text, answer.score)
                    scored.setdefault((task.partition("/")[0], length), []).append(one)
        found = {name.partition("/")[0]: subset.benchmark for name, subset in self.material.subsets.items()}
        return [
            BenchmarkTable(model, method, name, length, found[name].aggregate(some))
            for (name, length), some in sorted(scored.items())
        ]

    def _subject(
        self, contestant: Contestant, method: str, facts: Mapping[str, Any], plan: Plan, measured: Measured
    ) -> Subject:
        e, to, window = self.experiment, plan.to, contestant.window
        losses, answers = measured.losses, measured.answers
        judged = [name for name in plan.cells if "/" not in name]  # a threshold means something
        means = averages(answers, judged or list(plan.cells), e.threshold if judged else None)
        for kind in sorted({_kind(self.tasks[name]) for name in judged}) if judged else ():
            own = [name for name in judged if _kind(self.tasks[name]) == kind]
            means += averages(answers, own, None, kind) if len(own) < len(judged) else []
        overall = [one for one in means if not one.kind]
        if judged:
            means = [one if one.kind else replace(one, harmonic=over_categories(answers, judged, one)) for one in means]
        passkeys = [_length_score(n, accuracy(some)) for (task, n), some in answers.items() if task == "passkey"]
        plain = self._plain.get(contestant.name)
        at_to = losses is not None and to in losses.lengths
        return Subject(
            contestant.name,
            method,
            **facts,
            how=measured.how,
            tokens=measured.tokens,
            effective_length=_effective([_length_score(o.length, o.estimate) for o in overall], e.threshold)
            if judged
            else None,
            k_max=_effective(passkeys, K_MAX_ACCURACY),
            perplexity_at_to=_estimate(perplexity_at(losses, to)) if losses and to and at_to else None,
            tail_perplexity=_estimate(perplexity(position_curve(losses.by_edge, losses.edges)[-1].nll))
            if losses
            else None,
            short_tax=short_tax(losses, plain.losses, window or 0)
            if losses and plain and plain.losses and method != PLAIN
            else [],
            beyond_window=gain(answers, plain.answers, window) if plain and window and method != PLAIN else None,
            averages=means,
            area=under_the_curve(overall) if judged else None,
            tasks=[self._task(name, plan, measured) for name in plan.cells],
            costs=costs(answers),
        )

    def _task(self, name: str, plan: Plan, measured: Measured) -> TaskFindings:
        own = {length: some for (task, length), some in measured.answers.items() if task == name}
        checks = [answer.decoded for some in own.values() for answer in some if answer.decoded is not None]
        scores = [_length_score(length, accuracy(some)) for length, some in own.items()]
        controls = {control: accuracy(some) for control, some in measured.controls.get(name, {}).items()}
        if guesses := plan.guesses.get(name):
            controls[GUESS] = _estimate(average([Tally.of(guesses)]))
        return TaskFindings(
            name,
            None if "/" in name else _effective(scores, self.experiment.threshold),
            controls,
            len(checks),
            sum(checks),
            list(measured.early.get(name, ())),
            readings(own),
        )


def readings(by_length: Mapping[int, Sequence[Answer]]) -> list[Reading]:
    """The rates of what generated answers show besides their score, each of the answers that may show it."""
    found: list[Reading] = []
    for length, answers in by_length.items():
        for name in dict.fromkeys(name for answer in answers for name in answer.readings):
            some = [(one.context, one.readings[name]) for one in answers if name in one.readings]
            rate = average([Tally.of(_by_context(some))])
            found.append(Reading(name, length, rate.value, rate.low, rate.high, rate.n))
    return found


def averages(answers: Answers, names: Sequence[str], threshold: float | None, kind: str = "") -> list[Average]:
    """Means over tasks at each length that all of them were tested at."""
    lengths = sorted({length for _, length in answers})
    complete = [n for n in lengths if names and all((name, n) in answers for name in names)]
    tallies = {n: [Tally.of(_by_text(answers[name, n])) for name in names] for n in complete}
    passing = passing_probability(tallies, threshold) if threshold is not None else {}
    means = {n: average(some) for n, some in tallies.items()}
    return [Average(n, one.value, one.low, one.high, one.n, one.se, kind, passing.get(n)) for n, one in means.items()]


def over_categories(answers: Answers, names: Sequence[str], mean: Average) -> Estimate | None:
    """The harmonic mean over categories of tasks at the length of a mean over all; None where there is one alone."""
    some = [[Tally.of(_by_text(answers[name, mean.length])) for name in own] for own in categories(names)]
    return _estimate(harmonic_mean(list(map(average, some)))) if len(some) > 1 else None


def under_the_curve(means: Sequence[Average]) -> Estimate | None:
    """The area under the means by length; None of one length alone."""
    scores = {one.length: Mean(one.value, one.se, one.low, one.high, one.n) for one in means}
    return _estimate(area(scores)) if len(scores) > 1 else None


def accuracy(answers: Sequence[Answer]) -> Estimate:
    """Mean score with its interval; samples about one text count together."""
    return _estimate(average([Tally.of(_by_text(answers))]))


def costs(answers: Answers) -> list[Cost]:
    """What answers took that came of several calls, by length."""
    found: dict[int, list[Spent]] = {}
    for (_, length), some in answers.items():
        found.setdefault(length, []).extend(answer.spent for answer in some if answer.spent)
    return [
        Cost(
            length,
            len(some),
            fmean(one.tokens for one in some),
            fmean(one.share for one in some),
            fmean(one.calls for one in some),
            max(one.chain for one in some),
            dict(Counter(re.sub(r"\d[\d,.]*", "n", note) for one in some for note in one.notes)),
        )
        for length, some in sorted(found.items())
        if some
    ]


def perplexity_at(losses: Losses, length: int) -> Mean:
    """Perplexity of the documents cut to ``length`` tokens."""
    return perplexity(cluster_mean(losses.at(length), length - 1))


def short_tax(ours: Losses, plain: Losses, window: int) -> list[Change]:
    """Relative change of perplexity at each tested length inside the window, on the same documents."""
    changes = []
    for length in (n for n in ours.lengths if n <= window):
        delta = cluster_mean(ours.at(length) - plain.at(length), length - 1)
        low, high = (None if bound is None else math.expm1(bound) for bound in (delta.low, delta.high))
        changes.append(Change(length, math.expm1(delta.value), low, high, delta.n))
    return changes


def gain(ours: Answers, plain: Answers, window: int) -> Gain | None:
    """Samples beyond the window that only one of the two answers; None if both were not asked the same."""
    cells = [cell for cell in sorted(ours) if cell[1] > window and "/" not in cell[0]]
    if not cells or any(len(ours[cell]) != len(plain.get(cell, ())) for cell in cells):
        return None
    pairs = [pair for cell in cells for pair in zip(ours[cell], plain[cell], strict=True)]
    if any(a.place != b.place for a, b in pairs):
        return None
    only_this, only_none = sum(a.score > b.score for a, b in pairs), sum(a.score < b.score for a, b in pairs)
    return Gain(only_this, only_none, mcnemar(only_this, only_none))


def _rows(model: str, method: str, measured: Measured) -> list[Row]:
    found: list[Row] = []

    def add(task: str, length: int, one: Estimate, **more: Any) -> None:
        assert one.value is not None and one.n is not None
        found.append(Row(model, method, task, length, one.value, one.low, one.high, one.n, **more))

    if (losses := measured.losses) is not None:
        for length in losses.lengths:
            add(PPL, length, _estimate(perplexity_at(losses, length)))
        for bucket in position_curve(losses.by_edge, losses.edges):
            add("position", bucket.end, _estimate(bucket.nll), start=bucket.start)
    for (task, length), answers in measured.answers.items():
        add(task, length, accuracy(answers))
        if answers[0].place is not None and answers[0].place[0].gridded:
            deep = sorted(answers, key=lambda answer: answer.depth or 0.0)
            for depth, some in groupby(deep, lambda answer: answer.depth):
                add(task, length, accuracy(list(some)), depth=depth)
    return found


def _kind(task: Task) -> str:
    return f"{task.scope}/{task.diffusion}"


def _by_text(answers: Iterable[Answer]) -> list[list[float]]:
    """The scores about each text."""
    return _by_context((answer.context, answer.score) for answer in answers)


def _by_context(scored: Iterable[tuple[str, float]]) -> list[list[float]]:
    texts: dict[str, list[float]] = {}
    for context, score in scored:
        texts.setdefault(context, []).append(score)
    return list(texts.values())


def _length_score(length: int, score: Estimate) -> LengthScore:
    assert score.value is not None
    return LengthScore(
        length,
        score.value,
        0.0 if score.low is None else score.low,
        score.value if score.high is None else score.high,
    )


def _effective(scores: Sequence[LengthScore], threshold: float) -> Estimate | None:
    if not scores:
        return None
    found = effective_length(scores, threshold)
    return Estimate(found.value, found.low, found.high)


def _estimate(mean: Mean) -> Estimate:
    return Estimate(mean.value, mean.low, mean.high, mean.n)
