"""Results as a page: methods side by side where there are several, tasks, charts by length, grids, benchmarks.

Sections appear where there is data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, cycle
from pathlib import Path

from markupsafe import Markup

from ropewalk.common.whole import write_text
from ropewalk.report import numbers, svg
from ropewalk.report.headline import headline, leader, listed, notes, rival
from ropewalk.report.numbers import Estimate
from ropewalk.report.page import (
    LEADER_STYLES,
    PLAIN_STYLE,
    Block,
    Cell,
    Chart,
    Code,
    Column,
    Command,
    Facts,
    Folded,
    Item,
    KeyFigure,
    Page,
    Section,
    Table,
    Text,
    Tile,
    Tiles,
    address,
    anchor,
    chart,
    facts,
    lengths,
    with_numbers,
)
from ropewalk.report.schema import CONTROLS, Results, Row, Task
from ropewalk.report.view import NOTE, Line, View

HEADROOM = 20.0  # a perplexity more than this many times the best one is drawn as "beyond the axis"
ROOM = 2.0  # intervals widen the axis of a perplexity by so many times at most, on either side
AVERAGE = "average"
MUTED_DASHES = (None, "5 3", "2 3")
MUTED_MARKERS = ("cross", "plus", "bar", "circle", "square", "triangle", "diamond")
COLUMNS = (  # of the summary, with the word that explains each
    ("score", "Average score", "score", numbers.percent),
    ("effective_length", "Effective length", "effective length", numbers.tokens),
    ("perplexity", "Perplexity", "perplexity", numbers.quantity),
    ("short_tax", "Short-text tax", "short-text tax", numbers.tax),
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
SHARES = "The share of right answers, or of right parts of answers; higher is better."
GRIDS = (
    "A column is a length, a row is the depth at which the answer was hidden (0% is the start of the text), a number "
    "is a percentage, and the upright line is the window."
)
MISSING = "Not everything was measured: “Not measured”, near the end, says why."
SHARE = svg.Axis("score", 0.0, 1.0, numbers.percent)


def page_of_results(results: Results) -> Page:
    """What is on the page."""
    view = View(results)
    styles = _styles(view)
    swatches = {key: svg.swatch(style) for key, style in styles.items()}
    several, scored = len(view.lines) > 1, bool(view.tasks("score"))
    tasks = [_tasks(view, line, swatches) for line in view.lines] if scored else []
    explained = "How the model behaves without the text, or with hardly any, says whether its score is due to the text."
    controls = explained if any(one.controls for s in results.subjects for one in s.tasks) else ""
    kinds = ["scope", "diffusion"] if any(task.scope for task in view.tasks("score")) else []
    sections = [
        *([Section("", "", [_summary(view, swatches)], ["interval", "window"])] if several else []),
        *([Section("Tasks", controls, tasks, ["interval", *kinds])] if tasks and not several else []),
        *_costs(view),
        *_charts(view, styles, swatches),
    ]
    if tasks and several:
        folded = [Folded(line.title, [table], swatches[line.id]) for line, table in zip(view.lines, tasks, strict=True)]
        sections.append(Section("Task by task", controls, folded, kinds))
    window = f", window {numbers.tokens(view.window)} tokens" if view.window else ""
    if view.window and view.target and view.target > view.window:
        window = f", from its window of {numbers.tokens(view.window)} to {numbers.tokens(view.target)} tokens"
    window += f"; its files cut at {numbers.tokens(view.cut)}" if view.cut else ""
    single = "" if several or view.lines[0].is_plain else f" with {view.lines[0].title}"
    return Page(
        title=view.name + (f" to {numbers.tokens(view.target)} tokens" if view.target else ""),
        subject=f"{view.name}{single}{window}",
        headline=headline(view),
        notes=[*notes(view), *([MISSING] if results.not_measured else [])],
        figures=list(_key_figures(view)),
        sections=[*sections, *_about(view)],
    )


def render(results: Results) -> str:
    """The page."""
    return page_of_results(results).render()


def write(results: Results, path: Path) -> None:
    """Write the page to ``path``: an interrupted run leaves the old page or the new one, never half of one.

    Raises:
        UserError: ``path`` cannot be written.
    """
    write_text(path, render(results))


def _key_figures(view: View) -> Iterator[KeyFigure]:
    """Of the leader beside the plain model, or of a subject alone."""
    alone = len(view.lines) == 1
    best = view.lines[0] if alone else leader(view)
    plain = None if alone else rival(view)
    for name, heading, term, printer in _columns(view):
        one, print_ = getattr(best, name), best.printer(name, printer)
        if one.value is None:
            continue
        small = [numbers.interval(one, print_)] if alone else [f"{best.brief} {_bracketed(one, print_)}".strip()]
        if plain is not None and name != "short_tax" and getattr(plain, name).value is not None:
            small.append(f"plain model {numbers.in_full(getattr(plain, name), plain.printer(name, printer))}")
        yield KeyFigure(heading, print_(one.value), "\n".join(filter(None, small)), term)


def _bracketed(one: Estimate, printer: numbers.Printer) -> str:
    spread = numbers.interval(one, printer)
    return f"({spread})" if spread else ""


def _columns(view: View) -> list[tuple[str, str, str, numbers.Printer]]:
    """The columns of the summary that have a number, under headings that name the target."""
    shown, at = view.columns(), f" at {numbers.tokens(view.target)} tokens" if view.target else " at the target"
    return [
        (name, heading + (at if name in ("score", "perplexity") else ""), term, printer)
        for name, heading, term, printer in COLUMNS
        if name in shown
    ]


def _summary(view: View, swatches: Mapping[str, Markup]) -> Table:
    """Methods side by side."""
    axis = svg.Axis.around("", view.lengths, numbers.tokens, base=2)
    columns, rows = _columns(view), []
    saved = any(line.subject.exportable for line in view.lines)
    drawn = bool(view.lengths[1:]) and "effective_length" in view.columns()
    for line in view.lines:
        cells = []
        for name, _, _, plain in columns:
            printer = line.printer(name, plain)
            bar = Markup()
            if name == "effective_length" and drawn:
                window = view.model(line.subject).window or view.lengths[0]
                bar = svg.interval_bar(line.effective_length, axis, window)
            cells.append(Cell.of(getattr(line, name), printer, drawing=bar, best=view.leads(line, name, printer)))
        where = [Cell(line.subject.exportable.partition(":")[0] or numbers.NOTHING)] if saved else []
        said = "" if line.subject.causal else NOTE
        rows.append((
            Item(line.title, said, swatches[line.id], line.id, link=f"#{place(view, line)}", quiet=line.is_plain),
            [*cells, *where],
        ))  # fmt: skip
    note = "Bold is the best measured value of a column; whether it is surely the best, the ranges tell."
    note += _passing(view)
    if drawn:
        ends = f"{numbers.tokens(view.lengths[0])} to {numbers.tokens(view.lengths[-1])} tokens"
        note = (
            f"The bars run from {ends} on a log scale; a dotted line is the window, and a hollow dot lies below the "
            f"shortest tested length. {note}"
        )
    heads = [Column(heading, term) for _, heading, term, _ in columns]
    heads += [Column("In a checkpoint", "in a checkpoint")] * saved
    return Table("Method", heads, rows, note)


def _passing(view: View) -> str:
    """What effective lengths are measured by."""
    shown = view.threshold is not None and view.tasks("score")
    return f" Effective lengths are for a threshold of {numbers.percent(view.threshold)}." if shown else ""


def _costs(view: View) -> Iterator[Section]:
    """What strategies took for their answers, beside the plain model that reads everything at once."""
    rows: list[tuple[Item, list[Cell]]] = []
    said: list[str] = []
    lengths = sorted({cost.length for line in view.lines for cost in line.subject.costs})
    for length in lengths:
        where = f"{numbers.tokens(length)} tokens"
        for line in view.lines:
            score = Cell.of(line.subject.average(length), numbers.percent)
            if line.is_plain:
                rows.append(
                    (Item(line.title, where, quiet=True), [score, *map(Cell, (numbers.NOTHING, "1", "1", "1"))])
                )
            for cost in (one for one in line.subject.costs if one.length == length):
                told = numbers.tokens(round(cost.tokens)), f"{cost.share:.2f}", f"{cost.calls:.1f}", f"{cost.chain:,}"
                rows.append((Item(line.title, where), [score, *map(Cell, told)]))
                said += [f"{line.title}, {where}, {k} of {cost.n} questions: {note}." for note, k in cost.notes.items()]
    if not rows:
        return
    spend = view.results.settings.get("spend")
    bound = f", and none may spend more than {spend:g} times that" if spend else ""
    text = (
        "A strategy reads a text in several calls of the plain model, each within its window. Tokens are those of all "
        "prompts and answers for one question; in multiples of those of the whole prompt, the last answer at its "
        "longest"
        f"{bound}. Calls of the longest chain wait for one another, so that no further server makes them faster."
    )
    columns = [Column("Average score", "score"), Column("Tokens for a question", unit="tokens"),
               Column("Multiple", unit="times"), Column("Calls", unit="a question"),
               Column("Longest chain", unit="calls")]  # fmt: skip
    notes: list[Block] = [Folded("What was noted while reading", [Text(one) for one in said])] if said else []
    yield Section("What reading in parts takes", text, [Table("Who", columns, rows), *notes], ["score"])


def place(view: View, line: Line) -> str:
    """Where a method's card stands."""
    return f"method-{view.lines.index(line) + 1}-{anchor(line.title)}"


