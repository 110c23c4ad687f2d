"""A comparison as one self-contained HTML page: the verdict, the figures behind it, the command that repeats it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ropewalk.common.files import write_text
from ropewalk.report import numbers, svg
from ropewalk.report.comparison import ACCURACY, PLAIN, TASK_TITLES, Comparison, Method, Result
from ropewalk.report.numbers import Estimate

HEADROOM = 20.0  # a perplexity more than this many times the best one is drawn as "beyond the axis"
ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}")
SIZES = ((1000, 430), (380, 440))  # every line chart is laid out twice: for a desk and for a hand
PLAIN_STYLE = svg.Style("plain", "7 4", "circle")
LEADER_STYLES = (
    svg.Style("lead1", None, "square"),
    svg.Style("lead2", "9 3 2 3", "triangle"),
    svg.Style("lead3", "4 3", "diamond"),
    svg.Style("lead4", "2 3", "drop"),
)
MUTED_DASHES = (None, "5 3", "2 3")
MUTED_MARKERS = ("cross", "plus", "bar", "circle", "square", "triangle", "diamond")


@dataclass(frozen=True)
class Chart:
    """One line chart in its two layouts."""

    heading: str
    layouts: Sequence[Markup]


@dataclass(frozen=True)
class Table:
    """The numbers behind a figure."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


class Drawn(Protocol):
    """What a line or a tile stands for."""

    @property
    def id(self) -> str:
        """Key of its style."""

    @property
    def title(self) -> str:
        """Its name."""


@dataclass(frozen=True)
class Figure:
    """A section of the page: line charts, small multiples (one per method), and the numbers behind both."""

    title: str
    text: str
    charts: Sequence[Chart]
    table: Table
    tiles: Sequence[tuple[Drawn, Markup]] = ()
    subject: str = "Method"  # what the table has a row of


PRINTERS: dict[str, numbers.Printer] = {
    name: getattr(numbers, name) for name in ("tokens", "quantity", "percent", "tax")
}


