"""Results as one self-contained HTML page: the verdict, the figures behind it, the command that repeats it.

Sections appear where there is data: methods side by side where there are several, tasks in a table, charts by length,
grids, benchmarks, wavelengths, changes of the configuration.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, cycle
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ropewalk.common.whole import write_text
from ropewalk.report import numbers, svg
from ropewalk.report.numbers import Estimate
from ropewalk.report.schema import CONTROLS, Results, Row, Task
from ropewalk.report.view import NOTE, Line, View

HEADROOM = 20.0  # a perplexity more than this many times the best one is drawn as "beyond the axis"
ROOM = 2.0  # intervals widen the axis of a perplexity by so many times at most, on either side
ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}")
SIZES = ((1000, 430), (380, 440))  # every line chart is laid out twice: for a desk and for a hand
AVERAGE = "average"
PLAIN_STYLE = svg.Style("plain", "7 4", "circle")
LEADER_STYLES = (
    svg.Style("lead1", None, "square"),
    svg.Style("lead2", "9 3 2 3", "triangle"),
    svg.Style("lead3", "4 3", "diamond"),
    svg.Style("lead4", "2 3", "drop"),
)
MUTED_DASHES = (None, "5 3", "2 3")
MUTED_MARKERS = ("cross", "plus", "bar", "circle", "square", "triangle", "diamond")
COLUMNS = (
    ("effective_length", "Effective length", numbers.tokens),
    ("score", "Average score at the target", numbers.percent),
    ("perplexity", "Perplexity at the target", numbers.quantity),
    ("short_tax", "Short-text tax", numbers.tax),
)
READINGS = {
    "perplexity": "The perplexity of every text, cut to its first n tokens; n is on the axis, and lower is better. A "
    "method that works keeps its line flat or falling beyond the window.",
    "nll": "The loss of the tokens in each stretch of positions; lower is better. It falls for as long as the model "
    "draws on its context, and rises where the model loses its way.",
}
WAYS = {
    "packed": "shared prefixes read once, questions packed behind them in one forward; equal to separate prompts",
    "plain": "every prompt for itself",
}


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


@dataclass(frozen=True)
class Tile:
    """A small drawing of one subject."""

    id: str
    title: str
    drawing: Markup


@dataclass(frozen=True)
class Figure:
    """A section of the page: line charts, small multiples, and the numbers behind both."""

    title: str
    text: str
    charts: Sequence[Chart]
    table: Table
    tiles: Sequence[Tile] = ()
    subject: str = "Method"  # what the table has a row of


def environment() -> Environment:
    """Where the page's templates are, and what they print with."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["tokens"] = numbers.tokens
    made.filters["percent"] = numbers.percent
    made.filters["rounded"] = numbers.rounded
    return made


def render(results: Results) -> str:
    """The page."""
    view = View(results)
    styles = _styles(view)
    axis = svg.Axis.around("", view.lengths, numbers.tokens, base=2)
    shown = view.columns()
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            view=view,
            results=results,
            columns=[column for column in COLUMNS if column[0] in shown],
            swatches={key: svg.swatch(style) for key, style in styles.items()},
            bars={
                line.id: svg.interval_bar(
                    line.effective_length, axis, view.model(line.subject).window or view.lengths[0]
                )
                for line in view.lines
                if view.lengths[1:]
            },
            papers={line.id: line.subject.paper for line in view.lines if ARXIV.fullmatch(line.subject.paper)},
            note=NOTE,
            interval=numbers.interval,
            tasks=[(line, list(_tasks(view, line))) for line in view.lines] if view.tasks("score") else [],
            controls=CONTROLS if any(one.controls for s in results.subjects for one in s.tasks) else (),
            figures=list(_figures(view, styles)),
            diffs=[
                (line.title, line.subject.config_diff, _lines(line.subject.config_diff))
                for line in view.lines
                if line.subject.config_diff and not (line.is_plain and len(view.lines) == 1)
            ],
            reading=[(line.title, _reading(line)) for line in view.lines if line.subject.how],
            settings=_settings(view),
            titles={task.id: task.title for task in results.tasks},
        )
    )