def _about(view: View) -> Iterator[Section]:
    """What methods are and change, how it was measured, and what was not."""
    results = view.results
    cards = []
    for line in view.lines:
        one = line.subject
        cells = (one.note, one.exportable, one.training_free)
        at = address(one.paper)
        paper = Cell(at.removeprefix("https://") or one.paper or numbers.NOTHING, words=True, link=at)
        cards.append((
            Item(line.title, one.method if one.method != line.title else "", anchor=place(view, line)),
            [*(Cell(cell or numbers.NOTHING, words=True) for cell in cells), paper],
        ))  # fmt: skip
    if any(line.subject.note or line.subject.paper or line.subject.exportable for line in view.lines):
        columns = [Column("What it does"), Column("In a checkpoint", "in a checkpoint"),
                   Column("Without training", "without training"), Column("Paper")]  # fmt: skip
        many = len(view.lines) > 1
        said = "Below a name is how the command line spells it; “ropewalk methods” lists all there are."
        yield Section("The methods" if many else "The method", said, [Table("Method", columns, cards)])
    diffs = [
        Folded(
            line.title, [Code(lines) if (lines := _lines(line.subject.config_diff)) else Text(line.subject.config_diff)]
        )
        for line in view.lines
        if line.subject.config_diff and not (line.is_plain and len(view.lines) == 1)
    ]
    if diffs:
        yield Section("What changes in the config", "Each method as an edit of the model’s config.json.", diffs)
    ways: dict[str, list[str]] = {}
    for line in view.lines:
        if line.subject.how:
            ways.setdefault(_reading(line), []).append(line.brief)
    if ways:
        yield Section("How it was measured", "", [Facts([(", ".join(names), way) for way, names in ways.items()])])
    if results.not_measured:
        titles = {task.id: task.title for task in results.tasks}
        rows = [
            [titles.get(row.task, row.task), view.titles.get(row.method, row.method) if row.method else "all",
             numbers.tokens(row.length) + " tokens" if row.length else "all", row.reason]
            for row in results.not_measured
        ]  # fmt: skip
        columns = [Column("Method"), Column("Length"), Column("Reason")]
        yield Section("Not measured", "", [Table.of("Task", columns, rows, words=True)])
    repeat = [Command(results.command)] if results.command else []
    yield Section("Settings", "This command measures the same again." * bool(repeat), [*repeat, _settings(view)])


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


