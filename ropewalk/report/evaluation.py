"""An evaluation of one model as one self-contained HTML page, and as a table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich import box
from rich.table import Table as TerminalTable

from ropewalk.common.errors import UserError
from ropewalk.common.files import write_text
from ropewalk.report import numbers, svg
from ropewalk.report.numbers import Estimate
from ropewalk.report.page import (
    LEADER_STYLES,
    MUTED_DASHES,
    MUTED_MARKERS,
    PLAIN_STYLE,
    Figure,
    Table,
    chart,
    environment,
)
from ropewalk.tasks.registry import PPL, TASKS

AVERAGE = "average"
LOSSES = {PPL: "Perplexity", "position": "Loss by position"}
LIKELY = 0.5  # a length is claimed if it passes with at least this probability
CONTROLS = ("ceiling", "closed book", "altered")


@dataclass(frozen=True)
class Task:
    """A task's line of the page."""

    id: str
    title: str
    kind: str
    effective_length: Estimate
    scores: Mapping[int, Estimate]
    controls: Mapping[str, Estimate]


@dataclass(frozen=True)
class Page:
    """The content of an evaluation's results.json, with what the page asks of it."""

    raw: Mapping[str, Any]
    tasks: tuple[Task, ...]
    lengths: tuple[int, ...]
    average: Mapping[int, Estimate]

    @classmethod
    def read(cls, raw: Mapping[str, Any]) -> Page:
        """Check ``raw`` and order its parts.

        Raises:
            UserError: if a key that the page needs is missing.
        """
        try:
            lengths = tuple(raw["settings"]["lengths"])
            tasks = tuple(_task(summary, raw["results"], lengths) for summary in raw["tasks"])
            average = {int(length): _estimate(score) for length, score in raw["average"].items()}
            return cls(raw, tasks, lengths, average)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"This evaluation cannot be reported: {type(error).__name__} {error}.",
                "Write it again with `ropewalk evaluate`.",
            ) from None

    @property
    def model(self) -> str:
        return str(self.raw["model"]["name"])

    @property
    def method(self) -> str:
        return str(self.raw["settings"]["method"])

    @property
    def window(self) -> int | None:
        window = self.raw["model"].get("window")
        return window if isinstance(window, int) else None

    @property
    def threshold(self) -> float:
        return float(self.raw["settings"]["threshold"])

    def verdict(self) -> str:
        """What was found, in a sentence."""
        effective, passing = self.raw["effective_length"], self.raw["passing"]
        name = self.model if self.method == "none" else f"{self.model} with {self.method}"
        if not effective:
            return f"The perplexity of {name}" if self.of(PPL) else f"{name}, measured at single lengths"
        length, tested = effective["value"], self.lengths[-1]
        if length == 0:
            return f"{name} fails from the shortest tested length on, {numbers.tokens(self.lengths[0])} tokens"
        likely = max((int(n) for n, p in passing.items() if p >= LIKELY and int(n) <= length), default=0)
        if likely < length:
            sure = f"uses {numbers.tokens(likely)} of {numbers.tokens(tested)} tokens, and" if likely else "uses"
            chance = numbers.percent(passing[str(length)])
            return f"{name} {sure} {numbers.tokens(length)} tokens with a probability of {chance}"
        if length >= tested:
            return f"{name} uses its context up to {numbers.tokens(tested)} tokens, the longest tested"
        return f"{name} uses {numbers.tokens(length)} of {numbers.tokens(tested)} tokens"

    def caveat(self) -> str:
        """How sure that is."""
        effective, passing = self.raw["effective_length"], self.raw["passing"]
        if not effective:
            return ""
        said = f"The average over tasks passes {self.threshold:.0%}"
        steps = [f"up to {numbers.tokens(int(length))} tokens {numbers.percent(p)}" for length, p in passing.items()]
        errors = [score["se"] for score in self.raw["average"].values() if score.get("se") is not None]
        sure = f" Its standard error is {100 * max(errors):.1f} points at most." if errors else ""
        return f"{said} with these probabilities: {', '.join(steps)}.{sure}" if steps else ""

    def instead(self) -> str:
        """What was asked in place of tasks that need the user's files."""
        swaps = [
            TASKS[name].title + (f" (in its place: {TASKS[other].title})" if other else "")
            for name, other in self.raw.get("instead", {}).items()
        ]
        return f"Not asked, as --qa gave no texts: {'; '.join(swaps)}." if swaps else ""

    def of(self, task: str) -> list[Mapping[str, Any]]:
        """The rows of a task over all depths."""
        return [row for row in self.raw["results"] if row["task"] == task and row.get("depth") is None]

    def reading(self) -> list[tuple[str, str]]:
        """How prompts were read and checked."""
        tokens, settings = self.raw["tokens"], self.raw["settings"]
        checked = sum(task["checked"] for task in self.raw["tasks"])
        agreed = sum(task["agreed"] for task in self.raw["tasks"])
        early = sum(len(task["early"]) for task in self.raw["tasks"])
        said = [("prompts", WAYS.get(self.raw["how"], self.raw["how"]))]
        if tokens and tokens["read"]:
            saved = tokens["asked"] / tokens["read"]
            said.append(
                ("tokens read", f"{tokens['read']:,} for {tokens['asked']:,} asked ({saved:.1f} x), in the last run")
            )
        if checked:
            said.append(("decoded as well", f"{checked} teacher-forced answers, {agreed} with the same verdict"))
        if settings.get("sequential"):
            said.append(("stopping", f"sequential test, {early} cells stopped early, lengths found by bisection"))
        return said