def write(results: Results, path: Path) -> None:
    """Write the page to ``path``: an interrupted run leaves the old page or the new one, never half of one.

    Raises:
        UserError: ``path`` cannot be written.
    """
    write_text(path, render(results))


def _styles(view: View) -> dict[str, svg.Style]:
    """Plain models in ink, the leaders in colour, all others in grey with dashes and markers of their own.

    Of one subject alone, tasks are the lines: the average in ink.
    """
    muted = (svg.Style("muted", *look) for look in zip(cycle(MUTED_DASHES), cycle(MUTED_MARKERS), strict=False))
    if len(view.lines) == 1:
        drawn = [task.id for task in view.tasks("score")]
        return {**dict(zip(drawn, chain(LEADER_STYLES, muted), strict=False)), AVERAGE: PLAIN_STYLE,
                view.lines[0].id: LEADER_STYLES[0]}  # fmt: skip
    styles = dict(zip((line.id for line in view.extended), chain(LEADER_STYLES, muted), strict=False))
    return {line.id: styles.get(line.id, PLAIN_STYLE) for line in view.lines}


def _tasks(view: View, line: Line) -> Iterator[tuple[Task, list[tuple[str, str, str]], dict[str, Estimate]]]:
    """The rows of a subject's table: a task, its cells (heading, number, interval), and its controls."""
    for task in view.tasks("score"):
        found = next((one for one in line.subject.tasks if one.task == task.id), None)
        scores = {row.length: row.estimate for row in view.of(line, task.id)}
        reach = (found.effective_length if found else None) or Estimate()
        cells = [_said("Effective length", reach, numbers.reached(numbers.tokens, min(scores, default=None)))]
        cells += [_said(numbers.tokens(n), scores.get(n, Estimate()), numbers.percent) for n in view.lengths]
        yield task, cells, dict(found.controls) if found else {}


def _said(heading: str, estimate: Estimate, printer: numbers.Printer) -> tuple[str, str, str]:
    return heading, printer(estimate.value), numbers.interval(estimate, printer)


def _figures(view: View, styles: Mapping[str, svg.Style]) -> Iterator[Figure]:
    for metric in ("perplexity", "nll"):
        for task in view.tasks(metric):
            yield _loss(view, styles, task)
    if len(view.lines) == 1 and view.tasks("score"):
        scores = _scores(view, styles)
        if scores.charts or scores.tiles or len(view.tasks("score")) > 1:  # else it is the table above
            yield scores
    elif view.tasks("score"):
        if len(view.tasks("score")) > 1:
            yield _average(view, styles)
        for task in view.tasks("score"):
            yield _score(view, styles, task)
    if kinds := _kinds(view):
        yield kinds
    yield from _benchmarks(view)
    if any(line.subject.rope for line in view.lines) and len(view.lines) > 1:
        yield _wavelengths(view, styles)


def _loss(view: View, styles: Mapping[str, svg.Style], task: Task) -> Figure:
    """Loss by length. A model that breaks down and a wide interval must not flatten the other values."""
    series = _series(view, styles, task, numbers.quantity)
    is_log = task.metric == "perplexity"

    def worse(value: float, times: float) -> float:
        """A value after its perplexity grew so many times."""
        return value * times if is_log else value + math.log(times)

    estimates = [p.estimate for s in series for p in s.points]
    values = [one.value for one in estimates if one.value is not None] or [1.0]
    top = worse(min(values), HEADROOM)
    low, high = worse(min(values), 1 / ROOM), min(worse(max(values), ROOM), top)
    ends = [end for one in estimates for end in (one.low, one.high) if end is not None]
    held = [min(v, top) for v in values] + [min(max(end, low), high) for end in ends]
    unit = "perplexity, log scale" if is_log else "loss (nats per token)"
    y = svg.Axis.around(unit, held, numbers.tick, 10 if is_log else None, pad=0.04)
    text = READINGS[task.metric]
    if any(v > y.high for v in values):
        text += " Arrow heads lie above the axis."
    if any(not y.low <= end <= y.high for end in ends):
        text += " Intervals that reach beyond the axis are cut there."
    return Figure(
        task.title,
        text + _absent(view, series, task),
        _by_length(view, task, series, y),
        _pivot(view, task, numbers.quantity),
    )