def _tasks(view: View, line: Line, swatches: Mapping[str, Markup]) -> Table:
    """One subject's tasks: how far each is answered, the scores by length, and the controls."""
    controls = [one for one in CONTROLS if any(one in t.controls for s in view.results.subjects for t in s.tasks)]
    found = {one.task: one for one in line.subject.tasks}
    rows = []
    for task in view.tasks("score"):
        own, scores = found.get(task.id), {row.length: row.estimate for row in view.of(line, task.id)}
        reach = (own.effective_length if own else None) or Estimate()
        checks = own.controls if own else {}
        kind = f"scope {task.scope}, diffusion {task.diffusion}" if task.scope else ""
        alone = len(view.lines) == 1
        rows.append((
            Item(task.title, task.benchmark or kind, swatches[task.id] if alone else Markup(), task.id * alone),
            [
                Cell.of(reach, numbers.reached(numbers.tokens, min(scores, default=None))),
                *(Cell.of(scores.get(n, Estimate()), numbers.percent) for n in view.lengths),
                *(Cell(numbers.percent(checks[one].value if one in checks else None)) for one in controls),
            ],
        ))  # fmt: skip
    columns = [
        Column("Effective length", "effective length"), *lengths(view.lengths),
        *(Column(one.capitalize(), one) for one in controls),
    ]  # fmt: skip
    return Table("Task", columns, rows, f"Below each length is the score there.{_passing(view)}")


