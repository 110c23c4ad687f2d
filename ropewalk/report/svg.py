"""Charts as inline SVG: every colour is a CSS class, every text stays text, and nothing depends on colour alone."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import Any

from markupsafe import Markup, escape

from ropewalk.report.numbers import NOTHING, Estimate, Printer, in_full, percent

CHARACTER = 7.0  # width of an average character at the charts' font size
BOLD = 1.1  # how much wider a bold one is
LINE = 15.0  # height of a line of text in the charts
LINES = 3  # of a name beside a line, at most
SHADED = ("plain", "lead1")  # inks whose intervals are shaded where lines are many: more of them would be mud
MARKERS = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "square": "M-3.5-3.5h7v7h-7z",
    "triangle": "M0-4.6L4.4 3.4h-8.8z",
    "diamond": "M0-5L5 0L0 5L-5 0z",
    "drop": "M0 4.6L4.4-3.4h-8.8z",
    "cross": "M-3.4-3.4L3.4 3.4M-3.4 3.4L3.4-3.4",
    "plus": "M-4 0h8M0-4v8",
    "bar": "M0-4v8",
}
INKS, STRIPE, SMALL = 6, 22.0, 500  # colours and height of stripes; drawings below this width are for a hand
LEAST = 5.0  # pixels of what is to be seen in a stripe
BEYOND = "M0-6L5 3h-10z"  # an arrow head: the value lies above the axis


def element(name: str, *children: Any, **attributes: Any) -> Markup:
    """One SVG element; children and attribute values are escaped, ``class_`` is ``class`` and ``_`` is ``-``."""

    def text(value: Any) -> str:
        return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)

    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(text(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{''.join(escape(child) for child in children)}</{name}>")


@dataclass(frozen=True)
class Axis:
    """A range of values, logarithmic where ``base`` is given, and how its ticks are printed."""

    title: str
    low: float
    high: float
    label: Printer
    base: int | None = None

    @classmethod
    def around(
        cls, title: str, values: Iterable[float], label: Printer, base: int | None = None, pad: float = 0.0
    ) -> Axis:
        """The axis that just holds ``values``, widened by the share ``pad`` on both sides.

        A logarithmic axis ignores what is not positive. A single value gets room around it.
        """
        known = [v for v in values if math.isfinite(v) and (base is None or v > 0)] or [1.0]
        low, high = min(known), max(known)
        if base is None:
            room = (high - low) * pad if high > low else max(abs(high) * 0.1, 0.5)
            return cls(title, low - room, high + room, label)
        room = (high / low) ** pad if high > low else math.sqrt(2)
        return cls(title, low / room, high * room, label, base)

    def place(self, value: float) -> float:
        """Where ``value`` lies between the ends, 0 to 1; what lies outside is put on the nearer end."""
        if value <= self.low:
            return 0.0
        if value >= self.high:
            return 1.0
        if self.base is None:
            return (value - self.low) / (self.high - self.low)
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ticks(self, most: int = 8) -> list[float]:
        """At most ``most`` round values within the range."""
        if self.base == 2:
            powers = [2.0**e for e in range(math.ceil(math.log2(self.low)), math.floor(math.log2(self.high)) + 1)]
            stride = math.ceil(len(powers) / most) or 1
            if powers:
                return powers[::-stride][::-1]
        elif self.base is not None:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            for mantissas in ((1, 2, 5), (1, 3), (1,)):
                ticks = [m * 10.0**e for e in decades for m in mantissas if self.low <= m * 10.0**e <= self.high]
                if 3 <= len(ticks) <= most:
                    return ticks
            if len(ticks) > most:
                return ticks[:: math.ceil(len(ticks) / most)]
        return self._even_ticks(most)

    def _even_ticks(self, most: int) -> list[float]:
        rough = (self.high - self.low) / max(most - 1, 1)
        power = 10.0 ** math.floor(math.log10(rough))
        found: list[float] = []
        for step in (m * 10**more * power for more in range(3) for m in (1, 2, 5)):
            if step < rough * (1 - 1e-9):
                continue
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            ticks = [round(i * step, 12) for i in range(first, last + 1)]
            found = ticks or found
            if len({self.label(tick) for tick in found}) == len(found):
                return found
        return found[:1]  # no labels tell more of them apart


@dataclass(frozen=True)
class Style:
    """How a method looks in every chart: a CSS class that sets its ink, a dash pattern and a marker."""

    ink: str
    dash: str | None
    marker: str

    @property
    def quiet(self) -> bool:
        return self.ink == "muted"


@dataclass(frozen=True)
class Point:
    x: float
    estimate: Estimate
    note: str


@dataclass(frozen=True)
class Series:
    """One method's line; or, not ``joined``, points of many things, which have no name at their end."""

    key: str
    title: str
    style: Style
    points: Sequence[Point]
    joined: bool = True


