"""Results as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from ropewalk.report import numbers
from ropewalk.report.headline import headline
from ropewalk.report.numbers import Estimate
from ropewalk.report.schema import Results
from ropewalk.report.view import Line, View

PRINTERS = {
    "effective_length": numbers.short_tokens,
    "score": numbers.percent,
    "perplexity": numbers.quantity,
    "short_tax": numbers.tax,
}


def tables(results: Results, width: int = 100) -> list[Table]:
    """One row per subject; of one subject alone, one row per task as well; then what benchmarks report.

    Args:
        results: what was measured.
        width: columns of the terminal. From 100 on, intervals of subjects stand beside the numbers, else below them;
            those of tasks are there if they fit, else the counts of samples.
    """
    view = View(results)
    made = [_subjects(view, "\n" if width < 100 else " ")] if view.columns() else []
    if len(view.lines) == 1:
        made.append(_tasks(view, view.lines[0], width))
    return [*made, *_elsewhere(view), *_costs(view), *_benchmarks(view)]


def sentences(results: Results) -> list[str]:
    """What the tables say, and what they do not: the headline, warnings, and what was not measured."""
    view = View(results)
    return [headline(view), *view.warnings(), *_not_measured(view)]


def _table(*columns: str) -> Table:
    made = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    made.add_column(columns[0], overflow="fold", min_width=12)
    for heading in columns[1:]:
        made.add_column(heading, no_wrap=True, justify="right", min_width=max(map(len, heading.split("\n"))))
    return made


def _subjects(view: View, between: str) -> Table:
    """The best value of each column is bold."""
    at = f"at {numbers.short_tokens(view.target)}" if view.target else "at target"
    headings = {
        "effective_length": "Effective\nlength",
        "score": f"Average score\n{at}",
        "perplexity": f"Perplexity\n{at}",
        "short_tax": "Short-\ntext tax",
    }
    columns = view.columns()
    made = _table("\nMethod", *(headings[name] for name in columns))
    for line in view.lines:
        cells = []
        for name in columns:
            printer, estimate = line.printer(name, PRINTERS[name]), getattr(line, name)
            cells.append(_cell(estimate, printer, between, "bold" if view.leads(line, name, printer) else ""))
        made.add_row(Text(line.title, style="italic" if line.is_plain else ""), *cells)
    return made


def _cell(estimate: Estimate, printer: numbers.Printer, between: str | None, style: str = "") -> Text:
    """A number, and after ``between`` its interval."""
    spread = "" if between is None else numbers.interval(estimate, printer, between="…")
    return Text.assemble((printer(estimate.value), style), (f"{between}{spread}" if spread else "", "dim"))


def _tasks(view: View, line: Line, width: int) -> Table:
    """One column per length."""
    made = _table("Task", *map(numbers.short_tokens, view.lengths), "Effective")
    effective = {one.task: one.effective_length for one in line.subject.tasks}
    below = "\n" if 12 + 11 * (len(view.lengths) + 1) <= width else None  # a title, and columns such as 4.70…94.3
    for task in (*view.tasks("score"), *view.tasks("perplexity")):
        printer = numbers.percent if task.metric == "score" else numbers.quantity
        found = {row.length: row.estimate for row in view.of(line, task.id)}
        far = numbers.reached(numbers.short_tokens, min(found, default=None))
        counts = "" if below else ", n = " + " or ".join(map(str, sorted({one.n or 0 for one in found.values()})))
        cells = (_cell(found.get(length, Estimate()), printer, below) for length in view.lengths)
        reach = effective.get(task.id)
        made.add_row(Text(task.title + counts), *cells, _cell(reach, far, below) if reach else "")
    return made


def _elsewhere(view: View) -> Iterator[Table]:
    """Several subjects on tasks that have a length of their own, which is none of those that were asked for."""
    tasks = [
        task
        for task in view.tasks("score")
        if not task.benchmark
        and (found := {row.length for line in view.lines for row in view.of(line, task.id)})
        and not found & set(view.lengths)
    ]
    for name, some in groupby(tasks, lambda task: task.title.partition(", ")[0]):
        own = list(some)
        made = _table(name, *(task.title.partition(", ")[2] for task in own))
        for line in view.lines if len(view.lines) > 1 else ():
            rows = [view.of(line, task.id) for task in own]
            made.add_row(
                Text(line.title, style="italic" if line.is_plain else ""),
                *(_cell(found[0].estimate if found else Estimate(), numbers.percent, "\n") for found in rows),
            )
        if made.row_count:
            yield made


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


def _costs(view: View) -> Iterator[Table]:
    """What strategies took for their answers, a row per length."""
    if any(line.subject.costs for line in view.lines):
        made = _table("\nStrategy", "\nLength", "\nScore", "Tokens for\na question", "times\nthe prompt", "\nCalls")
        for line in view.lines:
            for cost in line.subject.costs:
                score = line.subject.average(cost.length).value
                told = numbers.short_tokens(cost.length), numbers.percent(score), numbers.tokens(round(cost.tokens))
                made.add_row(line.title, *told, f"{cost.share:.2f}", f"{cost.calls:.1f}")
        yield made


def _not_measured(view: View) -> list[str]:
    titles = {task.id: task.title for task in view.results.tasks}
    return [
        f"Not measured: {titles.get(one.task, one.task)}"
        + (f" of {view.titles[one.method]}" if one.method else "")
        + (f" at {numbers.short_tokens(one.length)}" if one.length else "")
        + f" ({one.reason})"
        for one in view.results.not_measured
    ]
