"""The terminal table and the picture for a README."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from rich.console import Console

from ropewalk.common.errors import UserError
from ropewalk.report import experiment_page
from ropewalk.report.picture import picture
from ropewalk.report.schema import Results
from ropewalk.report.table import sentences, tables

Keep = Callable[..., dict[str, Any]]


def printed(raw: dict[str, Any], width: int = 100) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        for table in tables(Results.of(raw), width):
            console.print(table)
        for sentence in sentences(Results.of(raw)):
            console.print(sentence, markup=False)
    return capture.get().splitlines()


def test_the_table_has_a_line_per_method_within_a_hundred_columns(raw: dict[str, Any]) -> None:
    lines = printed(raw)
    assert all(len(line) <= 100 and not line.rstrip().endswith("…") for line in lines)
    for subject in raw["subjects"]:
        (line,) = [line for line in lines if line.strip().startswith(subject["title"] + "  ")]
        assert "…" in line.replace(subject["title"], "")
    (yarn,) = [line for line in lines if line.strip().startswith("YaRN  ")]
    assert yarn.split() == ["YaRN", "4k", "2k…4k", "85%", "71%…93%", "10.9", "10.4…11.4", "+2.1%", "+1.1%…+3.1%"]


def test_eighty_columns_hold_the_intervals_too(raw: dict[str, Any]) -> None:
    lines = printed(raw, width=80)
    row = next(i for i, line in enumerate(lines) if line.startswith("YaRN  "))
    assert lines[row].split() == ["YaRN", "4k", "85%", "10.9", "+2.1%"]
    assert lines[row + 1].split() == ["2k…4k", "71%…93%", "10.4…11.4", "+1.1%…+3.1%"]


def test_the_best_values_are_bold(keep: Keep) -> None:
    table = tables(Results.of(keep(methods=["none", "yarn", "pi"])))[0]
    lengths = list(table.columns[1].cells)
    bold = [any("bold" in str(span.style) for span in cell.spans) for cell in lengths]
    assert bold == [False, True, False]


def test_names_are_not_read_as_markup(keep: Keep) -> None:
    data = keep(methods=["none", "yarn"])
    data["subjects"][1]["title"] = "[red]YaRN[/]"
    assert any("[red]YaRN[/]" in line for line in printed(data))


def test_what_was_not_measured_is_a_dash_and_named(keep: Keep) -> None:
    data = keep(methods=["none", "yarn"])
    data["subjects"][1] |= {"causal": False, "perplexity_at_to": None, "short_tax": []}
    data["not_measured"] = [{"model": "demo", "method": "yarn", "task": "ppl", "reason": "it sees the future"}]
    lines = printed(data)
    (yarn,) = [line.split() for line in lines if line.startswith("YaRN  ")]
    assert yarn == ["YaRN", "4k", "2k…4k", "85%", "71%…93%", "–"]
    said = " ".join(" ".join(lines).split())
    assert "Not measured: Perplexity of YaRN (it sees the future)" in said and "YaRN: not causal" in said


def test_one_subject_has_a_line_per_task(keep: Keep) -> None:
    data = keep(methods=["yarn"])
    data["subjects"][0]["tasks"] = [{"task": "passkey", "effective_length": {"value": 2048}}]
    lines = [line.split() for line in printed(data)]
    (heads,) = [line for line in lines if line[:1] == ["Task"]]
    (passkey,) = [line for line in lines if line[:1] == ["Passkey"]]
    assert next(line[:3] for line in lines if line[:1] == ["YaRN"]) == ["YaRN", "4k", "2k…4k"]  # as among several
    assert heads == ["Task", "64", "128", "256", "512", "1k", "2k", "4k", "Effective"]
    assert passkey[-1] == "2k" and passkey[1] == "100%"
    assert "84%…100%" in lines[lines.index(passkey) + 1]
    narrow = " ".join(" ".join(printed(data, width=80)).split())
    assert "Passkey, n =" in narrow and "84%…100%" not in narrow


def test_a_benchmark_has_its_own_table(keep: Keep) -> None:
    data = keep(methods=["yarn"], tasks=["ppl"])
    data["tables"] = [
        {"model": "demo", "method": "yarn", "benchmark": "leval", "length": n, "points": {"tpo": 1.0 * n}}
        for n in (1024, 2048)
    ]
    lines = [line.split() for line in printed(data)]
    assert ["leval", "1k", "2k"] in lines and ["tpo", "1024.0", "2048.0"] in lines


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture_is_the_same_every_time(raw: dict[str, Any], tmp_path: Path, suffix: str) -> None:
    first, second = tmp_path / f"a{suffix}", tmp_path / "b" / f"b{suffix}"
    picture(Results.of(raw), first)
    picture(Results.of(raw), second)
    assert first.read_bytes() == second.read_bytes()


def test_the_picture_names_its_lines(raw: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "picture.svg"
    picture(Results.of(raw), path)
    text = "\n".join(ElementTree.parse(path).getroot().itertext())
    for name in ("Plain model ↑ 1,238", "YaRN", "LongRoPE", "Resonance YaRN", "window 512", "Passkey accuracy"):
        assert name in text
    assert "StreamingLLM" not in text


@pytest.mark.parametrize("cut", [{"tasks": ["ppl"]}, {"tasks": ["niah"]}, {"lengths": [512]}, {"methods": ["none"]}])
def test_less_still_makes_a_picture(keep: Keep, tmp_path: Path, cut: dict[str, Any]) -> None:
    path = tmp_path / "picture.svg"
    picture(Results.of(keep(**cut)), path)
    ElementTree.parse(path)


def test_a_picture_of_nothing_is_refused(keep: Keep, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing to draw"):
        picture(Results.of(keep(tasks=["nothing"])), tmp_path / "picture.svg")


def test_a_score_has_one_name_in_the_terminal_and_on_the_page(keep: Keep) -> None:
    heading = next(title for name, title, *_ in experiment_page.COLUMNS if name == "score")
    results = Results.of(keep(methods=["none", "yarn"], tasks=["passkey"]))
    console = Console(width=100, record=True)
    console.print(*tables(results, 100))
    printed = console.export_text()
    assert heading == "Average score" and heading in printed and "etrieval" not in printed
