"""The drawing parts: axes and their ticks, labels that keep apart, and well-formed SVG."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.report import numbers, svg
from ropewalk.report.numbers import Estimate


def axis(low: float, high: float, base: int | None = None) -> svg.Axis:
    return svg.Axis("", low, high, numbers.tick, base)


@pytest.mark.parametrize(
    ("low", "high", "base", "most", "ticks"),
    [
        (60, 4200, 2, 8, [64, 128, 256, 512, 1024, 2048, 4096]),
        (60, 4200, 2, 4, [64, 256, 1024, 4096]),
        (64, 2**20, 2, 5, [256, 2048, 16384, 131072, 1048576]),
        (9, 260, 10, 8, [10, 20, 50, 100, 200]),
        (6, 400_000, 10, 8, [10, 100, 1000, 10_000, 100_000]),
        (11, 16, 10, 8, [11, 12, 13, 14, 15, 16]),
        (0, 1, None, 8, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (2.1, 5.3, None, 8, [2.5, 3, 3.5, 4, 4.5, 5]),
    ],
)
def test_ticks_are_round(low: float, high: float, base: int | None, most: int, ticks: list[float]) -> None:
    assert axis(low, high, base).ticks(most) == pytest.approx(ticks)


@pytest.mark.parametrize(
    ("low", "high", "label", "ticks"),
    [
        (1, 5, "{:,.0f}", [1, 2, 3, 4, 5]),
        (0.9, 3.1, "{:,.0f}", [1, 2, 3]),
        (15.58, 16.02, "{:.3g}", [15.6, 15.7, 15.8, 15.9, 16.0]),
        (100.2, 100.4, "{:.0f}", [100.2]),  # no label tells more of them apart
    ],
)
def test_ticks_are_no_nearer_than_labels_tell(low: float, high: float, label: str, ticks: list[float]) -> None:
    found = svg.Axis("", low, high, lambda value: label.format(value)).ticks(9)
    assert found == pytest.approx(ticks)


@given(st.floats(1e-3, 1e8), st.floats(1.001, 1e8), st.sampled_from([None, 2, 10]), st.integers(3, 10))
def test_ticks_lie_within_the_axis_and_are_few(low: float, ratio: float, base: int | None, most: int) -> None:
    ticks = axis(low, low * ratio, base).ticks(most)
    assert len(ticks) <= most
    assert all(low * (1 - 1e-6) <= tick <= low * ratio * (1 + 1e-6) for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_a_logarithmic_axis_places_by_ratio() -> None:
    places = [axis(64, 4096, 2).place(value) for value in (1, 64, 512, 4096, math.inf)]
    assert places == pytest.approx([0, 0, 0.5, 1, 1])


@pytest.mark.parametrize("values", [[], [7.0], [7.0, math.inf], [0.0, 7.0], [7.0, 7.0]])
def test_an_axis_has_room_around_a_single_value(values: list[float]) -> None:
    built = svg.Axis.around("", values, numbers.tick, base=10)
    assert 0 < built.low < built.high < math.inf


@given(st.lists(st.tuples(st.floats(-50, 450), st.floats(1, 40)), max_size=30))
def test_spread_labels_keep_their_order_and_do_not_overlap(labels: list[tuple[float, float]]) -> None:
    wanted, sizes = [y for y, _ in labels], [size for _, size in labels]
    placed = svg.spread(wanted, sizes, 0, 400)
    assert all(-1e-6 <= y <= 400 + 1e-6 for y in placed)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [(sizes[a] + sizes[b]) / 2 for a, b in pairwise(order)]
    shrink = min(1.0, 400 / sum(gaps)) if gaps else 1.0
    assert all(placed[b] - placed[a] >= gap * shrink - 1e-6 for (a, b), gap in zip(pairwise(order), gaps, strict=True))


def test_labels_with_room_stay_where_they_want_to_be() -> None:
    assert svg.spread([300, 100, 200], [15, 30, 15], 0, 400) == [300, 100, 200]
    assert svg.spread([100, 100], [20, 20], 0, 400) == [90, 110]
    assert svg.spread([100, 100], [20, 40], 0, 400) == [85, 115]


def test_elements_escape_what_they_are_given() -> None:
    written = svg.element("text", "<script>", class_='"x"', data_method="a&b", x=1.50)
    assert written == '<text class="&#34;x&#34;" data-method="a&amp;b" x="1.5">&lt;script&gt;</text>'


def series(values: list[float | None]) -> svg.Series:
    points = [
        svg.Point(2.0 ** (6 + i), Estimate(v, v and v * 0.9, v and v * 1.1), f"note {v}") for i, v in enumerate(values)
    ]
    return svg.Series("m", "A <method>", svg.Style("lead1", None, "square"), points)


def draw(*lines: svg.Series, whiskers: bool = False, width: int = 960) -> ElementTree.Element:
    x, y = axis(60, 4200, 2), axis(5, 100, 10)
    marks = [svg.Mark(512, "window"), svg.Mark(50, "level", horizontal=True)]
    return ElementTree.fromstring(svg.line_chart(lines, x, y, "Title & more", marks, whiskers, width))


def by_class(root: ElementTree.Element, name: str) -> list[ElementTree.Element]:
    return [e for e in root.iter() if name in (e.get("class") or "").split()]


@pytest.mark.parametrize("width", [960, 380])
def test_a_chart_is_well_formed_and_labels_its_lines(width: int) -> None:
    root = draw(series([10, 20, 30]), width=width)
    assert root.findtext("title") == "Title & more"
    assert [label.text for label in by_class(root, "label")] == ["A <method>", "level"]
    assert len(by_class(root, "marker")) == 3
    assert len(by_class(root, "band")) == 1
    assert "note 20" in "".join(root.itertext())


def test_points_of_many_things_are_all_drawn_without_a_line_or_a_name() -> None:
    root = draw(replace(series([10.0] * 60), joined=False), replace(series([10, 20]), title="found"))
    (cloud,) = by_class(root, "cloud")
    assert len(by_class(cloud, "marker")) == 60 and not by_class(cloud, "line")
    assert [label.text for label in by_class(root, "label")] == ["found", "level"]


@pytest.mark.parametrize("name", ["found", "front", "best", "a", "windows!!"])
def test_a_name_for_which_the_gutter_was_made_stays_in_one_line(name: str) -> None:
    line = svg.line_chart([replace(series([10, 20]), title=name)], axis(60, 4200, 2), axis(5, 100, 10), "")
    assert [label.text for label in by_class(ElementTree.fromstring(line), "label")] == [name]


@pytest.mark.parametrize("width", [1000, 380])
def test_names_lie_outside_of_the_plot_and_none_is_cut(width: int) -> None:
    line = replace(series([10, 20, 30]), title="Needle in a haystack of many words")
    root = draw(line, width=width)
    labels = by_class(root, "label")
    assert " ".join(label.text or "" for label in labels[:-1]) == line.title and labels[-1].text == "level"
    edge = max(float(rule.get("x2") or 0) for rule in by_class(root, "grid"))
    for label in labels:
        assert edge < float(label.get("x") or 0)
        assert float(label.get("x") or 0) + svg.CHARACTER * len(label.text or "") <= width
    heights = sorted(float(label.get("y") or 0) for label in labels)
    assert all(b - a >= svg.LINE - 0.1 for a, b in pairwise(heights))


@pytest.mark.parametrize(("window", "said"), [(8192, "window →"), (16, "← window"), (512, "window")])
def test_a_mark_beyond_the_axis_is_an_arrow_at_its_edge(window: int, said: str) -> None:
    chart = svg.line_chart([series([10, 20])], axis(60, 4200, 2), axis(5, 100, 10), "", [svg.Mark(window, "window")])
    root = ElementTree.fromstring(chart)
    assert [note.text for note in by_class(root, "note")] == [said]
    assert len(by_class(root, "mark")) == (said == "window")


def test_values_beyond_the_axis_are_arrow_heads_on_its_edge_and_no_line_joins_them() -> None:
    root = draw(series([10, 1e6, math.inf]))
    shapes = [marker.get("d") for marker in by_class(root, "marker")]
    assert shapes == [svg.MARKERS["square"], svg.BEYOND, svg.BEYOND]
    (line,) = by_class(root, "line")
    assert (line.get("d") or "").count("L") == 1


def test_gaps_and_empty_series_are_left_out() -> None:
    root = draw(series([10, None, 30]), series([None, None]))
    assert len(by_class(root, "marker")) == 2
    assert [label.text for label in by_class(root, "label")] == ["A <method>", "level"]
    assert [label.text for label in by_class(draw(), "label")] == ["level"]


def test_intervals_are_whiskers_where_asked_for_or_where_a_point_is_alone() -> None:
    assert len(by_class(draw(series([10, 20]), whiskers=True), "whisker")) == 2
    assert len(by_class(draw(series([10])), "whisker")) == 1


def test_a_heatmap_prints_every_cell() -> None:
    rows = [("0%", [Estimate(1.0, n=4), Estimate(0.25)]), ("100%", [Estimate(0.5), Estimate()])]
    root = ElementTree.fromstring(svg.heatmap("Grid", rows, ["512", "1k"], boundary=1))
    cells = by_class(root, "cell")
    assert [cell.findtext("text") for cell in cells] == ["100", "25", "50", "–"]
    assert len(by_class(root, "mark")) == 1


@pytest.mark.parametrize("width", [400, 1000])
def test_what_is_to_be_seen_in_a_stripe_is_no_sliver_and_hides_nothing_that_is_too(width: int) -> None:
    spans = [svg.Span(size, ink, title, seen) for size, ink, title, seen in (
        (10_000, 4, "pale", False), (128, 1, "evidence", True), (22_000, 4, "more", False),
        (600, None, "question", True), (16, 0, "answer", True), (1, 0, "end", True))]  # fmt: skip
    drawing = ElementTree.fromstring(str(svg.stripes([("0", spans)], 32_768, "rows", width)))
    at = {
        one[0].text: (float(one.get("x")), float(one.get("width")))
        for one in drawing.iter()
        if one.tag.endswith("rect")
    }
    end = at["end"][0] + at["end"][1]
    for name in ("evidence", "question", "answer", "end"):
        assert at[name][1] >= 4.9, "it is seen"
    assert list(at)[:2] == ["pale", "more"], "what is to be seen is drawn over the rest"
    for one, other in pairwise(["question", "answer", "end"]):
        assert at[one][0] + at[one][1] <= at[other][0] + 0.1
    assert at["evidence"][0] + at["evidence"][1] < at["question"][0] and end <= width - 7