def _score(view: View, styles: Mapping[str, svg.Style], task: Task) -> Figure:
    """Scores by length and, where the answer was hidden at several depths, one grid per subject."""
    series = _series(view, styles, task, numbers.percent)
    tiles = [tile for line in view.lines for tile in _grid(view, line, task, line.id, line.title)]
    text = "The share of right answers, or of right parts of answers; higher is better." + (GRIDS if tiles else "")
    if task.id == "passkey":
        text += _k_max(view)
    return Figure(
        task.title,
        text + _absent(view, series, task),
        _by_length(view, task, series, SHARE, [] if task.benchmark else _threshold(view), whiskers=True),
        _pivot(view, task, numbers.percent),
        tiles,
    )


SHARE = svg.Axis("score", 0.0, 1.0, numbers.percent)
GRIDS = (
    " In the grids a column is a length, a row is the depth at which the answer was hidden (0% is the start of the "
    "text), a number is a percentage, and the upright line is the window."
)


def _threshold(view: View) -> list[svg.Mark]:
    if view.threshold is None:
        return []
    return [svg.Mark(view.threshold, f"threshold {numbers.percent(view.threshold)}", horizontal=True)]


def _scores(view: View, styles: Mapping[str, svg.Style]) -> Figure:
    """The tasks of a single subject, and their average, in one chart."""
    (line,) = view.lines
    tasks = view.tasks("score")
    lines = [(task.id, task.title, {row.length: row.estimate for row in view.of(line, task.id)}) for task in tasks]
    if len(tasks) > 1:
        lines.append((AVERAGE, "Average", {o.length: o.estimate for o in line.subject.averages if not o.kind}))
    series = [
        svg.Series(key, title, styles[key], [_point(length, score, numbers.percent) for length, score in by.items()])
        for key, title, by in lines
    ]
    tiles = [tile for task in tasks for tile in _grid(view, line, task, task.id, task.title)]
    text = "The share of right answers, or of right parts of answers; higher is better." + (GRIDS if tiles else "")
    marks = _threshold(view) if not all(task.benchmark for task in tasks) else []
    rows = [
        [title, *(numbers.in_full(by.get(n, Estimate()), numbers.percent) for n in view.lengths)]
        for _, title, by in lines
    ]
    drawn = chart("", series, _lengths(series), SHARE, "Scores by length", [*_window(view), *marks], True)
    table = Table([numbers.tokens(n) for n in view.lengths], rows)
    return Figure("Scores by length", text, drawn, table, tiles, "Task")


def _average(view: View, styles: Mapping[str, svg.Style]) -> Figure:
    """The average over tasks of every subject."""
    by_line = {one.id: {o.length: o.estimate for o in one.subject.averages if not o.kind} for one in view.lines}
    series = [
        svg.Series(one.id, one.title, styles[one.id], [
            _point(length, score, numbers.percent) for length, score in by_line[one.id].items()
        ])
        for one in _drawing_order(view)
    ]  # fmt: skip
    rows = [
        [one.title, *(numbers.in_full(by_line[one.id].get(n, Estimate()), numbers.percent) for n in view.lengths)]
        for one in view.lines
    ]
    marks = [*_window(view), *_threshold(view)]
    drawn = chart("", series, _lengths(series), SHARE, "Average over tasks", marks, True)
    text = "The mean score at each length that all tasks fit in, every task counting the same."
    return Figure("Average over tasks", text, drawn, Table([numbers.tokens(n) for n in view.lengths], rows))