@dataclass(frozen=True)
class Mark:
    """A reference line at ``value``: vertical on the x axis, where an arrow says that it lies beyond; or horizontal."""

    value: float
    label: str
    horizontal: bool = False


@dataclass(frozen=True)
class Tag:
    """A name for the end of a line, at (``x``, ``y``)."""

    name: str
    ink: str
    quiet: bool
    key: str | None
    x: float
    y: float

    def lines(self, width: float) -> list[str]:
        """The name, broken so that it fits; cut where even ``LINES`` lines are too few."""
        room = int(width / (CHARACTER if self.quiet else BOLD * CHARACTER) + 1e-6)  # what just fits, fits
        return textwrap.wrap(self.name, room, max_lines=LINES, placeholder="…") or [""]


@dataclass(frozen=True)
class Frame:
    """The plot's rectangle and its two axes: from values to pixels."""

    x: Axis
    y: Axis
    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.left + self.width

    @property
    def bottom(self) -> float:
        return self.top + self.height

    def at_x(self, value: float) -> float:
        return self.left + self.x.place(value) * self.width

    def at_y(self, value: float) -> float:
        return self.bottom - self.y.place(value) * self.height


def line_chart(
    series: Sequence[Series],
    x: Axis,
    y: Axis,
    title: str,
    marks: Sequence[Mark] = (),
    whiskers: bool = False,
    width: int = 960,
    height: int = 400,
    beside: bool = False,
) -> Markup:
    """Lines with intervals, each labelled at its end; quiet lines lie below the others and show no interval.

    Horizontal marks are labelled as lines are, beside the plot, where no data can cross their names.
    Values above the y axis sit on its upper edge as arrow heads.

    Args:
        series: one line per method.
        x: the axis below.
        y: the axis at the left.
        title: what a screen reader reads.
        marks: reference lines.
        whiskers: draw intervals as upright bars, with lines a few pixels apart, instead of as bands; for values that
            tie often.
        width: of the drawing, in pixels at its natural size.
        height: of the drawing.
        beside: put names beside the ends of lines, within the plot; for points that lie anywhere.
    """
    drawn = [s for s in series if any(p.estimate.value is not None for p in s.points)]
    narrow = width < 600
    ticks = y.ticks(6 if narrow else 8)
    left = 14 + CHARACTER * max((len(y.label(t)) for t in ticks), default=0)
    level = [mark for mark in marks if mark.horizontal]
    named = [s for s in drawn if s.joined]
    longest = max((len(one) for one in (*(s.title for s in named), *(mark.label for mark in level))), default=0)
    leader = 22 if narrow else 34
    gutter = min(leader + BOLD * CHARACTER * longest, width * (0.36 if narrow else 0.25))
    room, gutter = gutter - leader, 12.0 if beside else gutter
    frame = Frame(x, y, left, 42, width - left - gutter, height - 42 - 46)
    bold = [s for s in drawn if not s.style.quiet]
    step = (4.0 if narrow else 6.0) if whiskers else 0.0
    shifts = {s.key: (i - (len(bold) - 1) / 2) * step for i, s in enumerate(bold)}
    frames = [replace(frame, left=left + shifts.get(s.key, 0.0)) for s in drawn]
    tags = [
        Tag(s.title, s.style.ink, s.style.quiet, s.key, *_pixels(_shown(s)[-1], f))
        for s, f in zip(drawn, frames, strict=True)
        if s.joined
    ] + [Tag(mark.label, "", True, None, frame.right - 7, frame.at_y(mark.value)) for mark in level]
    names = [tag.lines(room) for tag in tags]
    heights = spread([tag.y for tag in tags], [LINE * len(lines) for lines in names], frame.top, frame.bottom)
    shaded = [s for s in bold if whiskers or len(bold) <= len(SHADED) or s.style.ink in SHADED]
    bands = [_intervals(s, f, whiskers) for s, f in zip(drawn, frames, strict=True) if s in shaded]
    lines = [(not s.style.quiet, _line(s, i, f)) for i, (s, f) in enumerate(zip(drawn, frames, strict=True))]
    return element(
        "svg",
        element("title", title),
        _axes(frame, ticks, x.ticks(5 if narrow else 10)),
        *(_mark(mark, frame) for mark in marks),
        *bands,
        *(line for _, line in sorted(lines, key=itemgetter(0))),
        *(_label(*one, frame, 0.0 if beside else leader) for one in zip(tags, names, heights, strict=True)),
        class_="chart narrow" if narrow else "chart wide",
        viewBox=f"0 0 {width} {height}",
        role="img",
    )


