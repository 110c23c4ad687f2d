"""The page: complete, self-contained, well-formed, the same every time, and safe against what it is given."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ropewalk.common.errors import UserError
from ropewalk.report import experiment_page, numbers
from ropewalk.report.schema import Results
from tests.report.conftest import spectrum

Keep = Callable[..., dict[str, Any]]
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Outline(HTMLParser):
    """Checks that tags nest, and collects tags, links and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def rendered(raw: dict[str, Any]) -> str:
    return experiment_page.render(Results.of(raw))


def drawings(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_the_page_is_well_formed_and_loads_nothing(raw: dict[str, Any]) -> None:
    text = rendered(raw)
    outline = Outline(text)
    assert text.startswith("<!doctype html>")
    assert all(re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}|#[a-z0-9-]+", link) for link in outline.links)
    assert {"link", "img", "iframe", "object", "base"}.isdisjoint(outline.tags)
    assert "url(" not in text and "@import" not in text
    assert drawings(text)


def test_every_method_and_every_number_is_there(raw: dict[str, Any]) -> None:
    text = Outline(rendered(raw)).text
    printers = {"ppl": numbers.quantity, "position": numbers.quantity}
    for row in raw["rows"]:
        assert printers.get(row["task"], numbers.percent)(row["value"]) in text
    for subject in raw["subjects"]:
        assert subject["title"] in text and subject["exportable"] in text
        for key in ("value", "high"):
            assert numbers.tokens(subject["effective_length"][key]) in text
        for change in subject.get("short_tax", ()):
            assert numbers.tax(change["value"]) in text
    said = (raw["command"], "the question alone takes 71 tokens", "threshold of 85%", "parameters 5475584", "2.11.0")
    assert all(value in text for value in said)


def test_what_is_not_causal_is_said_beside_its_name_and_where_it_has_no_number(raw: dict[str, Any]) -> None:
    dca = next(subject for subject in raw["subjects"] if subject["method"] == "dca")
    dca["causal"] = False
    del dca["perplexity_at_to"], dca["short_tax"]
    raw["rows"] = [r for r in raw["rows"] if r["method"] != "dca" or r["task"] not in ("ppl", "position")]
    raw["not_measured"].append({"model": "demo", "method": "dca", "task": "ppl", "reason": "it sees the future"})
    text = Outline(rendered(raw)).text
    assert "Dual Chunk Attention: not causal, so losses are not measured" in text
    assert text.count("Not measured: Dual Chunk Attention (it sees the future).") == 2, "loss by length, by position"
    assert "Perplexity Dual Chunk Attention all it sees the future" in text


def test_one_subject_has_its_tasks_in_a_table_and_in_one_chart(keep: Keep) -> None:
    data = keep(methods=["yarn"])
    data["subjects"][0]["tasks"] = [
        {"task": name, "controls": {"ceiling": {"value": 0.93}}, "effective_length": {"value": 2048}}
        for name in ("passkey", "niah")
    ]
    text = rendered(data)
    words = Outline(text).text
    assert "Scores by length" in words and "Ceiling" in words and "93%" in words and "demo with YaRN" in words
    charts = [d for d in drawings(text) if d.get("class") == "chart wide"]
    assert {e.get("data-method") for e in charts[0].iter()} >= {"passkey", "niah", "average"}


def test_a_benchmark_has_its_table(keep: Keep) -> None:
    data = keep(methods=["none", "yarn"], tasks=["ppl"])
    data["tables"] = [
        {"model": "demo", "method": m, "benchmark": "longbench", "length": 4096, "points": {"hotpotqa": points}}
        for m, points in (("none", 12.34), ("yarn", 45.67))
    ]
    text = Outline(rendered(data)).text
    assert "Plain model, 4,096 tokens" in text and "hotpotqa 12.3 45.7" in text


def test_several_models_are_told_apart(keep: Keep) -> None:
    data = keep(methods=["none"], tasks=["ppl"])
    data["models"].append(data["models"][0] | {"name": "other", "window": 1024})
    data["subjects"].append(data["subjects"][0] | {"model": "other"})
    data["rows"] += [row | {"model": "other"} for row in data["rows"]]
    text = Outline(rendered(data)).text
    assert "demo: Plain model" in text and "other: Plain model" in text and "window 1,024" in text


def test_heatmaps_have_a_cell_per_depth_and_length(raw: dict[str, Any]) -> None:
    grids = [d for d in drawings(rendered(raw)) if d.get("class") == "heat"]
    assert len(grids) == 12
    for grid in grids:
        assert sum(e.get("class") == "cell" for e in grid.iter()) == 5 * 6


def test_only_the_best_are_drawn_in_colour(raw: dict[str, Any]) -> None:
    chart = next(d for d in drawings(rendered(raw)) if d.get("class") == "chart wide")
    styles = {e.get("data-method"): e.get("class") for e in chart.iter() if e.get("data-method")}
    assert len(styles) == 12
    assert (styles["demo none"], styles["demo yarn"], styles["demo longrope"]) == ("plain", "lead1", "lead2")
    assert sum(style == "muted" for style in styles.values()) == 7


def test_k_max_groups_methods_with_the_same_length(raw: dict[str, Any]) -> None:
    for subject in raw["subjects"]:
        subject["k_max"] = {"value": 4096 if subject["method"] == "yarn" else 512}
    assert "(k_max): 4,096 for YaRN; 512 for Plain model" in rendered(raw)


def test_the_page_is_the_same_every_time(raw: dict[str, Any]) -> None:
    assert rendered(raw) == rendered(raw)


@pytest.mark.parametrize(
    "cut",
    [
        {"methods": ["none"]},
        {"methods": ["yarn"]},
        {"lengths": [512]},
        {"tasks": ["ppl"]},
        {"tasks": ["niah"]},
        {"tasks": ["nothing"]},
        {"methods": ["none"], "tasks": ["passkey"], "lengths": [4096]},
    ],
)
def test_less_still_makes_a_page(keep: Keep, cut: dict[str, Any]) -> None:
    data = keep(**cut)
    known = ("model", "method", "title")
    data["subjects"] = [{key: subject[key] for key in known} for subject in data["subjects"]]
    text = rendered(data)
    Outline(text)
    drawings(text)


@pytest.mark.parametrize("value", [1e300, 1e30, 0.0])
def test_odd_perplexities_do_not_break_the_charts(raw: dict[str, Any], value: float) -> None:
    for row in raw["rows"]:
        if row["method"] in ("none", "pi") and row["task"] in ("ppl", "position"):
            row.update(value=value, low=value, high=value)
    text = rendered(raw)
    assert "nan" not in re.findall(r'(?:d|x|y|x1|y1|transform|points)="[^"]*"', text)
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', text)
    Outline(text)


def test_each_layer_type_has_its_own_wavelengths(raw: dict[str, Any]) -> None:
    for subject in raw["subjects"]:
        if "rope" in subject:
            full = spectrum(subject["method"], base=1_000_000.0)
            subject["rope"] = {"sliding_attention": spectrum("none", window=1024), "full_attention": full}
    text = Outline(rendered(raw)).text
    assert "sliding attention" in text and "full attention" in text
    assert "window 1,024" in text and "window 512" in text


def test_what_comes_from_outside_cannot_inject(raw: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    raw["models"][0]["facts"]["type"] = evil
    raw |= {"command": evil, "versions": {evil: evil}}
    raw["not_measured"] = [{"model": "demo", "task": evil, "length": 8, "reason": evil}]
    yarn = raw["subjects"][5]
    yarn |= {"title": evil, "paper": "javascript:alert(3)", "note": evil, "exportable": evil}
    yarn["config_diff"] = f"--- a\n+++ b\n@@ -1 +1 @@\n+{evil}"
    yarn["rope"][evil] = spectrum("yarn")
    raw["tasks"][3] |= {"id": evil, "title": evil}
    for row in raw["rows"]:
        row["task"] = {"niah": evil}.get(row["task"], row["task"])
    outline = Outline(rendered(raw))
    assert outline.tags.count("script") == 1
    assert "img" not in outline.tags
    assert all(link.startswith(("https://arxiv.org/abs/", "#")) for link in outline.links)
    assert evil in outline.text


def test_a_diff_is_shown_by_line_and_a_refusal_as_a_sentence(raw: dict[str, Any]) -> None:
    text = rendered(raw)
    assert '<span class="added">+    &#34;rope_type&#34;: &#34;yarn&#34;,</span>' in text
    assert "<p>Positions are remapped at run time; no engine reads this from a config.</p>" in text


def test_writing_replaces_the_page_at_once(raw: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    experiment_page.write(Results.of(raw), path)
    assert path.read_text("utf-8") == rendered(raw)
    assert os.listdir(path.parent) == ["report.html"]


def test_a_failed_write_leaves_the_old_page(
    raw: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="disk full"):
        experiment_page.write(Results.of(raw), path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.parametrize("task", ["position", "ppl"])
def test_intervals_of_few_documents_leave_the_axis_to_the_values(keep: Keep, task: str) -> None:
    data = keep(methods=["yarn"], tasks=[task])
    for row in data["rows"]:
        row |= {"low": row["value"] - 40, "high": row["value"] + 40, "n": 2}
    text = experiment_page.render(Results.of(data))
    assert "reach beyond the axis are cut there" in text and "Arrow heads" not in text
    chart = text[text.index('<svg class="chart wide"') :].split("</svg>")[0]
    heights = [float(y) for y in re.findall(r"translate\([\d.]+ ([\d.]+)\)", chart)]
    assert max(heights) - min(heights) > 80, "the line lies flat between its intervals"


def test_no_effective_length_is_shown_as_a_bound_in_every_table(keep: Keep) -> None:
    nothing = {"value": 0, "low": 0, "high": 0}
    data = keep(methods=["none", "yarn"])
    data["subjects"][1]["effective_length"] = nothing
    for subject in data["subjects"]:
        subject["tasks"] = [{"task": "niah", "effective_length": nothing}]
        subject["k_max"] = {"value": 0}
    text = rendered(data)
    assert "(k_max): &lt;64 for Plain model, YaRN" in text
    assert Outline(text).text.count("<128") == 4, "YaRN’s average in the table and above it, and the needles of both"
    assert text.count('class="dot hollow"') == 1 and text.count('class="dot"') == 1


def test_one_length_is_a_table_and_no_chart(keep: Keep) -> None:
    text = rendered(keep(methods=["none", "yarn"], tasks=["passkey"], lengths=[4096]))
    assert "Passkey" not in [d.findtext("title") for d in drawings(text) if d.get("class") == "chart wide"]
    section = text[text.index("<h2>Passkey</h2>") :].partition("</section>")[0]
    assert "<table" in section and "<details>" not in section


def test_a_chart_ends_where_the_tests_end_and_the_window_is_an_arrow(keep: Keep) -> None:
    data = keep(methods=["none", "yarn"], tasks=["passkey"], lengths=[512, 1024])
    data["models"][0]["window"] = 8192
    charts = [d for d in drawings(rendered(data)) if d.get("class") == "chart wide"]
    (chart,) = [d for d in charts if d.findtext("title") == "Passkey"]
    texts = ["".join(e.itertext()) for e in chart.iter() if e.tag.endswith("text")]
    assert "window 8,192 →" in texts and "1k" in texts and "8k" not in texts