def _shown(
    title: str, text: str, charts: Sequence[Chart], table: Table, tiles: Sequence[Tile] = (), terms: Sequence[str] = ()
) -> Section:
    """Charts, then the numbers behind them, then grids by depth; of many methods these open at a click."""
    blocks = with_numbers(charts, table, terms[0])
    if tiles:
        grids: list[Block] = [Text(GRIDS), Tiles(tiles)]
        blocks += [Folded("By depth", grids)] if len(tiles) > 2 else grids
    return Section(title, text, blocks, terms)


def _charts(view: View, styles: Mapping[str, svg.Style], swatches: Mapping[str, Markup]) -> Iterator[Section]:
    if len(view.lines) == 1 and view.tasks("score"):
        yield from _scores(view, styles, swatches)
    elif view.tasks("score"):
        if len(view.tasks("score")) > 1 and len(view.lengths) > 1:  # of one length the summary has it
            yield _average(view, styles)
        for task in view.tasks("score"):
            yield _score(view, styles, swatches, task)
    for metric in ("perplexity", "nll"):
        for task in view.tasks(metric):
            yield _loss(view, styles, task)
    yield from _in_one_number(view)
    yield from _kinds(view)
    yield from _readings(view)
    yield from _benchmarks(view)
    if any(line.subject.rope for line in view.lines) and len(view.lines) > 1:
        yield _wavelengths(view, styles)


def _loss(view: View, styles: Mapping[str, svg.Style], task: Task) -> Section:
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
    text = f"{READINGS[task.metric]} {_count(view, task, 'text')}"
    if any(v > y.high for v in values):
        text += " Arrow heads lie above the axis."
    if any(not y.low <= end <= y.high for end in ends):
        text += " Intervals that reach beyond the axis are cut there."
    plain = {line.id for line in view.lines if line.is_plain and len(view.results.models) == 1}
    known = [one for one in series if any(p.estimate.low is not None for p in one.points)]
    shaded = ["the plain model" if one.key in plain else one.title for one in known if one.style.ink in svg.SHADED]
    if len(known) > len(svg.SHADED):
        text += f" Shaded are the 95 % intervals of {listed(shaded)}; the numbers below have all."
    return _shown(
        task.title,
        text + _absent(view, series, task),
        _by_length(view, task, series, y),
        _pivot(view, task, numbers.quantity),
        terms=["perplexity", "interval"] if is_log else ["loss", "interval"],
    )