def spread(wanted: Sequence[float], sizes: Sequence[float], low: float, high: float) -> list[float]:
    """Middles as near as may be to ``wanted``, in its order, of things that do not overlap, within ``low`` to ``high``.

    Neighbours that are too close form a block around the mean of what they want; sizes shrink where room is short.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    needed = sum((sizes[a] + sizes[b]) / 2 for a, b in pairwise(order))
    shrink = min(1.0, (high - low) / needed) if needed else 1.0

    def steps(members: Sequence[int]) -> list[float]:
        """How far each member of a block lies behind its first."""
        return [0.0, *accumulate(shrink * (sizes[a] + sizes[b]) / 2 for a, b in pairwise(members))]

    blocks: list[tuple[float, list[int]]] = []  # (first position, members)
    for i in order:
        members = [i]
        while True:
            start = sum(wanted[m] - step for m, step in zip(members, steps(members), strict=True)) / len(members)
            start = min(max(start, low), high - steps(members)[-1])
            if not blocks or blocks[-1][0] + steps([*blocks[-1][1], members[0]])[-1] <= start + 1e-9:
                break
            members = blocks.pop()[1] + members
        blocks.append((start, members))
    placed = {m: start + step for start, some in blocks for m, step in zip(some, steps(some), strict=True)}
    return [placed[i] for i in range(len(wanted))]


def heatmap(
    title: str, rows: Sequence[tuple[str, Sequence[Estimate]]], columns: Sequence[str], boundary: int
) -> Markup:
    """A grid of shares, each printed in its cell, with a line before column ``boundary`` (the window)."""
    left, top, w, h = 40.0, 6.0, 42.0, 25.0
    parts: list[Markup] = []
    for i, (name, estimates) in enumerate(rows):
        parts.append(element("text", name, x=left - 8, y=top + (i + 0.5) * h + 4, class_="tick end"))
        parts.extend(_cell(estimate, left + j * w, top + i * h, w, h) for j, estimate in enumerate(estimates))
    bottom, right = top + len(rows) * h, left + len(columns) * w
    for j, name in enumerate(columns):
        parts.append(element("text", name, x=left + (j + 0.5) * w, y=bottom + 16, class_="tick middle"))
    if 0 < boundary < len(columns):
        x = left + boundary * w
        parts.append(element("line", x1=x, x2=x, y1=top - 6, y2=bottom + 4, class_="mark"))
    return _drawing("heat", right + 4, bottom + 24, title, parts)


def _cell(estimate: Estimate, x: float, y: float, w: float, h: float) -> Markup:
    """A share as a shaded cell; the shade leaps at one half, so that the number stands out from either side."""
    value = estimate.value
    share = 0.0 if value is None else min(max(value, 0.0), 1.0)
    strong = share > 0.5
    opacity = 0.5 + 0.5 * share if strong else 0.9 * share
    shade = element("rect", x=x + 1, y=y + 1, width=w - 2, height=h - 2, rx=3, class_="shade", fill_opacity=opacity)
    text = NOTHING if value is None else f"{100 * value:.0f}"
    number = element("text", text, x=x + w / 2, y=y + h / 2 + 4, class_="middle strong" if strong else "middle")
    return element("g", element("title", in_full(estimate, percent)), shade, number, class_="cell")


def interval_bar(estimate: Estimate, axis: Axis, window: float, width: int = 112) -> Markup:
    """A value and its interval on ``axis``, with the window marked where it lies there."""
    frame = Frame(axis, axis, 7, 2, width - 14, 18)
    middle = frame.top + frame.height / 2
    parts = [element("line", x1=frame.left, x2=frame.right, y1=middle, y2=middle, class_="grid")]
    if axis.low <= window <= axis.high:
        x = frame.at_x(window)
        parts.append(element("line", x1=x, x2=x, y1=frame.top, y2=frame.bottom, class_="mark"))
    if estimate.low is not None and estimate.high is not None:
        low, high = frame.at_x(estimate.low), frame.at_x(estimate.high)
        parts.append(element("line", x1=low, x2=high, y1=middle, y2=middle, class_="range"))
    if estimate.value is not None:
        parts.append(
            element(
                "circle",
                cx=frame.at_x(estimate.value),
                cy=middle,
                r=4.5,
                class_="dot" if estimate.value else "dot hollow",
            )
        )
    return _drawing("bar", width, 22, None, parts)


def amount_bar(value: float, limit: float, most: float, width: int = 180) -> Markup:
    """An amount, 0 to ``most``, as a bar that changes its colour and outline where it exceeds the mark at ``limit``."""
    scale = (width - 4) / most
    over = " over" if value > limit else ""
    bar = element("rect", x=2, y=6, width=max(min(value, most) * scale, 1.0), height=10, class_=f"amount{over}")
    mark = element("line", x1=2 + limit * scale, x2=2 + limit * scale, y1=1, y2=21, class_="limit")
    return _drawing("bar", width, 22, None, [bar, mark])


@dataclass(frozen=True)
class Span:
    """A part of a stripe.

    Attributes:
        size: in the stripe's unit.
        ink: number of its colour, from 0 on; None where it is of no kind.
        title: said at a touch.
        seen: whether it is drawn where its size would be a hair, over what stands before it.
    """

    size: int
    ink: int | None
    title: str
    seen: bool = False


def stripes(rows: Sequence[tuple[str, Sequence[Span]]], length: int, title: str, width: int) -> Markup:
    """A stripe for each row, made of spans, over one scale from 0 to ``length``."""
    left = max(CHARACTER * max((len(name) for name, _ in rows), default=0) + 10, 24)
    scale, y = (width - left - 8) / length, 6.0
    parts: list[Markup] = []
    for name, spans in rows:
        parts.append(element("text", name, x=left - 8, y=y + STRIPE - 7, text_anchor="end"))
        drawn, before = [], float(width)
        for end, span in reversed([*zip(accumulate(one.size for one in spans), spans, strict=True)]):
            ink = "none" if span.ink is None else f"ink{span.ink % INKS}"
            x, wide = left + (end - span.size) * scale, max(span.size * scale, LEAST if span.seen else 0.5)
            if span.seen:
                x = before = max(min(left + end * scale, before) - wide, left)
            drawn.append((span.seen, element(
                "rect", element("title", span.title), x=x, y=y, width=wide, height=STRIPE, class_=f"span {ink}",
            )))  # fmt: skip
        parts += [one for _, one in sorted(reversed(drawn), key=lambda one: one[0])]
        y += STRIPE + 10
    ticks = 5 if width > SMALL else 3
    for i in range(ticks):
        tick = round(length * i / (ticks - 1))
        anchor = ("start", *["middle"] * (ticks - 2), "end")[i]
        parts.append(element("text", f"{tick:,}", x=left + tick * scale, y=y + 8, text_anchor=anchor))
    return _drawing(f"chart {'wide' if width > SMALL else 'narrow'}", width, y + 16, title, parts)


def swatch(style: Style) -> Markup:
    """A short piece of a method's line: the key to the charts."""
    line = element("line", x1=1, x2=35, y1=7, y2=7, class_="line", stroke_dasharray=style.dash)
    marker = element("path", d=MARKERS[style.marker], transform="translate(18 7)", class_="marker")
    return _drawing(f"swatch {style.ink}", 36, 14, None, [line, marker])