WAYS = {
    "packed": "shared prefixes read once, questions packed behind them in one forward; equal to separate prompts",
    "plain": "every prompt for itself",
}


def render(raw: Mapping[str, Any]) -> str:
    """The page for ``raw``, the content of a results.json of ``ropewalk evaluate``.

    Raises:
        UserError: if it lacks a key that the page needs.
    """
    page = Page.read(raw)
    styles = _styles(page)
    return environment().get_template("evaluation.html.j2").render(
        page=page,
        swatches={key: svg.swatch(style) for key, style in styles.items()},
        figures=list(_figures(page, styles)),
        settings=_settings(page),
        titles={**LOSSES, **{name: entry.title for name, entry in TASKS.items()}},
    )  # fmt: skip


def write(raw: Mapping[str, Any], path: Path) -> None:
    """Write the page to ``path`` atomically.

    Raises:
        UserError: if ``raw`` lacks a key, or ``path`` cannot be written.
    """
    write_text(path, render(raw))


def table(raw: Mapping[str, Any]) -> TerminalTable:
    """One row per task, one column per length.

    Raises:
        UserError: if ``raw`` lacks a key that the table needs.
    """
    page = Page.read(raw)
    shown = TerminalTable(
        box=box.SIMPLE, show_edge=False, pad_edge=False, caption=page.verdict(), caption_justify="left",
        caption_style="",
    )  # fmt: skip
    shown.add_column("Task", no_wrap=True)
    for length in page.lengths:
        shown.add_column(numbers.short_tokens(length), no_wrap=True, justify="right")
    shown.add_column("Effective", no_wrap=True, justify="right")
    for task in page.tasks:
        scores = [numbers.percent(task.scores[length].value) for length in page.lengths]
        shown.add_row(task.title, *scores, numbers.short_tokens(task.effective_length.value))
    if len(page.tasks) > 1:
        means = [numbers.percent(page.average.get(length, Estimate()).value) for length in page.lengths]
        effective = (raw["effective_length"] or {}).get("value")
        shown.add_row("Average", *means, numbers.short_tokens(effective), style="bold")
    if losses := {row["length"]: row["value"] for row in page.of(PPL)}:
        shown.add_row("Perplexity", *(numbers.quantity(losses.get(length)) for length in page.lengths), "")
    return shown


def _task(summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]], lengths: Sequence[int]) -> Task:
    name = summary["task"]
    rows = {row["length"]: _estimate(row) for row in results if row["task"] == name and row.get("depth") is None}
    return Task(
        id=name,
        title=TASKS[name].title if name in TASKS else name,
        kind=f"scope {summary['scope']}, diffusion {summary['diffusion']}",
        effective_length=_estimate(summary["effective_length"]),
        scores={length: rows.get(length, Estimate()) for length in lengths},
        controls={c: _estimate(summary["controls"].get(c, {"value": None})) for c in CONTROLS},
    )


def _estimate(data: Mapping[str, Any]) -> Estimate:
    return Estimate(data["value"], data.get("low"), data.get("high"), data.get("n"))


def _styles(page: Page) -> dict[str, svg.Style]:
    """The average in ink, four tasks in colour, the others in grey with dashes and markers of their own."""
    muted = (svg.Style("muted", *look) for look in zip(cycle(MUTED_DASHES), cycle(MUTED_MARKERS), strict=False))
    names = [task.id for task in page.tasks]
    return {**dict(zip(names, chain(LEADER_STYLES, muted), strict=False)), AVERAGE: PLAIN_STYLE, PPL: LEADER_STYLES[0]}


def _figures(page: Page, styles: Mapping[str, svg.Style]) -> Iterator[Figure]:
    if page.tasks:
        yield _scores(page, styles)
    for kind, by_length in page.raw["quadrants"].items() if len(page.raw["quadrants"]) > 1 else ():
        scope, diffusion = kind.split("/")
        own = [task for task in page.tasks if task.kind == f"scope {scope}, diffusion {diffusion}"]
        columns = [numbers.tokens(int(length)) for length in by_length]
        cells = [numbers.in_full(_estimate(score), numbers.percent) for score in by_length.values()]
        text = f"The average over {len(own)} tasks: {', '.join(task.title for task in own)}."
        yield Figure(
            f"{scope.capitalize()} scope, {diffusion} diffusion", text, [], Table(columns, [["Average", *cells]])
        )
    for task, title in LOSSES.items():
        if page.of(task):
            yield _losses(page, task, title, styles)