def _score(view: View, styles: Mapping[str, svg.Style], swatches: Mapping[str, Markup], task: Task) -> Section:
    """Scores by length and, where the answer was hidden at several depths, one grid per subject."""
    series = _series(view, styles, task, numbers.percent)
    tiles = [tile for line in view.lines for tile in _grid(view, line, task, swatches[line.id], line.title)]
    text = f"{SHARES} {_count(view, task, 'question')}" + (_k_max(view) if task.id == "passkey" else "")
    return _shown(
        task.title,
        text + _absent(view, series, task),
        _by_length(view, task, series, SHARE, [] if task.benchmark else _threshold(view), whiskers=True),
        _pivot(view, task, numbers.percent),
        tiles,
        ["score", "interval", *(["threshold"] if _threshold(view) else []), *(["depth"] if tiles else [])],
    )


def _count(view: View, task: Task, what: str) -> str:
    """How many texts or questions are behind each number."""
    counts = [row.n for line in view.lines for row in view.of(line, task.id)] or [0]
    few, many = min(counts), max(counts)
    said = f"{many} {what}" if few == many else f"{few} to {many} {what}"
    return f"Behind each number {'is' if many == 1 else 'are'} {said}{'s' * (many != 1)}."


def _threshold(view: View) -> list[svg.Mark]:
    if view.threshold is None:
        return []
    return [svg.Mark(view.threshold, f"threshold {numbers.percent(view.threshold)}", horizontal=True)]


def _scores(view: View, styles: Mapping[str, svg.Style], swatches: Mapping[str, Markup]) -> Iterator[Section]:
    """The tasks of a single subject, and their average, in one chart; nothing where the table of tasks says it all."""
    (line,) = view.lines
    tasks = view.tasks("score")
    lines = [(task.id, task.title, {row.length: row.estimate for row in view.of(line, task.id)}) for task in tasks]
    if len(tasks) > 1:
        lines.append((AVERAGE, "Average", _averages(line)))
    series = [
        svg.Series(key, title, styles[key], [_point(length, score, numbers.percent) for length, score in by.items()])
        for key, title, by in lines
    ]
    tiles = [tile for task in tasks for tile in _grid(view, line, task, swatches[task.id], task.title)]
    marks = _threshold(view) if not all(task.benchmark for task in tasks) else []
    drawn = chart("", series, _lengths(series), SHARE, "Scores by length", [*_bound(view), *marks], whiskers=True)
    table = _by_lengths(view, "Task", [(title, by) for _, title, by in lines])
    if drawn or tiles or len(tasks) > 1:
        terms = ["score", "interval", *(["depth"] if tiles else [])]
        yield _shown("Scores by length", SHARES, drawn, table, tiles, terms)


def _averages(line: Line) -> dict[int, Estimate]:
    return {one.length: one.estimate for one in line.tested}


def _by_lengths(view: View, subject: str, rows: Sequence[tuple[str, Mapping[int, Estimate]]]) -> Table:
    """Scores, a column per length."""
    cells = [
        (Item(title), [Cell.of(by.get(n, Estimate()), numbers.percent) for n in view.lengths]) for title, by in rows
    ]
    return Table(subject, lengths(view.lengths), cells)


def _average(view: View, styles: Mapping[str, svg.Style]) -> Section:
    """The average over tasks of every subject."""
    series = [
        svg.Series(one.id, one.brief, styles[one.id], [
            _point(length, score, numbers.percent) for length, score in _averages(one).items()
        ])
        for one in _drawing_order(view)
    ]  # fmt: skip
    marks = [*_bound(view), *_threshold(view)]
    drawn = chart("", series, _lengths(series), SHARE, "Average over tasks", marks, whiskers=True)
    text = "The mean score at each length that all tasks fit in, every task counting the same."
    table = _by_lengths(view, "Method", [(one.title, _averages(one)) for one in view.lines])
    return _shown("Average over tasks", text, drawn, table, terms=["score", "interval"])