def _drawing(kind: str, width: float, height: float, title: str | None, parts: Iterable[Markup]) -> Markup:
    """An ``svg`` of a fixed size; without a title it is decoration that a screen reader skips."""
    size = {"viewBox": f"0 0 {width:g} {height:g}", "width": width, "height": height}
    if title is None:
        return element("svg", *parts, class_=kind, aria_hidden="true", **size)
    return element("svg", element("title", title), *parts, class_=kind, role="img", **size)


def _axes(frame: Frame, y_ticks: Sequence[float], x_ticks: Sequence[float]) -> Markup:
    parts = [element("text", frame.y.title, x=0, y=12, class_="axis")]
    for tick in y_ticks:
        y = frame.at_y(tick)
        parts.append(element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="grid"))
        parts.append(element("text", frame.y.label(tick), x=frame.left - 8, y=y + 4, class_="tick end"))
    for tick in x_ticks:
        x = frame.at_x(tick)
        parts.append(element("line", x1=x, x2=x, y1=frame.bottom, y2=frame.bottom + 5, class_="rule"))
        parts.append(element("text", frame.x.label(tick), x=x, y=frame.bottom + 19, class_="tick middle"))
    parts.append(element("line", x1=frame.left, x2=frame.right, y1=frame.bottom, y2=frame.bottom, class_="rule"))
    centre = frame.left + frame.width / 2
    parts.append(element("text", frame.x.title, x=centre, y=frame.bottom + 39, class_="axis middle"))
    return element("g", *parts)


