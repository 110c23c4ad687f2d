"""A comparison as one picture for a README: perplexity and passkey accuracy by length, plain model and leaders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.report import numbers
from ropewalk.report.comparison import ACCURACY, TASK_TITLES, Comparison, Method, Result
from ropewalk.report.svg import Axis, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PAPER, TEXT, QUIET, GRID = "#fcfcfa", "#1c2024", "#5f666d", "#e6e8ea"
PLAIN_LOOK = (TEXT, (0, (5, 2.5)), "o")
LOOKS = (("#0068ad", "-", "s"), ("#bf4900", "-.", "^"), ("#007a58", (0, (3, 1.5)), "D"))  # colour, dashes, marker
HEADROOM = 20.0  # as on the page: what is worse than this many times the best ends at the upper edge


def picture(comparison: Mapping[str, Any], path: Path) -> None:
    """Draw ``comparison`` into ``path``, whose suffix chooses the format (.png, .svg).

    The background is solid, so that the picture reads the same on a light and on a dark page.

    Raises:
        UserError: The comparison lacks a key that the picture needs.
    """
    import matplotlib
    from matplotlib.figure import Figure

    read = Comparison.read(comparison)
    plain = [] if read.plain is None else [read.plain]
    looks = dict(zip(read.extended, LOOKS, strict=False)) | {method: PLAIN_LOOK for method in plain}
    losses, retrievals = (
        read.tasks("perplexity")[:1],
        sorted(read.tasks(ACCURACY), key=lambda task: task != "passkey")[:1],
    )
    tasks = [*losses, *retrievals]
    if not tasks:
        raise UserError(
            "This comparison has nothing to draw: no perplexity and no accuracy.", "Run it with more --tasks."
        )
    # Text stays text, and the same comparison gives the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ropewalk", "font.size": 10}):
        figure = Figure(figsize=(5.4 * len(tasks), 3.9), facecolor=PAPER, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.15, h_pad=0.12)  # type: ignore[union-attr, call-arg]
        for i, task in enumerate(tasks):
            lines = {
                m: [r for r in read.of(m, task) if r.depth is None and r.estimate.value is not None] for m in looks
            }
            axes = figure.add_subplot(1, len(tasks), i + 1)
            _panel(axes, read, {m: rows for m, rows in lines.items() if rows}, looks, task, is_loss=task in losses)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _panel(
    axes: Axes,
    comparison: Comparison,
    lines: Mapping[Method, Sequence[Result]],
    looks: Mapping[Method, tuple[str, Any, str]],
    task: str,
    is_loss: bool,
) -> None:
    """One task: a line per method with its interval, named at its end."""
    values = [r.estimate.value for rows in lines.values() for r in rows if r.estimate.value is not None]
    lengths = [comparison.window, *(r.length for rows in lines.values() for r in rows)]
    x = Axis.around("tokens", lengths, numbers.short_tokens, base=2, pad=0.03)
    if is_loss:
        top = HEADROOM * min((v for v in values if v > 0), default=1.0)
        y = Axis.around("perplexity", [min(v, top) for v in values], numbers.tick, base=10, pad=0.06)
    else:
        y = Axis("", -0.03, 1.03, numbers.percent)
    axes.set(xscale="log", yscale="log" if is_loss else "linear", xlim=(x.low, x.high), ylim=(y.low, y.high))
    title = TASK_TITLES.get(task, task)
    axes.set_title(title if is_loss else f"{title} accuracy", loc="left", color=TEXT, fontsize=12, pad=18)
    axes.set_xlabel("tokens", color=QUIET)
    axes.set_facecolor(PAPER)
    axes.minorticks_off()
    axes.set_xticks(x.ticks(), [x.label(tick) for tick in x.ticks()])
    axes.set_yticks(y.ticks(6), [y.label(tick) for tick in y.ticks(6)])
    axes.tick_params(colors=QUIET, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(GRID)
    axes.axvline(comparison.window, color=QUIET, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.annotate(
        f"window {numbers.tokens(comparison.window)}", (comparison.window, 1.02), color=QUIET, fontsize=9, ha="center",
        xycoords=("data", "axes fraction"),
    )  # fmt: skip
    for i, (method, rows) in enumerate(lines.items()):
        colour, dashes, marker = looks[method]
        # Accuracies tie often: their lines and intervals stand side by side instead of hiding each other.
        apart = 1.0 if is_loss else 1.04 ** (i - (len(lines) - 1) / 2)
        across = [r.length * apart for r in rows]
        up, low, high = (
            [min(value, y.high) if (value := getattr(r.estimate, part)) is not None else math.nan for r in rows]
            for part in ("value", "low", "high")
        )
        axes.plot(across, up, color=colour, ls=dashes, marker=marker, markersize=4.5, lw=1.8, clip_on=False)
        if is_loss and len(rows) > 1:
            axes.fill_between(across, low, high, color=colour, alpha=0.1, lw=0)
        else:
            axes.vlines(across, low, high, color=colour, alpha=0.45, lw=1.2)
    _name(axes, y, {method: rows[-1].estimate.value or 0.0 for method, rows in lines.items()}, looks)


def _name(axes: Axes, y: Axis, ends: Mapping[Method, float], looks: Mapping[Method, tuple[str, Any, str]]) -> None:
    """Name every line at the right edge, level with its end or as near as there is room."""
    levels = [y.place(value) for value in ends.values()]
    for (method, value), level, height in zip(ends.items(), levels, spread(levels, 0.075, 0.0, 1.0), strict=True):
        colour = looks[method][0]
        name = f"{method.title} ↑ {numbers.quantity(value)}" if value > y.high else method.title
        axes.annotate(
            name, (1.0, level), (1.06, height), color=colour, fontweight="bold", va="center",
            xycoords="axes fraction", textcoords="axes fraction", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5)},
        )  # fmt: skip