def _in_one_number(view: View) -> Iterator[Section]:
    """The area under the curve of averages, and their harmonic mean over categories, of every subject."""
    known = sorted({one.length for line in view.lines for one in line.tested if one.harmonic is not None})
    curved = any(line.subject.area is not None for line in view.lines)
    heads = [Column("Area under the curve", "area under the curve")] if curved else []
    heads += [Column(f"Harmonic mean at {numbers.tokens(length)}", "harmonic mean", "tokens") for length in known]
    rows = []
    for line in view.lines:
        means = {one.length: one.harmonic for one in line.tested}
        found = [line.subject.area] if curved else []
        found += [means.get(length) for length in known]
        rows.append((Item(line.title), [Cell.of(one or Estimate(), numbers.percent) for one in found]))
    if heads:
        text = "What one number says of all scores; each is worked out from the averages, and no model is asked again."
        yield Section("In one number", text, [Table("Method", heads, rows)], ["interval"])


def _kinds(view: View) -> Iterator[Section]:
    """Averages by how much information is needed, and how hard it is to find."""
    rows = []
    for kind in sorted({one.kind for line in view.lines for one in line.subject.averages if one.kind}):
        scope, _, diffusion = kind.partition("/")
        for line in view.lines:
            who = f", {line.title}" if len(view.lines) > 1 else ""
            by = {one.length: one.estimate for one in line.subject.averages if one.kind == kind}
            rows.append((f"{scope} scope, {diffusion} diffusion{who}", by))
    if rows:
        text = "Tasks by scope (how much information an answer needs) and diffusion (how hard it is to find), averaged."
        yield Section("By kind of task", text, [_by_lengths(view, "Kind", rows)], ["scope", "diffusion", "score"])


def _readings(view: View) -> Iterator[Section]:
    """What generated answers show besides their score."""
    titles = {task.id: task.title for task in view.tasks("score")}
    rows = []
    for line in view.lines:
        who = f", {line.title}" if len(view.lines) > 1 else ""
        for task in line.subject.tasks:
            for name in dict.fromkeys(one.name for one in task.readings):
                by = {one.length: one.estimate for one in task.readings if one.name == name}
                rows.append((f"{titles.get(task.task, task.task)}: {name}{who}", by))
    if rows:
        text = (
            "What else the same answers show, each rate of those that can show it. Read strictly, nothing but the "
            "answer in the asked form counts."
        )
        yield Section("Other readings", text, [_by_lengths(view, "Reading", rows)], ["interval"])


def _benchmarks(view: View) -> Iterator[Section]:
    """The table that each benchmark of real texts reports."""
    titles = {(line.subject.model, line.subject.method): line.title for line in view.lines}
    for name in dict.fromkeys(one.benchmark for one in view.results.tables):
        own = [one for one in view.results.tables if one.benchmark == name]
        many = len(view.lines) > 1
        columns = [
            Column((f"{titles[one.model, one.method]}, " if many else "") + numbers.tokens(one.length), unit="tokens")
            for one in own
        ]
        names = dict.fromkeys(row for one in own for row in one.points)
        rows = [[row, *(f"{one.points[row]:.1f}" if row in one.points else "" for one in own)] for row in names]
        text = (
            "What the benchmark reports, in points, by the length that prompts are cut to. A mean over groups is there "
            "only if every group is. Prompts are worded here, so that numbers do not compare with published ones to "
            "the point."
        )
        yield Section(name, text, [Table.of("Part", columns, rows)], ["points"])


def _point(length: float, score: Estimate, printer: numbers.Printer) -> svg.Point:
    return svg.Point(length, score, f"{numbers.tokens(length)} tokens: {numbers.in_full(score, printer)}")


def _k_max(view: View) -> str:
    """The methods by their k_max, the longest first; empty where it was not measured."""
    found: dict[tuple[float, str], list[str]] = {}
    for line in view.lines:
        if line.subject.k_max is not None and line.subject.k_max.value is not None:
            shortest = min((row.length for row in view.of(line, "passkey")), default=None)
            length = numbers.reached(numbers.tokens, shortest)(line.subject.k_max.value)
            found.setdefault((line.subject.k_max.value, length), []).append(line.title)
    groups = (f"{length} for {', '.join(found[value, length])}" for value, length in sorted(found, reverse=True))
    said = " The longest length up to which a fifth of the keys is found (k_max)"
    return f"{said}: {'; '.join(groups)}." if found else ""