def _mark(mark: Mark, frame: Frame) -> Markup:
    if mark.horizontal:
        y = frame.at_y(mark.value)
        return element("line", x1=frame.left, x2=frame.right, y1=y, y2=y, class_="mark")
    x, place = frame.at_x(mark.value), frame.x.place(mark.value)
    side = "note end" if place > 0.7 else "note" if place < 0.2 else "note middle"
    if frame.x.low <= mark.value <= frame.x.high:
        line, said = [element("line", x1=x, x2=x, y1=frame.top - 6, y2=frame.bottom, class_="mark")], mark.label
    else:
        line, said = [], f"{mark.label} \N{RIGHTWARDS ARROW}" if place else f"\N{LEFTWARDS ARROW} {mark.label}"
    return element("g", *line, element("text", said, x=x, y=frame.top - 11, class_=side))


def _shown(series: Series) -> list[Point]:
    return [p for p in series.points if p.estimate.value is not None]


def _pixels(point: Point, frame: Frame) -> tuple[float, float]:
    return frame.at_x(point.x), frame.at_y(point.estimate.value or 0.0)


def _is_beyond(point: Point, frame: Frame) -> bool:
    return point.estimate.value is not None and point.estimate.value > frame.y.high


def _intervals(series: Series, frame: Frame, whiskers: bool) -> Markup:
    """The intervals around a line: a band, or upright bars where asked for or where there is one point only."""
    bounds = [
        (frame.at_x(p.x), frame.at_y(p.estimate.low), frame.at_y(p.estimate.high))
        for p in series.points
        if p.estimate.low is not None and p.estimate.high is not None
    ]
    if whiskers or len(bounds) < 2:
        shapes = [element("line", x1=x, x2=x, y1=low, y2=high, class_="whisker") for x, low, high in bounds]
    else:
        outline = [(x, high) for x, _, high in bounds] + [(x, low) for x, low, _ in reversed(bounds)]
        shapes = [element("path", d=f"{_path(outline)}Z", class_="band")]
    return element("g", *shapes, class_=series.style.ink, data_method=series.key)


def _line(series: Series, order: int, frame: Frame) -> Markup:
    """A line and its markers; where points are many, markers are few and staggered by ``order``."""
    points = _shown(series)
    if not series.joined:
        return element("g", *(_marker(series, p, frame, 0.6) for p in points), class_=f"{series.style.ink} cloud")
    steps = ["M{:.1f} {:.1f}".format(*_pixels(points[0], frame))]
    for before, after in pairwise(points):
        both_beyond = _is_beyond(before, frame) and _is_beyond(after, frame)
        steps.append(("M" if both_beyond else "L") + "{:.1f} {:.1f}".format(*_pixels(after, frame)))
    stride = math.ceil(len(points) / 24) * (1 if len(points) <= 24 else 3)
    markers = [_marker(series, point, frame) for point in points[order % stride :: stride]]
    line = element("path", d="".join(steps), class_="line", stroke_dasharray=series.style.dash)
    return element("g", line, *markers, class_=series.style.ink, data_method=series.key)


def _marker(series: Series, point: Point, frame: Frame, size: float = 1.0) -> Markup:
    place = "translate({:.1f} {:.1f})".format(*_pixels(point, frame))
    return element(
        "path",
        element("title", f"{series.title}: {point.note}"),
        d=BEYOND if _is_beyond(point, frame) else MARKERS[series.style.marker],
        transform=place if size == 1 else f"{place} scale({size:g})",
        class_="marker",
    )


def _label(tag: Tag, lines: Sequence[str], y: float, frame: Frame, leader: float) -> Markup:
    """The name of a line, in the gutter and joined to its end by a hairline; without a ``leader`` beside its end."""
    top = y + 4 - LINE * (len(lines) - 1) / 2
    if leader:
        x, start = frame.right + leader, tag.x + 7
        hairline, side = [(start, tag.y), (max(start, frame.right + 8), tag.y), (x - 4, y)], "label"
    else:
        sign, side = (-1, "label end") if tag.x > frame.left + 0.6 * frame.width else (1, "label")
        x = tag.x + 14 * sign
        hairline = [(tag.x + 6 * sign, tag.y), (x - 2 * sign, y)] if abs(y - tag.y) > 6 else []
    return element(
        "g",
        element("title", tag.name),
        *([element("path", d=_path(hairline), class_="leader")] if hairline else []),
        *(element("text", line, x=x, y=top + LINE * i, class_=side) for i, line in enumerate(lines)),
        class_=tag.ink or "quiet",
        data_method=tag.key,
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