def environment() -> Environment:
    """Where the pages' templates are, and what they print with."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["tokens"] = numbers.tokens
    made.filters["print"] = lambda value, printer: PRINTERS[printer](value)
    made.filters["interval"] = lambda estimate, printer: numbers.interval(estimate, PRINTERS[printer])
    return made


def render(comparison: Mapping[str, Any]) -> str:
    """The page for ``comparison``, the content of a results.json.

    Raises:
        UserError: The comparison lacks a key that the page needs.
    """
    read = Comparison.read(comparison)
    styles = _styles(read)
    axis = svg.Axis.around("", read.lengths, numbers.tokens, base=2)
    diffs = read.raw.get("config_diff") or {}
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            comparison=read,
            raw=read.raw,
            printers=PRINTERS,
            swatches={key: svg.swatch(style) for key, style in styles.items()},
            bars={m.id: svg.interval_bar(m.effective_length, axis, read.window) for m in read.methods},
            papers={m.id: m.paper for m in read.methods if m.paper and ARXIV.fullmatch(m.paper)},
            figures=list(_figures(read, styles)),
            diffs=[(m.title, str(diffs[m.id]), _lines(str(diffs[m.id]))) for m in read.methods if diffs.get(m.id)],
            settings=_settings(read),
            task_titles=TASK_TITLES,
        )
    )


def write(comparison: Mapping[str, Any], path: Path) -> None:
    """Write the page to ``path``: an interrupted run leaves the old page or the new one, never half of one.

    Raises:
        UserError: The comparison lacks a key that the page needs, or ``path`` cannot be written.
    """
    write_text(path, render(comparison))


def _styles(comparison: Comparison) -> dict[str, svg.Style]:
    """The plain model in ink, the leaders in colour, all others in grey with dashes and markers of their own."""
    muted = (svg.Style("muted", *look) for look in zip(cycle(MUTED_DASHES), cycle(MUTED_MARKERS), strict=False))
    styles = dict(zip((m.id for m in comparison.extended), chain(LEADER_STYLES, muted), strict=False))
    return {m.id: styles.get(m.id, PLAIN_STYLE) for m in comparison.methods}


def _figures(comparison: Comparison, styles: Mapping[str, svg.Style]) -> Iterator[Figure]:
    for task in comparison.tasks("perplexity"):
        yield _loss(
            comparison, styles, task, "perplexity, log scale", ceiling=lambda best: best * HEADROOM, base=10,
            text="The perplexity of every text, cut to its first n tokens; n is on the axis, and lower is better. A "
            "method that works keeps its line flat or falling beyond the window.",
        )  # fmt: skip
    for task in comparison.tasks("nll"):
        yield _loss(
            comparison, styles, task, "loss (nats per token)", ceiling=lambda best: best + math.log(HEADROOM),
            text="The loss of the tokens in each stretch of positions; lower is better. It falls for as long as the "
            "model draws on its context, and rises where the model loses its way.",
        )  # fmt: skip
    for task in comparison.tasks(ACCURACY):
        yield _accuracy(comparison, styles, task)
    if comparison.spectra:
        yield _wavelengths(comparison, styles)


def _loss(
    comparison: Comparison,
    styles: Mapping[str, svg.Style],
    task: str,
    unit: str,
    ceiling: Callable[[float], float],
    text: str,
    base: int | None = None,
) -> Figure:
    """Loss by length. The axis ends at ``ceiling(best)``: a model that breaks down must not flatten the others."""
    series = _series(comparison, styles, task, numbers.quantity)
    values = [v for s in series for p in s.points for v in (p.estimate.value, p.estimate.low, p.estimate.high) if v]
    top = ceiling(min(values, default=1.0))
    y = svg.Axis.around(unit, [min(v, top) for v in values], numbers.tick, base, pad=0.04)
    if any(v > y.high for v in values):
        text += " Arrow heads lie above the axis."
    return Figure(
        title=_task_title(task),
        text=text + _absent(series),
        charts=_by_length(comparison, task, series, y),
        table=_pivot(comparison, task, numbers.quantity),
    )


def _accuracy(comparison: Comparison, styles: Mapping[str, svg.Style], task: str) -> Figure:
    """Accuracy by length and, where the answer was hidden at several depths, one heatmap per method."""
    series = _series(comparison, styles, task, numbers.percent)
    y = svg.Axis("right answers", 0.0, 1.0, numbers.percent)
    threshold = comparison.raw.get("threshold")
    marks = []
    if isinstance(threshold, float):
        marks.append(svg.Mark(threshold, f"threshold {numbers.percent(threshold)}", horizontal=True, below=True))
    tiles = list(_heatmaps(comparison, task))
    text = "The share of right answers; higher is better."
    if tiles:
        text += (
            " In the grids a column is a length, a row is the depth at which the answer was hidden (0% is the start "
            "of the text), a number is a percentage, and the upright line is the window."
        )
    if task == "passkey":
        text += _k_max(comparison)
    return Figure(
        title=_task_title(task),
        text=text + _absent(series),
        charts=_by_length(comparison, task, series, y, marks, whiskers=True),
        table=_pivot(comparison, task, numbers.percent),
        tiles=tiles,
    )


def _k_max(comparison: Comparison) -> str:
    """The methods by their k_max, the longest first; empty where it was not measured."""
    titles: dict[float, list[str]] = {}
    for method in comparison.methods:
        if method.k_max is not None:
            titles.setdefault(method.k_max, []).append(method.title)
    if not titles:
        return ""
    groups = (f"{numbers.tokens(length)} for {', '.join(titles[length])}" for length in sorted(titles, reverse=True))
    return f" The longest length up to which a fifth of the keys is found (k_max): {'; '.join(groups)}."


def _heatmaps(comparison: Comparison, task: str) -> Iterator[tuple[Method, Markup]]:
    cells = {(r.method, r.depth, r.length): r.estimate for r in comparison.results if r.task == task}
    depths = sorted({depth for _, depth, _ in cells if depth is not None})
    lengths = sorted({length for *_, length in cells})
    boundary = sum(length <= comparison.window for length in lengths)
    for method in comparison.methods if depths else ():
        rows = [
            (numbers.percent(depth), [cells.get((method.id, depth, length), Estimate()) for length in lengths])
            for depth in depths
        ]
        columns = [numbers.short_tokens(length) for length in lengths]
        yield method, svg.heatmap(f"{method.title}: accuracy by depth and length", rows, columns, boundary)


def _wavelengths(comparison: Comparison, styles: Mapping[str, svg.Style]) -> Figure:
    """The rotary wavelengths of every method that changes them, one chart per layer type."""
    charts, rows = [], []
    for layer, spectra in comparison.spectra.items():
        drawn = [m for m in _drawing_order(comparison) if m.id in spectra]
        series = [
            svg.Series(m.id, m.title, styles[m.id], [
                svg.Point(i, Estimate(w), f"dimension {i}: {numbers.quantity(w)} tokens")
                for i, w in enumerate(spectra[m.id].wavelengths) if math.isfinite(w)
            ])
            for m in drawn
        ]  # fmt: skip
        plain = spectra.get(PLAIN) or next(iter(spectra.values()))
        window = plain.window or comparison.window
        critical = plain.critical(window)
        marks = [
            svg.Mark(comparison.target, f"target {numbers.tokens(comparison.target)}", horizontal=True),
            svg.Mark(window, f"window {numbers.tokens(window)}", horizontal=True, below=True),
        ]
        if critical is not None:
            marks.append(svg.Mark(critical, f"critical dimension {critical}"))
        waves = [p.estimate.value for s in series for p in s.points if p.estimate.value is not None]
        y = svg.Axis.around(
            "wavelength in tokens, log scale", [*waves, window, comparison.target], numbers.tick, 10, 0.04
        )
        x = svg.Axis.around("rotary dimension", [p.x for s in series for p in s.points], numbers.tick, pad=0.01)
        heading = layer.replace("_", " ") if len(comparison.spectra) > 1 else ""
        charts.append(chart(heading, series, x, y, f"Wavelengths, {layer}", marks))
        for m in drawn:
            spectrum = spectra[m.id]
            cells = (spectrum.attention_factor, min(spectrum.wavelengths), max(spectrum.wavelengths))
            rows.append([m.title, layer, *(numbers.quantity(cell) for cell in cells)])
    absent = [
        m.title for m in comparison.methods if not any(m.id in spectra for spectra in comparison.spectra.values())
    ]
    text = (
        "How many tokens each rotary dimension takes for one turn. From the critical dimension on, the plain model "
        "has not seen a full turn within its window; the methods differ in how they stretch these."
    )
    if absent:
        text += f" Not drawn, since they leave the wavelengths alone or change them while running: {', '.join(absent)}."
    columns = ("layer type", "attention factor", "shortest wavelength", "longest wavelength")
    return Figure("Wavelengths", text, charts, Table(columns, rows))


def _drawing_order(comparison: Comparison) -> list[Method]:
    """The leaders, the plain model, then all others: the first is drawn on top."""
    leaders = comparison.extended[: len(LEADER_STYLES)]
    return [*leaders, *(m for m in comparison.methods if m.is_plain), *comparison.extended[len(LEADER_STYLES) :]]


def _series(
    comparison: Comparison, styles: Mapping[str, svg.Style], task: str, printer: numbers.Printer
) -> list[svg.Series]:
    """Every method's results on one task, over all depths, as lines; a stretch of positions stands at its middle."""

    def point(result: Result) -> svg.Point:
        if result.start is None:
            x, where = float(result.length), f"{numbers.tokens(result.length)} tokens"
        else:
            x = (result.start + result.length) / 2
            where = f"positions {numbers.tokens(result.start)} to {numbers.tokens(result.length)}"
        samples = "" if result.estimate.n is None else f", n = {result.estimate.n}"
        return svg.Point(x, result.estimate, f"{where}: {numbers.in_full(result.estimate, printer)}{samples}")

    return [
        svg.Series(m.id, m.title, styles[m.id], [point(r) for r in comparison.of(m, task) if r.depth is None])
        for m in _drawing_order(comparison)
    ]


