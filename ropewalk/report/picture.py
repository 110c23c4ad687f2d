"""Results as one picture for a README: perplexity and passkey accuracy by length, plain model and leaders."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.common.statistics import exp
from ropewalk.report import numbers
from ropewalk.report.schema import Results, Row, Task
from ropewalk.report.svg import Axis, spread
from ropewalk.report.view import Line, View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, TEXT, QUIET, GRID = "#fcfcfa", "#1c2024", "#5f666d", "#e6e8ea"
PLAIN_LOOK = (TEXT, (0, (5, 2.5)), "o")
NAMED = 24  # characters of a line's name
LOOKS = (("#0068ad", "-", "s"), ("#bf4900", "-.", "^"), ("#007a58", (0, (3, 1.5)), "D"))  # colour, dashes, marker
TOLD = 3  # texts from which on an interval is drawn: that of two covers everything, and their number says more
HEADROOM = 20.0  # as on the page: what is worse than this many times the best ends at the upper edge


def picture(results: Results, path: Path, heading: str = "", by_position: bool = False) -> None:
    """Draw ``results`` into ``path``, whose suffix chooses the format (.png, .svg).

    The background is solid, so that the picture reads the same on a light and on a dark page.

    Args:
        results: to draw.
        path: of the file.
        heading: above it.
        by_position: perplexity of the tokens at each position in place of that of texts of each length; it shows where
            a model breaks, which a mean over all tokens before hides.

    Raises:
        UserError: There is nothing to draw.
    """
    import matplotlib
    from matplotlib.figure import Figure

    view = View(results)
    looks = {line.id: look for line, look in zip(view.extended, LOOKS, strict=False)}
    looks |= {line.id: PLAIN_LOOK for line in view.lines if line.is_plain}
    drawn = sorted((line for line in view.lines if line.id in looks), key=lambda line: line.is_plain)
    scores = sorted(view.tasks("score"), key=lambda task: task.id != "passkey")
    tasks = [*view.tasks("nll" if by_position else "perplexity")[:1], *scores[:1]]
    if not tasks:
        raise UserError("There is nothing to draw: no perplexity and no score.", "Run it with more --tasks.")
    # Text stays text, and the same comparison gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ropewalk", "font.size": 10}):
        figure = Figure(figsize=(5.4 * len(tasks), 3.9), facecolor=PAPER, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        if heading:
            figure.suptitle(heading, x=0.02, ha="left", color=TEXT, fontsize=13, fontweight="bold")
        for i, task in enumerate(tasks):
            rows = [(line, view.of(line, task.id)) for line in drawn]
            if task.metric == "nll":
                rows = [(line, _perplexities(own, view.lengths[0] / 4)) for line, own in rows]
            axes = figure.add_subplot(1, len(tasks), i + 1)
            _panel(axes, view, [(line, own) for line, own in rows if own], looks, task)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _perplexities(rows: Sequence[Row], least: float) -> list[Row]:
    """Losses of stretches of positions, from a ``least`` one on, as perplexities in the middle of each."""

    def of(loss: float | None) -> float | None:
        return None if loss is None else exp(max(loss, 0.0))

    return [
        replace(
            row, value=exp(row.value), low=of(row.low), high=of(row.high), length=round((row.start * row.length) ** 0.5)
        )
        for row in rows
        if row.start is not None and row.start >= least
    ]


def _panel(
    axes: Axes,
    view: View,
    lines: Sequence[tuple[Line, Sequence[Row]]],
    looks: Mapping[str, tuple[str, Any, str]],
    task: Task,
) -> None:
    """One task: a line per method with its interval, named at its end."""
    is_loss = task.metric != "score"
    values = [row.value for _, rows in lines for row in rows]
    lengths = [*(view.bound or ())[:1], *(row.length for _, rows in lines for row in rows)]
    x = Axis.around("tokens", lengths, numbers.short_tokens, base=2, pad=0.03)
    if is_loss:
        top = HEADROOM * min((v for v in values if v > 0), default=1.0)
        y = Axis.around("perplexity", [min(v, top) for v in values], numbers.tick, base=10, pad=0.06)
    else:
        y = Axis("", -0.03, 1.03, numbers.percent)
    axes.set(xscale="log", yscale="log" if is_loss else "linear", xlim=(x.low, x.high), ylim=(y.low, y.high))
    title = {"perplexity": task.title, "nll": "Perplexity by position"}.get(task.metric, f"{task.title} accuracy")
    axes.set_title(title, loc="left", color=TEXT, fontsize=12, pad=18)
    n = max(row.n for _, rows in lines for row in rows)
    axes.set_xlabel(f"tokens; {n} texts" if is_loss else f"tokens; {n} at each length", color=QUIET)
    axes.set_facecolor(PAPER)
    axes.minorticks_off()
    axes.set_xticks(x.ticks(), [x.label(tick) for tick in x.ticks()])
    axes.set_yticks(y.ticks(6), [y.label(tick) for tick in y.ticks(6)])
    axes.tick_params(colors=QUIET, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    if view.bound:
        at, name = view.bound
        axes.axvline(at, color=QUIET, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.annotate(
            name, (at, 1.02), color=QUIET, fontsize=9, ha="center", xycoords=("data", "axes fraction")
        )  # fmt: skip
    for i, (line, rows) in enumerate(lines):
        colour, dashes, marker = looks[line.id]
        # Accuracies tie often: their lines and intervals stand side by side instead of hiding each other.
        apart = 1.0 if is_loss else 1.04 ** (i - (len(lines) - 1) / 2)
        across = [r.length * apart for r in rows]
        up, low, high = (
            [min(value, y.high) if (value := getattr(r.estimate, part)) is not None else math.nan for r in rows]
            for part in ("value", "low", "high")
        )
        joined = dashes if is_loss or len(rows) > 2 else "none"  # what lies between two lengths nobody asked
        axes.plot(across, up, color=colour, ls=joined, marker=marker, markersize=4.5, lw=1.8, clip_on=False)
        if is_loss and len(rows) > 1 and max(row.n for row in rows) < TOLD:
            continue
        if is_loss and len(rows) > 1:
            axes.fill_between(across, low, high, color=colour, alpha=0.1, lw=0)
        else:
            axes.vlines(across, low, high, color=colour, alpha=0.45, lw=1.2, clip_on=False)
    _name(axes, y, [(line, rows[-1].value) for line, rows in lines], looks)


def _name(axes: Axes, y: Axis, ends: Sequence[tuple[Line, float]], looks: Mapping[str, tuple[str, Any, str]]) -> None:
    """Name every line at the right edge, level with its end or as near as there is room."""
    levels = [y.place(value) for _, value in ends]
    for (line, value), level, height in zip(ends, levels, spread(levels, [0.075] * len(levels), 0.0, 1.0), strict=True):
        colour = looks[line.id][0]
        title = textwrap.shorten(line.title, NAMED, placeholder=" …")  # a longer one would leave the lines no room
        name = f"{title} ↑ {numbers.quantity(value)}" if value > y.high else title
        axes.annotate(
            name, (1.0, level), (1.06, height), color=colour, fontweight="bold", va="center",
            xycoords="axes fraction", textcoords="axes fraction", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5)},
        )  # fmt: skip