def _grid(view: View, line: Line, task: Task, swatch: Markup, title: str) -> Iterator[Tile]:
    cells = {(row.depth, row.length): row.estimate for row in view.of(line, task.id, deep=True)}
    depths = sorted({depth for depth, _ in cells if depth is not None})
    tested = sorted({length for _, length in cells})
    if depths:
        window = view.model(line.subject).window or math.inf
        rows = [(numbers.percent(depth), [cells.get((depth, n), Estimate()) for n in tested]) for depth in depths]
        columns = [numbers.short_tokens(length) for length in tested]
        boundary = sum(length <= window for length in tested)
        yield Tile(title, svg.heatmap(f"{title}: score by depth and length", rows, columns, boundary), swatch)


def _wavelengths(view: View, styles: Mapping[str, svg.Style]) -> Section:
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
                svg.Series(line.id, line.brief, styles[line.id], [
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
                said = [Cell(numbers.quantity(cell)) for cell in cells]
                rows.append((Item(line.title, layer.replace("_", " ")), said))
    absent = [line.title for line in view.lines if not line.subject.rope]
    text = (
        "How many tokens each rotary dimension takes for one turn. From the critical dimension on, the plain model "
        "has not seen a full turn within its window; the methods differ in how they stretch these."
    )
    if absent:
        text += f" Not drawn, since they leave the wavelengths alone or change them while running: {', '.join(absent)}."
    columns = [Column("Attention factor", "attention factor"),
               *(Column(f"{end} wavelength", unit="tokens") for end in ("Shortest", "Longest"))]  # fmt: skip
    return _shown("Wavelengths", text, charts, Table("Method", columns, rows), terms=["wavelength"])


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
        svg.Series(line.id, line.brief, styles[line.id], [point(row) for row in view.of(line, task.id)])
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
    return chart("", series, _lengths(series, what), y, task.title, [*_bound(view), *marks], whiskers=whiskers)


def _lengths(series: Sequence[svg.Series], what: str = "length") -> svg.Axis:
    """What was tested, and no more."""
    values = [p.x for s in series for p in s.points]
    return svg.Axis.around(f"{what} in tokens, log scale", values, numbers.short_tokens, base=2, pad=0.03)


def _bound(view: View) -> list[svg.Mark]:
    return [svg.Mark(*view.bound)] if view.bound else []


def _pivot(view: View, task: Task, printer: numbers.Printer) -> Table:
    """One row per subject, one column per length (or stretch of positions)."""
    cells = sorted({(row.length, row.start or 0) for line in view.lines for row in view.of(line, task.id)})
    columns = [
        Column(numbers.tokens(length), unit="tokens")
        if not start
        else Column(f"{numbers.tokens(start)} to {numbers.tokens(length)}", unit="tokens")
        for length, start in cells
    ]
    rows = []
    for line in view.lines:
        found = {(r.length, r.start or 0): r.estimate for r in view.of(line, task.id)}
        rows.append((Item(line.title), [Cell.of(found.get(cell, Estimate()), printer) for cell in cells]))
    return Table("Method", columns, rows)


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


def _settings(view: View) -> Facts:
    """What was set, and what ran it."""
    results, found = view.results, {}
    for model in results.models:
        parts = [f"window {numbers.tokens(model.window)}"] if model.window else []
        parts += [f"texts cut at {numbers.tokens(model.cut)}"] if model.cut else []
        parts += [f"target {numbers.tokens(model.to)}"] if model.to else []
        parts += [f"{key} {model.facts[key]}" for key in ("type", "parameters", "dtype", "device", "attention")
                  if model.facts.get(key) is not None]  # fmt: skip
        found[model.name] = ", ".join(parts)
    named = {**results.settings, "lengths": view.lengths, "created": results.created, **results.versions}
    if results.seconds is not None:
        named["seconds"] = numbers.quantity(results.seconds)
    return facts({**found, **named})
