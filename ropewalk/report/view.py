"""Results as the page, the table and the picture read them: subjects in order, and the few questions that all ask."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ropewalk.report.numbers import Estimate, Printer, reached, rounded, tokens
from ropewalk.report.schema import PLAIN, Average, Model, Results, Row, Subject, Task

NOTE = "not causal, so losses are not measured, and answers decoded token by token"


@dataclass(frozen=True)
class Line:
    """A subject with its place in the order, and what the summary says of it.

    Attributes:
        subject: model and method.
        id: key of its style.
        name: of the model, as short as it may be.
        title: of the method, with its model where there are several.
        brief: the title without options, where no other method has the same.
        score: average at the target.
        effective_length: of the average.
        perplexity: at the target.
        short_tax: at the longest tested length inside the window.
    """

    subject: Subject
    id: str
    name: str
    title: str
    brief: str
    score: Estimate
    effective_length: Estimate
    perplexity: Estimate
    short_tax: Estimate

    @property
    def is_plain(self) -> bool:
        return self.subject.method == PLAIN

    @property
    def tested(self) -> list[Average]:
        """The averages over all tasks, the shortest length first."""
        return sorted((one for one in self.subject.averages if not one.kind), key=lambda one: one.length)

    def printer(self, column: str, printer: Printer) -> Printer:
        """How a column of the summary is printed."""
        if column != "effective_length":
            return printer
        return reached(printer, self.tested[0].length if self.tested else None)


@dataclass(frozen=True)
class View:
    """Results in reading order: of each model the plain one first, then the best method first."""

    results: Results

    @cached_property
    def lines(self) -> tuple[Line, ...]:
        order = [model.name for model in self.results.models]
        return tuple(sorted(map(self._line, self.results.subjects), key=lambda one: _rank(one, order)))

    def _line(self, subject: Subject) -> Line:
        model = self.model(subject)
        several = len(self.results.models) > 1
        tax = max(subject.short_tax, key=lambda change: change.length, default=None)
        name, title = self.names[model.name], self.titles[subject.method]
        return Line(
            subject,
            f"{model.name} {subject.method}",
            name,
            f"{name}: {title}" if several else title,
            f"{name}: {self.briefs[subject.method]}" if several else self.briefs[subject.method],
            subject.average(model.to),
            subject.effective_length or Estimate(),
            subject.perplexity_at_to or Estimate(),
            tax.estimate if tax else Estimate(),
        )

    def model(self, subject: Subject) -> Model:
        return next(one for one in self.results.models if one.name == subject.model)

    @cached_property
    def names(self) -> dict[str, str]:
        """Model -> its name without folders, or all of it where two would be the same."""
        return _told_apart({model.name: model.name for model in self.results.models}, _last_part)

    @cached_property
    def titles(self) -> dict[str, str]:
        """Method -> its title with few digits, or all of them where two would be the same."""
        return _told_apart({one.method: one.title for one in self.results.subjects}, rounded)

    @cached_property
    def briefs(self) -> dict[str, str]:
        """Method -> its title without options, or with them where two would be the same."""
        return _told_apart(self.titles, lambda title: re.sub(r" \([^()]*\)", "", title))

    @property
    def name(self) -> str:
        """The models."""
        return ", ".join(self.names.values())

    @property
    def window(self) -> int | None:
        """The window, where all models have the same."""
        return self._common([model.window for model in self.results.models])

    @property
    def cut(self) -> int | None:
        """Where texts are cut before the window ends, if all models have the same."""
        return self._common([model.cut for model in self.results.models])

    @property
    def bound(self) -> tuple[int, str] | None:
        """The length that charts mark, and its name: how far the plain model reads."""
        if self.cut:
            return self.cut, f"cut at {tokens(self.cut)}"
        return (self.window, f"window {tokens(self.window)}") if self.window else None

    @property
    def target(self) -> int | None:
        """The target, where all models have the same."""
        return self._common([model.to for model in self.results.models])

    @staticmethod
    def _common(values: list[int | None]) -> int | None:
        return values[0] if len(set(values)) == 1 else None

    @property
    def extended(self) -> tuple[Line, ...]:
        """Those that are not a plain model, the best first."""
        return tuple(line for line in self.lines if not line.is_plain)

    @property
    def threshold(self) -> float | None:
        return self.results.settings.get("threshold")

    @property
    def repeats(self) -> str:
        """What there must be more of for narrower intervals."""
        return self.results.settings.get("intervals over", "samples")

    @cached_property
    def lengths(self) -> list[int]:
        """Every tested length; of one subject alone also those that tasks have of their own, such as rows of files."""
        asked = {length for model in self.results.models for length in model.lengths}
        if len(self.results.subjects) == 1:
            scored = {task.id for task in self.tasks("score")}
            asked |= {row.length for row in self.results.rows if row.task in scored}
        return sorted(asked)

    def tasks(self, metric: str) -> list[Task]:
        return [task for task in self.results.tasks if task.metric == metric]

    def of(self, line: Line, task: str, deep: bool = False) -> list[Row]:
        """The rows of a subject on a task, over all depths or at single ones, by length."""
        key = line.subject.model, line.subject.method, task
        rows = [r for r in self.results.rows if (r.model, r.method, r.task) == key and (r.depth is not None) == deep]
        return sorted(rows, key=lambda r: (r.length, r.start or 0, r.depth or 0.0))

    def leads(self, line: Line, column: str, printer: Printer) -> bool:
        """Whether none is better in a column of the summary and one is worse, as far as the printed digits tell.

        Longer and more accurate is better, as is less perplexity and less tax. The plain model pays no tax by
        definition, so it is no contender there.
        """
        contenders = self.extended if column == "short_tax" else self.lines
        values = {one.id: value for one in contenders if (value := getattr(one, column).value) is not None}
        if line.id not in values:
            return False
        choose = max if column in ("effective_length", "score") else min
        said = {key: printer(value) for key, value in values.items()}
        return said[line.id] == printer(choose(values.values())) and len(set(said.values())) > 1

    def columns(self) -> list[str]:
        """The columns of the summary that have a number."""
        every = ("effective_length", "score", "perplexity", "short_tax")
        return [name for name in every if any(getattr(line, name).value is not None for line in self.lines)]

    def unmeasured(self, line: Line, task: str) -> str:
        """Why a task has no number at all for a subject; empty where nothing says so."""
        return next(
            (
                one.reason
                for one in self.results.not_measured
                if (one.model, one.task, one.length) == (line.subject.model, task, None)
                and one.method in (None, line.subject.method)
            ),
            "",
        )

    def warnings(self) -> list[str]:
        """What a reader must know before comparing: subjects that are not causal, and tasks left out by them."""
        voting = [line.title for line in self.lines if not line.subject.causal]
        found = [f"{', '.join(voting)}: {NOTE}."] if voting else []
        extended = {line.subject.model for line in self.extended if not line.subject.costs}
        for one in self.results.models:
            beyond = [tokens(n) for n in one.lengths if one.length is not None and n > one.length]
            if beyond and one.name not in extended:
                found.append(
                    f"{self.names[one.name]} promises {tokens(one.length)} tokens: {', '.join(beyond)} are beyond "
                    "that, and no method makes it longer here (--methods)."
                )
        if added := self.results.settings.get("added length"):
            found.append(f"{tokens(added)} tokens, the target, were measured too; --lengths did not name them.")
        swaps = self.results.settings.get("instead") or {}
        said = (name + (f" (in its place: {other})" if other else "") for name, other in swaps.items())
        return found + ([f"Not asked, as no --qa gave its texts: {', '.join(said)}."] if swaps else [])


def _told_apart(whole: dict[str, str], shorten: Callable[[str], str]) -> dict[str, str]:
    """Shortened values, but those in full that would be the same as another."""
    short = {key: shorten(value) for key, value in whole.items()}
    times = Counter(short.values())
    return {key: own if times[own] == 1 else whole[key] for key, own in short.items()}


def _last_part(name: str) -> str:
    """Of a path or a hub id, the part that names the model."""
    last = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    return last if last.strip(".") and "://" not in name else name


def _rank(line: Line, models: list[str]) -> tuple[int, bool, float, float, float]:
    """Sort key: model, plain first, then the longest effective length, the best score, the lowest perplexity."""

    def known(value: float | None, otherwise: float) -> float:
        return otherwise if value is None else value

    return (
        models.index(line.subject.model),
        not line.is_plain,
        -known(line.effective_length.value, -1.0),
        -known(line.score.value, -1.0),
        known(line.perplexity.value, math.inf),
    )
