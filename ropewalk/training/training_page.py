"""A training as one self-contained page: what it read before and after, and the loss on the way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ropewalk.report import numbers, svg
from ropewalk.report.numbers import Estimate
from ropewalk.report.page import LEADER_STYLES, PLAIN_STYLE, Chart, Figure, Table, chart, environment
from ropewalk.training.readings import CAME, named, stretch, times

if TYPE_CHECKING:
    from ropewalk.training.trained import Trained

POINTS = 80  # on a line by step; a point is the mean of the steps around it
GIB = 2**30


def render(trained: Trained) -> str:
    """The page."""
    return (
        environment()
        .get_template("training.html.j2")
        .render(
            recipe=trained.recipe.name,
            model=trained.model,
            to=trained.to,
            verdict=_verdict(trained),
            notes=[*_told(trained), *trained.notes],
            figures=[figure for figure in _figures(trained) if figure.charts or figure.table.rows],
            command=trained.command,
            texts_left_out=trained.texts[1],
            settings=[
                (name, _plain(value)) for name, value in trained.recipe.to_dict().items() if value not in ([], (), None)
            ],
        )
    )


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "; ".join(map(_plain, value))
    return (
        ", ".join(f"{name} {one}" for name, one in value.items() if one != "")
        if isinstance(value, dict)
        else str(value)
    )


def _verdict(trained: Trained) -> str:
    far = [key for key in trained.lines if key[0] == "perplexity"][-1:]
    change = trained.change(far[0]) if far else None
    if change is None:
        return f"{len(trained.log):,} steps, a loss of {trained.log[-1].loss:.3f} at the end."
    last = max(trained.readings)
    came, now = (numbers.quantity(trained.estimate(step, far[0]).value) for step in (CAME, last))
    return (
        f"At positions {stretch(far[0][1])} of {change.n} texts that were not trained on, the perplexity was {came} as "
        f"the model came, and is {now}: {times(change)}."
    )


def _told(trained: Trained) -> list[str]:
    """What the headline leaves out: the price in the window that the model had, and what is found."""
    last, found = max(trained.readings, default=CAME), []
    near = [
        key
        for key in trained.lines
        if key[0] == "perplexity" and trained.window and int(key[1].split("-")[1]) <= trained.window
    ][-1:]
    if near and (change := trained.change(near[0])):
        found.append(
            f"Within the window that it had, at positions {stretch(near[0][1])}, it is {times(change)} what it was."
        )
    for key in [key for key in trained.lines if key[0] == "passkey"][-1:]:
        one = trained.estimate(last, key)
        found.append(f"Of {one.n} pass keys in {int(key[1]):,} tokens, {numbers.percent(one.value)} are found.")
    return found


def _figures(trained: Trained) -> list[Figure]:
    read = (
        _read(trained, "perplexity", "Perplexity by position", numbers.quantity,
              "Of the tokens in each stretch of positions of texts that were not trained on; lower is better. The "
              "table has 95 % intervals, which are wide where texts are few; the last row is paired by text, and so "
              "is narrower."),
        _read(trained, "passkey", "Pass keys by length", numbers.percent,
              "The share of keys found that stand somewhere in texts of this length, with 95 % intervals."),
    )  # fmt: skip
    steps = (
        ("Loss by step", "Of the training's own samples, in nats.", "loss", lambda one: one.loss),
        ("Norm of the gradient", "Before clipping.", "norm", lambda one: one.norm),
        ("Learning rate", "That each step was taken with.", "learning rate", lambda one: one.learning_rate),
        ("Tokens a second", "Padding aside.", "tokens/s", lambda one: one.tokens / max(one.seconds, 1e-9)),
        ("Memory", "The most that tensors took on the device in a step.", "GiB", lambda one: one.memory / GIB),
    )  # fmt: skip
    counted = any(log.memory for log in trained.log)
    by_step = [_by_step(trained, *one) for one in steps if one[0] != "Memory" or counted]
    return [*read, *by_step]


def _short(value: float | None) -> str:
    return numbers.NOTHING if value is None else f"{value:.2g}"


def _read(trained: Trained, key: str, title: str, printer: numbers.Printer, text: str) -> Figure:
    """One line per evaluation, over positions or lengths."""
    steps = sorted(trained.readings)
    shown = steps if len(steps) <= 5 else [steps[0], *steps[1:-1][:: max(1, (len(steps) - 2) // 3)][:3], steps[-1]]
    series, rows = [], []
    for i, step in enumerate(shown):
        name = named(step)
        places = trained.readings[step][key]
        found = {float(place.split("-")[-1]): trained.estimate(step, (key, place)) for place in places}
        style = PLAIN_STYLE if i == 0 else LEADER_STYLES[(i - 1) % len(LEADER_STYLES)]
        drawn = {x: Estimate(one.value, n=one.n) if key == "perplexity" else one for x, one in found.items()}
        points = [svg.Point(x, one, f"{name}: {numbers.in_full(found[x], printer)}") for x, one in drawn.items()]
        series.append(svg.Series("came" if step == CAME else f"step-{step}", name, style, points))
        rows.append([name, *(numbers.in_full(one, printer) for one in found.values())])
    drawn_at = [point.x for one in series for point in one.points]
    if not drawn_at:
        return Figure(title, text, [], Table([], []))
    keys = [(key, place) for place in trained.readings[steps[-1]][key]]
    columns = [stretch(place) if key == "perplexity" else f"{int(place):,}" for _, place in keys]
    if key == "perplexity" and CAME in trained.readings:
        rows.append(["last against as it came", *(times(trained.change(one)) for one in keys)])
    x = svg.Axis.around("position in tokens, log scale" if key == "perplexity" else "length in tokens, log scale",
                        drawn_at, numbers.short_tokens, base=2, pad=0.03)  # fmt: skip
    values = [bound for one in series for p in one.points for bound in (p.estimate.value,) if bound is not None]
    y = (
        svg.Axis.around(key, values, printer, base=10, pad=0.1)
        if key == "perplexity"
        else svg.Axis("keys found", 0, 1, printer)
    )
    charts: Sequence[Chart] = chart("", series, x, y, title, [])
    return Figure(title, text, charts, Table(columns, rows), subject="Evaluation")


def _by_step(trained: Trained, title: str, text: str, name: str, of: Callable[[Any], float]) -> Figure:
    """A line over steps, each point the mean of those around it."""
    printer: numbers.Printer = _short if name == "learning rate" else numbers.quantity
    size = -(-len(trained.log) // POINTS)
    points = []
    for i in range(0, len(trained.log), size):
        some = trained.log[i : i + size]
        mean = sum(map(of, some)) / len(some)
        points.append(svg.Point(float(some[-1].step), Estimate(mean), f"step {some[-1].step:,}: {printer(mean)}"))
    series = [svg.Series(name, name, LEADER_STYLES[0], points)]
    x = svg.Axis.around("steps", [p.x for p in points], lambda value: f"{value or 0:,.0f}", pad=0.02)
    y = svg.Axis.around(name, [p.estimate.value or 0.0 for p in points], printer, pad=0.1)
    return Figure(title, text, chart("", series, x, y, title, []), Table([], []))
