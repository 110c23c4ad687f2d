"""The page: complete, self-contained, well-formed, the same every time, and safe against what it is given."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from ropewalk.common.errors import UserError
from ropewalk.report import numbers, page
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


def drawings(text: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(found) for found in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


def test_the_page_is_well_formed_and_loads_nothing(comparison: dict[str, Any]) -> None:
    text = page.render(comparison)
    outline = Outline(text)
    assert text.startswith("<!doctype html>")
    assert all(re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", link) for link in outline.links)
    assert {"link", "img", "iframe", "object", "base"}.isdisjoint(outline.tags)
    assert "url(" not in text and "@import" not in text
    assert drawings(text)


def test_every_method_and_every_number_is_there(comparison: dict[str, Any]) -> None:
    text = Outline(page.render(comparison)).text
    for method in comparison["methods"]:
        assert method["title"] in text
        assert method["exportable"] in text
    printers = {"perplexity": numbers.quantity, "nll": numbers.quantity, "accuracy": numbers.percent}
    for row in comparison["results"]:
        assert printers[row["metric"]](row["value"]) in text
    for row in comparison["summary"]:
        for key, printer in (
            ("effective_length", numbers.tokens),
            ("high", numbers.tokens),
            ("short_tax", numbers.tax),
        ):
            assert printer(row[key]) in text
    for value in (
        comparison["command"],
        "the question alone takes 71 tokens",
        "threshold of 85%",
        "5,475,584",
        "2.11.0",
    ):
        assert value in text


def test_heatmaps_have_a_cell_per_depth_and_length(comparison: dict[str, Any]) -> None:
    grids = [d for d in drawings(page.render(comparison)) if d.get("class") == "heat"]
    assert len(grids) == 12
    for grid in grids:
        assert sum(e.get("class") == "cell" for e in grid.iter()) == 5 * 6


def test_only_the_best_are_drawn_in_colour(comparison: dict[str, Any]) -> None:
    chart = next(d for d in drawings(page.render(comparison)) if d.get("class") == "chart wide")
    styles = {e.get("data-method"): e.get("class") for e in chart.iter() if e.get("data-method")}
    assert len(styles) == 12
    assert (styles["none"], styles["yarn"], styles["longrope"]) == ("plain", "lead1", "lead2")
    assert sum(style == "muted" for style in styles.values()) == 7


def test_k_max_groups_methods_with_the_same_length(comparison: dict[str, Any]) -> None:
    for row in comparison["summary"]:
        row["k_max"] = {"value": 4096 if row["method"] == "yarn" else 512, "low": None, "high": None}
    assert "(k_max): 4,096 for YaRN; 512 for Plain model" in page.render(comparison)


def test_the_page_is_the_same_every_time(comparison: dict[str, Any]) -> None:
    assert page.render(comparison) == page.render(comparison)


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
    data["summary"] = [{key: value if key == "method" else None for key, value in s.items()} for s in data["summary"]]
    text = page.render(data)
    Outline(text)
    drawings(text)


def test_only_the_needed_keys_make_a_page(comparison: dict[str, Any]) -> None:
    needed = {key: comparison[key] for key in ("to", "results", "summary")}
    needed["model"] = {"name": "demo", "window": 512}
    needed["methods"] = [{"id": m["id"], "title": m["title"]} for m in comparison["methods"]]
    Outline(page.render(needed))


@pytest.mark.parametrize("value", [math.inf, math.nan, None, 1e30, 0.0])
def test_odd_perplexities_do_not_break_the_charts(comparison: dict[str, Any], value: float | None) -> None:
    for row in comparison["results"]:
        if row["method"] in ("none", "pi") and row["metric"] in ("perplexity", "nll"):
            row.update(value=value, low=value, high=value)
    text = page.render(comparison)
    assert "nan" not in re.findall(r'(?:d|x|y|x1|y1|transform|points)="[^"]*"', text)
    assert not re.search(r'="[^"]*\b(nan|inf)\b[^"]*"', text)
    Outline(text)


def test_each_layer_type_has_its_own_wavelengths(comparison: dict[str, Any]) -> None:
    for key, layers in comparison["rope"].items():
        if layers is not None:
            layers["sliding_attention"] = spectrum("none", window=1024)
            layers["full_attention"] = spectrum(key, base=1_000_000.0)
    text = Outline(page.render(comparison)).text
    assert "sliding attention" in text and "full attention" in text
    assert "window 1,024" in text and "window 512" in text


def test_what_comes_from_outside_cannot_inject(comparison: dict[str, Any]) -> None:
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
    comparison["model"] |= {"name": evil, "architecture": evil}
    comparison |= {"command": evil, "versions": {evil: evil}, "skipped": [{"task": evil, "length": 8, "reason": evil}]}
    comparison["methods"][5] |= {"title": evil, "paper": "javascript:alert(3)", "note": evil, "exportable": evil}
    comparison["config_diff"]["yarn"] = f"--- a\n+++ b\n@@ -1 +1 @@\n+{evil}"
    comparison["rope"]["yarn"][evil] = spectrum("yarn")
    for row in comparison["results"]:
        row["task"] = {"niah": evil}.get(row["task"], row["task"])
    outline = Outline(page.render(comparison))
    assert outline.tags.count("script") == 1
    assert "img" not in outline.tags
    assert all(link.startswith("https://arxiv.org/abs/") for link in outline.links)
    assert evil in outline.text


def test_a_diff_is_shown_by_line_and_a_refusal_as_a_sentence(comparison: dict[str, Any]) -> None:
    text = page.render(comparison)
    assert '<span class="added">+    &#34;rope_type&#34;: &#34;yarn&#34;,</span>' in text
    assert "<p>Positions are remapped at run time; no engine reads this from a config.</p>" in text


def test_writing_replaces_the_page_at_once(comparison: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    page.write(comparison, path)
    assert path.read_text("utf-8") == page.render(comparison)
    assert os.listdir(path.parent) == ["report.html"]


def test_a_failed_write_leaves_the_old_page(
    comparison: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="disk full"):
        page.write(comparison, path)
    monkeypatch.undo()
    del comparison["to"]
    with pytest.raises(UserError):
        page.write(comparison, path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]