def _scores(page: Page, styles: Mapping[str, svg.Style]) -> Figure:
    lines = [(task.id, task.title, task.scores) for task in page.tasks]
    if len(page.tasks) > 1:
        lines.append((AVERAGE, "Average", page.average))
    series = [
        svg.Series(key, title, styles[key], [
            svg.Point(length, score, f"{numbers.tokens(length)} tokens: {numbers.in_full(score, numbers.percent)}")
            for length, score in scores.items() if score.value is not None
        ])
        for key, title, scores in lines
    ]  # fmt: skip
    marks = [svg.Mark(page.threshold, f"threshold {numbers.percent(page.threshold)}", horizontal=True, below=True)]
    y = svg.Axis("score", 0.0, 1.0, numbers.percent)
    columns = [numbers.tokens(length) for length in page.lengths]
    rows = [
        [title, *(numbers.in_full(scores.get(length, Estimate()), numbers.percent) for length in page.lengths)]
        for _, title, scores in lines
    ]
    tiles = list(_heatmaps(page))
    text = "The share of right answers, or of right parts of answers; higher is better."
    if tiles:
        text += (
            " In the grids a column is a length, a row is the depth at which the answer was hidden (0% is the start of "
            "the text), and a number is a percentage."
        )
    drawn = [chart("", series, _lengths(page, series), y, "Scores by length", [*_window(page), *marks], whiskers=True)]
    return Figure("Scores by length", text, drawn, Table(columns, rows), tiles, "Task")


def _heatmaps(page: Page) -> Iterator[tuple[Task, Markup]]:
    for task in page.tasks:
        cells = {
            (r["depth"], r["length"]): _estimate(r)
            for r in page.raw["results"]
            if r["task"] == task.id and "depth" in r
        }
        depths = sorted({depth for depth, _ in cells})
        lengths = sorted({length for _, length in cells})
        if depths:
            rows = [(numbers.percent(d), [cells.get((d, n), Estimate()) for n in lengths]) for d in depths]
            boundary = sum(length <= (page.window or math.inf) for length in lengths)
            columns = [numbers.short_tokens(length) for length in lengths]
            yield task, svg.heatmap(f"{task.title}: score by depth and length", rows, columns, boundary)


def _losses(page: Page, task: str, title: str, styles: Mapping[str, svg.Style]) -> Figure:
    def place(row: Mapping[str, Any]) -> float:
        return (row["start"] + row["length"]) / 2 if "start" in row else float(row["length"])

    rows = page.of(task)
    points = [svg.Point(place(row), e := _estimate(row), numbers.in_full(e, numbers.quantity)) for row in rows]
    series = [svg.Series(task, page.model, styles[PPL], points)]
    values = [v for p in points for v in (p.estimate.value, p.estimate.low, p.estimate.high) if v]
    y = svg.Axis.around("perplexity" if task == PPL else "loss (nats per token)", values, numbers.tick, pad=0.06)
    text = (
        "The perplexity of the same texts, cut to the length on the axis; lower is better."
        if task == PPL
        else "The loss of the tokens in each stretch of positions; it rises where the model loses its way."
    )
    columns = [numbers.tokens(r["length"]) if "start" not in r else f"{r['start']:,} to {r['length']:,}" for r in rows]
    cells = [numbers.in_full(_estimate(row), numbers.quantity) for row in rows]
    drawn = [chart("", series, _lengths(page, series), y, title, _window(page))]
    return Figure(title, text, drawn, Table(columns, [[page.model, *cells]]), subject="Model")


def _lengths(page: Page, series: Sequence[svg.Series]) -> svg.Axis:
    values = [*([page.window] if page.window else []), *(p.x for s in series for p in s.points)]
    return svg.Axis.around("length in tokens, log scale", values, numbers.short_tokens, base=2, pad=0.03)


def _window(page: Page) -> list[svg.Mark]:
    return [svg.Mark(page.window, f"window {numbers.tokens(page.window)}")] if page.window else []


def _settings(page: Page) -> list[tuple[str, str]]:
    raw = page.raw
    named = {
        **{key: raw["model"].get(key) for key in ("name", "type", "parameters", "dtype", "device", "attention")},
        **raw["settings"],
        "created": raw.get("created"),
        "seconds": raw.get("seconds"),
        **(raw.get("versions") or {}),
    }
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
        for name, value in named.items()
        if value is not None and value != []
    ]