def _kinds(view: View) -> Figure | None:
    """Averages by how much information is needed, and how hard it is to find."""
    kinds = sorted({one.kind for line in view.lines for one in line.subject.averages if one.kind})
    if not kinds:
        return None
    rows = []
    for kind in kinds:
        scope, _, diffusion = kind.partition("/")
        for line in view.lines:
            by = {one.length: one.estimate for one in line.subject.averages if one.kind == kind}
            who = f", {line.title}" if len(view.lines) > 1 else ""
            cells = [numbers.in_full(by.get(n, Estimate()), numbers.percent) for n in view.lengths]
            rows.append([f"{scope} scope, {diffusion} diffusion{who}", *cells])
    text = "Tasks by scope (how much information an answer needs) and diffusion (how hard it is to find), averaged."
    return Figure("By kind of task", text, [], Table([numbers.tokens(n) for n in view.lengths], rows), (), "Kind")


def _benchmarks(view: View) -> Iterator[Figure]:
    """The table that each benchmark of real texts reports."""
    titles = {(line.subject.model, line.subject.method): line.title for line in view.lines}
    for name in dict.fromkeys(one.benchmark for one in view.results.tables):
        own = [one for one in view.results.tables if one.benchmark == name]
        many = len(view.lines) > 1
        columns = [
            (f"{titles[one.model, one.method]}, " if many else "") + f"{numbers.tokens(one.length)} tokens"
            for one in own
        ]
        names = dict.fromkeys(row for one in own for row in one.points)
        rows = [[row, *(f"{one.points[row]:.1f}" if row in one.points else "" for one in own)] for row in names]
        text = (
            "What the benchmark reports, in points, by the length that prompts are cut to. A mean over groups is there "
            "only if every group is. Prompts are worded here, so that numbers do not compare with published ones to "
            "the point."
        )
        yield Figure(name, text, [], Table(columns, rows), (), "Part")


def _point(length: float, score: Estimate, printer: numbers.Printer) -> svg.Point:
    return svg.Point(length, score, f"{numbers.tokens(length)} tokens: {numbers.in_full(score, printer)}")


def _k_max(view: View) -> str:
    """The methods by their k_max, the longest first; empty where it was not measured."""
    found: dict[float, list[str]] = {}
    for line in view.lines:
        if line.subject.k_max is not None and line.subject.k_max.value is not None:
            found.setdefault(line.subject.k_max.value, []).append(line.title)
    tested = [row.length for line in view.lines for row in view.of(line, "passkey")]
    printer = numbers.reached(numbers.tokens, min(tested, default=None))
    groups = (f"{printer(length)} for {', '.join(found[length])}" for length in sorted(found, reverse=True))
    said = " The longest length up to which a fifth of the keys is found (k_max)"
    return f"{said}: {'; '.join(groups)}." if found else ""


def _grid(view: View, line: Line, task: Task, key: str, title: str) -> Iterator[Tile]:
    cells = {(row.depth, row.length): row.estimate for row in view.of(line, task.id, deep=True)}
    depths = sorted({depth for depth, _ in cells if depth is not None})
    lengths = sorted({length for _, length in cells})
    if depths:
        window = view.model(line.subject).window or math.inf
        rows = [(numbers.percent(depth), [cells.get((depth, n), Estimate()) for n in lengths]) for depth in depths]
        columns = [numbers.short_tokens(length) for length in lengths]
        boundary = sum(length <= window for length in lengths)
        yield Tile(key, title, svg.heatmap(f"{title}: score by depth and length", rows, columns, boundary))