def _by_length(
    comparison: Comparison,
    task: str,
    series: Sequence[svg.Series],
    y: svg.Axis,
    marks: Sequence[svg.Mark] = (),
    whiskers: bool = False,
) -> list[Chart]:
    """The chart of a task over length (or position); none where nothing was measured."""
    if not any(_has_numbers(s) for s in series):
        return []
    by_position = any(r.start is not None for r in comparison.results if r.task == task)
    x = svg.Axis.around(
        f"{'position' if by_position else 'length'} in tokens, log scale",
        [comparison.window, *(p.x for s in series for p in s.points)],
        numbers.short_tokens,
        base=2,
        pad=0.03,
    )
    window = svg.Mark(comparison.window, f"window {numbers.tokens(comparison.window)}")
    return [chart("", series, x, y, _task_title(task), [window, *marks], whiskers)]


def chart(
    heading: str,
    series: Sequence[svg.Series],
    x: svg.Axis,
    y: svg.Axis,
    title: str,
    marks: Sequence[svg.Mark],
    whiskers: bool = False,
) -> Chart:
    """A line chart in both layouts."""
    return Chart(heading, [svg.line_chart(series, x, y, title, marks, whiskers, *size) for size in SIZES])


def _pivot(comparison: Comparison, task: str, printer: numbers.Printer) -> Table:
    """One row per method, one column per length (or stretch of positions)."""

    def cell(result: Result) -> tuple[int, int | None]:
        return result.length, result.start

    rows = [r for r in comparison.results if r.task == task and r.depth is None]
    by_method = {(r.method, cell(r)): numbers.in_full(r.estimate, printer) for r in rows}
    cells = sorted({cell(r) for r in rows}, key=lambda c: (c[0], c[1] or 0))
    columns = [
        numbers.tokens(length) if start is None else f"{numbers.tokens(start)} to {numbers.tokens(length)}"
        for length, start in cells
    ]
    return Table(
        columns, [[m.title, *(by_method.get((m.id, c), numbers.NOTHING) for c in cells)] for m in comparison.methods]
    )


