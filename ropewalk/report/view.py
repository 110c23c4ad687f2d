"""Results as the page, the table and the picture read them: subjects in order, and the few questions that all ask."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from ropewalk.report.numbers import Estimate, Printer, interval, percent, quantity, reached, rounded, tokens
from ropewalk.report.schema import PLAIN, Average, Model, Results, Row, Subject, Task

LIKELY = 0.5  # a length is claimed if it passes with at least this probability
NOTE = "not causal, so losses are not measured, and answers decoded token by token"


@dataclass(frozen=True)
class Line:
    """A subject with its place in the order, and what the summary says of it.

    Attributes:
        subject: model and method.
        id: key of its style.
        name: of the model, as short as it may be.
        title: of the method, with its model where there are several.
        score: average at the target.
        effective_length: of the average.
        perplexity: at the target.
        short_tax: at the longest tested length inside the window.
    """

    subject: Subject
    id: str
    name: str
    title: str
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

    @property
    def is_open(self) -> bool:
        """Whether it may just as well fail at the shortest length as pass there."""
        reach = self.effective_length
        return reach.low == 0 and bool(reach.high)


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

    @property
    def name(self) -> str:
        """The models."""
        return ", ".join(self.names.values())

    @property
    def window(self) -> int | None:
        """The window, where all models have the same."""
        return self._common([model.window for model in self.results.models])

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

    @cached_property
    def lengths(self) -> list[int]:
        """Every tested length."""
        return sorted({length for model in self.results.models for length in model.lengths})

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

    def verdict(self) -> str:
        """What was found, in a sentence or two."""
        if len(self.lines) == 1:
            return self._single(self.lines[0])
        best = next(iter(self.extended), self.lines[0])
        plain = next((one for one in self.lines if one.is_plain and one.subject.model == best.subject.model), None)
        plain = None if plain is best else plain
        if (length := best.effective_length.value) is not None:
            if best.is_open:
                return _too_few(best, best.title)
            spread = interval(best.effective_length, best.printer("effective_length", tokens))
            found = f"{best.title} {self._reach(best)}{f' (effective length {spread})' if spread else ''}"
            if plain is None or (known := plain.effective_length.value) is None:
                return f"{found}."
            if plain.is_open:
                return f"{found}. {_too_few(plain, 'the plain model')}"
            if length <= known:
                return f"No method reaches further than the plain model, which {self._reach(plain)}."
            return (
                f"{found}, the plain model {tokens(known)}."
                if known
                else f"{found}; the plain model {self._reach(plain)}."
            )
        if best.perplexity.value is not None:
            spread = interval(best.perplexity, quantity)
            against = f", the plain model’s is {quantity(plain.perplexity.value)}" if plain else ""
            at = self.model(best.subject).to
            if plain is not None and (known := plain.perplexity.value) is not None and best.perplexity.value >= known:
                words = f"No method has a lower perplexity at {tokens(at)} tokens than the plain model"
                return f"{words}: {quantity(known)}."
            return (
                f"{best.title} has the lowest perplexity at {tokens(at)} tokens: "
                f"{quantity(best.perplexity.value)}{f' ({spread})' if spread else ''}{against}."
            )
        return f"{self.name}: {len(self.lines)} subjects on {', '.join(task.title for task in self.results.tasks)}."

    def _single(self, line: Line) -> str:
        """How much of its context one subject uses."""
        subject, tested = line.subject, self.lengths[-1]
        name = line.name if line.is_plain else f"{line.name} with {rounded(subject.method)}"
        length = line.effective_length.value
        if length is None:
            benchmarks = list(dict.fromkeys(task.benchmark for task in self.results.tasks if task.benchmark))
            return f"{name} on {', '.join(benchmarks)}" if benchmarks else f"The perplexity of {name}"
        if line.is_open:
            return _too_few(line, name).removesuffix(".")
        if length == 0:
            return f"{name} {self._reach(line)}"
        passing = {one.length: one.passing for one in subject.averages if one.passing is not None}
        likely = max((n for n, p in passing.items() if p >= LIKELY and n <= length), default=0)
        if passing and likely < length:
            sure, chance = f"uses {tokens(likely)} of {tokens(tested)} tokens", percent(passing.get(int(length)))
            return f"{name} {sure}, and {tokens(length)} tokens with a probability of {chance}"
        if length >= tested:
            longest = "the longest tested" if len(self.lengths) > 1 else "the only length tested"
            return f"{name} uses its context up to {tokens(tested)} tokens, {longest}"
        return f"{name} uses {tokens(length)} of {tokens(tested)} tokens"

    def _reach(self, line: Line) -> str:
        """How far a subject gets. What fails at the shortest length may hold below, where not every task was asked."""
        length, tested = line.effective_length.value, [one.length for one in line.tested]
        if length is None:
            return "was not tested on tasks"
        asked = {row.length for task in self.tasks("score") if not task.benchmark for row in self.of(line, task.id)}
        if length:
            only = ", the only length tested" if len({*tested, *asked}) == 1 else ""
            return f"reaches {tokens(length)} tokens{only}"
        if not tested:
            return "fails at every length"
        below = (
            "not every task was tested below" if min(asked, default=tested[0]) < tested[0] else "was not tested below"
        )
        return f"fails at {tokens(tested[0])} tokens, and {below}"

    def caveat(self) -> str:
        """How sure the verdict is."""
        if len(self.lines) == 1:
            averages = [one for one in self.lines[0].subject.averages if one.passing is not None]
            steps = [f"up to {tokens(one.length)} tokens {percent(one.passing)}" for one in averages]
            errors = [one.se for one in averages if one.se is not None]
            sure = f" Its standard error is {100 * max(errors):.1f} points at most." if errors else ""
            said = f"The average over tasks passes {percent(self.threshold)} with these probabilities"
            return f"{said}: {', '.join(steps)}.{sure}" if steps else ""
        if not self.extended or self.extended[0].effective_length.low is None:
            return ""
        best, *others = self.extended
        low = best.effective_length.low or 0
        close = [o.title for o in others if o.effective_length.high is not None and o.effective_length.high >= low]
        if not close:
            return ""
        names = close[0] if len(close) == 1 else f"{len(close)} other methods"
        return f"The interval of {names} overlaps with that of {best.title}: this run does not settle their order."

    def warnings(self) -> list[str]:
        """What a reader must know before comparing: subjects that are not causal, and tasks left out by them."""
        voting = [line.title for line in self.lines if not line.subject.causal]
        found = [f"{', '.join(voting)}: {NOTE}."] if voting else []
        extended = {line.subject.model for line in self.extended}
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


def _too_few(line: Line, name: str) -> str:
    """That the samples allow everything, from failing at the shortest length on."""
    n = min((one.n for one in line.tested), default=0)
    return f"Too few samples to tell how far {name} reaches (n = {n})."


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
