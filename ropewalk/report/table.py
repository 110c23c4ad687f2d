"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.table import Table
from rich.text import Text

from ropewalk.report import numbers
from ropewalk.report.numbers import Estimate
from ropewalk.report.schema import Results
from ropewalk.report.view import Line, View

PRINTERS = {
    "effective_length": numbers.short_tokens,
    "retrieval": numbers.percent,
    "perplexity": numbers.quantity,
    "short_tax": numbers.tax,
}


def tables(results: Results, intervals: bool = True) -> list[Table]:
    """One row per subject, or per task where there is one subject; then what benchmarks report.

    Args:
        results: what was measured.
        intervals: print them beside the numbers of subjects, which wants 100 columns; without, 80 do.
    """
    view = View(results)
    first = _subjects(view, intervals) if len(view.lines) > 1 else _tasks(view, view.lines[0])
    notes = [*view.warnings(), *_not_measured(view)]
    first.caption = "\n".join([view.verdict(), *notes])
    return [first, *_benchmarks(view)]


def _table(*columns: str) -> Table:
    made = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, caption_justify="left", caption_style="")
    made.add_column(columns[0], overflow="fold", min_width=12)
    for heading in columns[1:]:
        made.add_column(heading, no_wrap=True, justify="right", min_width=max(map(len, heading.split("\n"))))
    return made


def _subjects(view: View, intervals: bool) -> Table:
    """The best value of each column is bold."""
    at = f"at {numbers.short_tokens(view.target)}" if view.target else "at target"
    headings = {
        "effective_length": "Effective\nlength",
        "retrieval": f"Retrieval\n{at}",
        "perplexity": f"Perplexity\n{at}",
        "short_tax": "Short-\ntext tax",
    }
    columns = view.columns()
    made = _table("\nMethod", *(headings[name] for name in columns))
    for line in view.lines:
        cells = []
        for name in columns:
            printer, estimate = PRINTERS[name], getattr(line, name)
            spread = numbers.interval(estimate, printer, between="…") if intervals else ""
            style = "bold" if view.leads(line, name, printer) else ""
            cells.append(Text.assemble((printer(estimate.value), style), (f" {spread}" if spread else "", "dim")))
        made.add_row(Text(line.title, style="italic" if line.is_plain else ""), *cells)
    return made


def _tasks(view: View, line: Line) -> Table:
    """One column per length."""
    made = _table("Task", *map(numbers.short_tokens, view.lengths), "Effective")
    effective = {one.task: one.effective_length or Estimate() for one in line.subject.tasks}

    def add(title: str, scores: dict[int, float], printer: numbers.Printer, reach: Estimate, style: str = "") -> None:
        cells = (printer(scores.get(length)) for length in view.lengths)
        made.add_row(title, *cells, numbers.short_tokens(reach.value) if reach.value is not None else "", style=style)

    for task in view.tasks("score"):
        add(
            task.title,
            {row.length: row.value for row in view.of(line, task.id)},
            numbers.percent,
            effective.get(task.id, Estimate()),
        )
    if len(view.tasks("score")) > 1:
        means = {one.length: one.value for one in line.subject.averages if not one.kind}
        add("Average", means, numbers.percent, line.effective_length, "bold")
    for task in view.tasks("perplexity"):
        add(task.title, {row.length: row.value for row in view.of(line, task.id)}, numbers.quantity, Estimate())
    return made


def _benchmarks(view: View) -> Iterator[Table]:
    """What each benchmark reports, in points; a column per subject and length."""
    for name in dict.fromkeys(one.benchmark for one in view.results.tables):
        own = [one for one in view.results.tables if one.benchmark == name]
        many = len({(one.model, one.method) for one in own}) > 1
        titles = {(line.subject.model, line.subject.method): line.title for line in view.lines}
        heads = [
            (f"{titles[one.model, one.method]}\n" if many else "") + numbers.short_tokens(one.length) for one in own
        ]
        made = _table(name, *heads)
        for row in dict.fromkeys(row for one in own for row in one.points):
            made.add_row(row, *(f"{one.points[row]:.1f}" if row in one.points else "" for one in own))
        yield made


def _not_measured(view: View) -> list[str]:
    titles = {task.id: task.title for task in view.results.tasks}
    methods = {line.subject.method: line.subject.title for line in view.lines}
    return [
        f"Not measured: {titles.get(one.task, one.task)}"
        + (f" of {methods[one.method]}" if one.method else "")
        + (f" at {numbers.short_tokens(one.length)}" if one.length else "")
        + f" ({one.reason})"
        for one in view.results.not_measured
    ]