def _wavelengths(view: View, styles: Mapping[str, svg.Style]) -> Figure:
    """The rotary wavelengths of every method that changes them, one chart per model and layer type."""
    charts: list[Chart] = []
    rows = []
    for model in view.results.models:
        own = [line for line in _drawing_order(view) if line.subject.model == model.name]
        layers = list(dict.fromkeys(layer for line in own for layer in line.subject.rope))
        for layer in layers:
            drawn = [line for line in own if layer in line.subject.rope]
            spectra = {line.id: line.subject.rope[layer] for line in drawn}
            series = [
                svg.Series(line.id, line.title, styles[line.id], [
                    svg.Point(i, Estimate(w), f"dimension {i}: {numbers.quantity(w)} tokens")
                    for i, w in enumerate(spectra[line.id].wavelengths) if w is not None
                ])
                for line in drawn
            ]  # fmt: skip
            plain = next((spectra[line.id] for line in drawn if line.is_plain), next(iter(spectra.values())))
            window, target = plain.window or model.window or 1, model.to or 1
            marks = [
                svg.Mark(target, f"target {numbers.tokens(target)}", horizontal=True),
                svg.Mark(window, f"window {numbers.tokens(window)}", horizontal=True),
            ]
            if (critical := plain.critical(window)) is not None:
                marks.append(svg.Mark(critical, f"critical dimension {critical}"))
            waves = [p.estimate.value for s in series for p in s.points if p.estimate.value is not None]
            y = svg.Axis.around("wavelength in tokens, log scale", [*waves, window, target], numbers.tick, 10, 0.04)
            x = svg.Axis.around("rotary dimension", [p.x for s in series for p in s.points], numbers.tick, pad=0.01)
            several = len(layers) > 1 or len(view.results.models) > 1
            heading = f"{view.names[model.name]} {layer.replace('_', ' ')}" if several else ""
            charts += chart(heading, series, x, y, f"Wavelengths, {layer}", marks)
            for line in drawn:
                spectrum = spectra[line.id]
                known = [math.inf if wave is None else wave for wave in spectrum.wavelengths]
                cells = (spectrum.attention_factor, min(known), max(known))
                rows.append([line.title, layer, *(numbers.quantity(cell) for cell in cells)])
    absent = [line.title for line in view.lines if not line.subject.rope]
    text = (
        "How many tokens each rotary dimension takes for one turn. From the critical dimension on, the plain model "
        "has not seen a full turn within its window; the methods differ in how they stretch these."
    )
    if absent:
        text += f" Not drawn, since they leave the wavelengths alone or change them while running: {', '.join(absent)}."
    columns = ("layer type", "attention factor", "shortest wavelength", "longest wavelength")
    return Figure("Wavelengths", text, charts, Table(columns, rows))


def _drawing_order(view: View) -> list[Line]:
    """The leaders, the plain models, then all others: the first is drawn on top."""
    leaders = view.extended[: len(LEADER_STYLES)]
    return [*leaders, *(line for line in view.lines if line.is_plain), *view.extended[len(LEADER_STYLES) :]]


def _series(view: View, styles: Mapping[str, svg.Style], task: Task, printer: numbers.Printer) -> list[svg.Series]:
    """Every subject's results on one task, over all depths, as lines; a stretch of positions stands at its middle."""

    def point(row: Row) -> svg.Point:
        if row.start is None:
            x, where = float(row.length), f"{numbers.tokens(row.length)} tokens"
        else:
            x = (row.start + row.length) / 2
            where = f"positions {numbers.tokens(row.start)} to {numbers.tokens(row.length)}"
        return svg.Point(x, row.estimate, f"{where}: {numbers.in_full(row.estimate, printer)}, n = {row.n}")

    return [
        svg.Series(line.id, line.title, styles[line.id], [point(row) for row in view.of(line, task.id)])
        for line in _drawing_order(view)
    ]


def _by_length(
    view: View,
    task: Task,
    series: Sequence[svg.Series],
    y: svg.Axis,
    marks: Sequence[svg.Mark] = (),
    whiskers: bool = False,
) -> list[Chart]:
    """The chart of a task over length (or position)."""
    what = "position" if task.metric == "nll" else "length"
    return chart("", series, _lengths(series, what), y, task.title, [*_window(view), *marks], whiskers)


def _lengths(series: Sequence[svg.Series], what: str = "length") -> svg.Axis:
    """What was tested, and no more."""
    values = [p.x for s in series for p in s.points]
    return svg.Axis.around(f"{what} in tokens, log scale", values, numbers.short_tokens, base=2, pad=0.03)