def _has_numbers(series: svg.Series) -> bool:
    return any(point.estimate.value is not None for point in series.points)


def _absent(series: Sequence[svg.Series]) -> str:
    """A sentence that names the methods without a number, where there are any."""
    missing = [s.title for s in series if not _has_numbers(s)]
    return f" Not measured: {', '.join(missing)}." if 0 < len(missing) < len(series) else ""


def _task_title(task: str) -> str:
    return TASK_TITLES.get(task, task)


def _lines(diff: str) -> list[tuple[str, str]]:
    """The lines of a unified diff with their kind; nothing where ``diff`` is a sentence instead."""
    if not re.search(r"^@@ ", diff, re.MULTILINE):
        return []
    kinds = {"+": "added", "-": "removed", "@": "hunk"}
    return [(kinds.get(line[:1], "same"), line) for line in diff.splitlines()]


def _settings(comparison: Comparison) -> list[tuple[str, str]]:
    """Name and value of what was set, and of what ran it."""
    raw, model = comparison.raw, comparison.raw["model"]
    named = [
        ("model", comparison.model),
        ("architecture", model.get("architecture")),
        ("parameters", numbers.tokens(model["parameters"]) if isinstance(model.get("parameters"), int) else None),
        ("dtype", model.get("dtype")),
        ("window", numbers.tokens(comparison.window)),
        ("target", numbers.tokens(comparison.target)),
        *((key, raw.get(key)) for key in ("tasks", "lengths", "depths", "threshold", "seed", "created")),
        ("seconds", numbers.quantity(raw["seconds"]) if isinstance(raw.get("seconds"), (int, float)) else None),
        *dict(raw.get("versions") or {}).items(),
    ]
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
        for name, value in named
        if value is not None
    ]
