"""The terminal table and the picture for a README."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from ropewalk.common.errors import UserError
from ropewalk.report.picture import picture
from ropewalk.report.table import summary_table

Keep = Callable[..., dict[str, Any]]


def printed(comparison: dict[str, Any], width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(summary_table(comparison))
    return capture.get().splitlines()


def test_the_table_has_a_line_per_method_within_a_hundred_columns(comparison: dict[str, Any]) -> None:
    lines = printed(comparison)
    assert all(len(line) <= 100 and not line.rstrip().endswith("…") for line in lines)
    for method in comparison["methods"]:
        (line,) = [line for line in lines if line.strip().startswith(method["title"] + "  ")]
        assert "…" in line.replace(method["title"], "")
    (yarn,) = [line for line in lines if line.strip().startswith("YaRN  ")]
    assert yarn.split() == ["YaRN", "4k", "2k…4k", "85%", "71%…93%", "10.9", "10.4…11.4", "+2.1%", "+1.1%…+3.1%"]


def test_the_best_values_are_bold(keep: Keep) -> None:
    table = summary_table(keep(methods=["none", "yarn", "pi"]))
    lengths = list(table.columns[1].cells)
    bold = [any("bold" in str(span.style) for span in cell.spans) for cell in lengths]
    assert bold == [False, True, False]


def test_names_are_not_read_as_markup(keep: Keep) -> None:
    data = keep(methods=["yarn"])
    data["methods"][0]["title"] = "[red]YaRN[/]"
    assert any("[red]YaRN[/]" in line for line in printed(data))


def test_what_was_not_measured_is_a_dash(keep: Keep) -> None:
    data = keep(methods=["none", "yarn"], tasks=["nothing"])
    data["summary"] = []
    assert [line.split() for line in printed(data) if "YaRN" in line] == [["YaRN", "–", "–", "–", "–"]]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture_is_the_same_every_time(comparison: dict[str, Any], tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / "b" / f"b{suffix}"
    picture(comparison, first)
    picture(comparison, second)
    assert first.read_bytes() == second.read_bytes()


def test_the_picture_names_its_lines(comparison: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    picture(comparison, path)
    text = "\n".join(ElementTree.parse(path).getroot().itertext())
    for name in ("Plain model ↑ 1,238", "YaRN", "LongRoPE", "Resonance YaRN", "window 512", "Passkey accuracy"):
        assert name in text
    assert "StreamingLLM" not in text


@pytest.mark.parametrize("cut", [{"tasks": ["ppl"]}, {"tasks": ["niah"]}, {"lengths": [512]}, {"methods": ["none"]}])
def test_less_still_makes_a_picture(keep: Keep, tmp_path: Path, cut: dict[str, Any]) -> None:
    path = tmp_path / "picture.svg"
    picture(keep(**cut), path)
    ElementTree.parse(path)


def test_a_picture_of_nothing_is_refused(keep: Keep, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to draw"):
        picture(keep(tasks=["nothing"]), tmp_path / "picture.svg")