def _window(view: View) -> list[svg.Mark]:
    return [svg.Mark(view.window, f"window {numbers.tokens(view.window)}")] if view.window else []


def chart(
    heading: str,
    series: Sequence[svg.Series],
    x: svg.Axis,
    y: svg.Axis,
    title: str,
    marks: Sequence[svg.Mark],
    whiskers: bool = False,
) -> list[Chart]:
    """A line chart in both layouts; none where fewer than two places have a number, which a table says better."""
    if len({point.x for s in series for point in s.points if point.estimate.value is not None}) < 2:
        return []
    return [Chart(heading, [svg.line_chart(series, x, y, title, marks, whiskers, *size) for size in SIZES])]


def _pivot(view: View, task: Task, printer: numbers.Printer) -> Table:
    """One row per subject, one column per length (or stretch of positions)."""
    cells = sorted({(row.length, row.start or 0) for line in view.lines for row in view.of(line, task.id)})
    columns = [
        numbers.tokens(length) if not start else f"{numbers.tokens(start)} to {numbers.tokens(length)}"
        for length, start in cells
    ]
    rows = []
    for line in view.lines:
        found = {(r.length, r.start or 0): numbers.in_full(r.estimate, printer) for r in view.of(line, task.id)}
        rows.append([line.title, *(found.get(cell, numbers.NOTHING) for cell in cells)])
    return Table(columns, rows)


def _has_numbers(series: svg.Series) -> bool:
    return any(point.estimate.value is not None for point in series.points)


def _absent(view: View, series: Sequence[svg.Series], task: Task) -> str:
    """A sentence that names the subjects without a number, and why, where there are any."""
    lines = {line.id: line for line in view.lines}
    loss = "ppl" if task.metric == "nll" else task.id  # the loss by position comes with the perplexity
    said = []
    for s in series:
        if not _has_numbers(s):
            why = view.unmeasured(lines[s.key], loss)
            said.append(s.title + (f" ({why})" if why else ""))
    return f" Not measured: {', '.join(said)}." if said else ""


def _reading(line: Line) -> str:
    """How prompts were read and checked."""
    subject = line.subject
    said = [WAYS.get(subject.how, subject.how)]
    if subject.tokens and subject.tokens.get("read"):
        asked, read = subject.tokens["asked"], subject.tokens["read"]
        said.append(f"{read:,} tokens read for {asked:,} asked ({asked / read:.1f} x) in the last run")
    if checked := sum(task.checked for task in subject.tasks):
        agreed = sum(task.agreed for task in subject.tasks)
        said.append(f"{checked} teacher-forced answers decoded as well, {agreed} with the same verdict")
    if early := sum(len(task.early) for task in subject.tasks):
        said.append(f"{early} cells stopped early")
    return "; ".join(said)


def _lines(diff: str) -> list[tuple[str, str]]:
    """The lines of a unified diff with their kind; nothing where ``diff`` is a sentence instead."""
    if not re.search(r"^@@ ", diff, re.MULTILINE):
        return []
    kinds = {"+": "added", "-": "removed", "@": "hunk"}
    return [(kinds.get(line[:1], "same"), line) for line in diff.splitlines()]


def _settings(view: View) -> list[tuple[str, str]]:
    """Name and value of what was set, and of what ran it."""
    results, found = view.results, []
    for model in results.models:
        parts = [f"window {numbers.tokens(model.window)}"] if model.window else []
        parts += [f"target {numbers.tokens(model.to)}"] if model.to else []
        parts += [f"{key} {model.facts[key]}" for key in ("type", "parameters", "dtype", "device", "attention")
                  if model.facts.get(key) is not None]  # fmt: skip
        found.append((model.name, ", ".join(parts)))
    named = {**results.settings, "lengths": view.lengths, "created": results.created, **results.versions}
    if results.seconds is not None:
        named["seconds"] = numbers.quantity(results.seconds)
    return found + [
        (name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value))
        for name, value in named.items()
        if value not in (None, "", [], {})
    ]
