"""Reading results: how subjects are ordered and named, and what must be known of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ropewalk.report.numbers import quantity, tax, tokens
from ropewalk.report.schema import Model, Results, Subject
from ropewalk.report.view import View

Keep = Callable[..., dict[str, Any]]


def read(raw: dict[str, Any]) -> View:
    return View(Results.of(raw))


def test_methods_are_ordered_by_what_they_reach(raw: dict[str, Any]) -> None:
    order = [line.subject.method for line in read(raw).lines]
    assert order[:3] == ["none", "yarn", "longrope"]
    assert order[-1] == "sink"


def test_the_best_tax_is_sought_among_the_methods_that_can_have_one(keep: Keep) -> None:
    view = read(keep(methods=["none", "yarn", "pi"]))
    assert [view.leads(m, "short_tax", tax) for m in view.lines] == [False, True, False]
    assert [view.leads(m, "effective_length", tokens) for m in view.lines] == [False, True, False]


def test_what_prints_alike_leads_alike(keep: Keep) -> None:
    view = read(keep(methods=["none", "yarn", "longrope", "pi"]))
    assert [view.leads(m, "perplexity", quantity) for m in view.lines] == [False, True, True, False]


@pytest.mark.parametrize("methods", [["none"], ["none", "yarn"], ["none", "yarn", "longrope"]])
def test_nothing_leads_where_nothing_is_worse(keep: Keep, methods: list[str]) -> None:
    data = keep(methods=methods)
    for subject in data["subjects"]:
        subject["effective_length"] = {"value": 4096, "low": 4096, "high": 4096}
    view = read(data)
    assert not any(view.leads(line, "effective_length", tokens) for line in view.lines)
    assert any(view.leads(line, "score", tokens) for line in view.lines) is (len(methods) > 1)


def test_what_has_no_number_is_not_worse(keep: Keep) -> None:
    data = keep(methods=["none", "yarn", "pi"])
    data["subjects"][1]["short_tax"] = []
    view = read(data)
    assert not any(view.leads(line, "short_tax", tax) for line in view.lines)


@pytest.mark.parametrize(("names", "short"), [
    (["/tmp/smol/SmolLM2.gguf"], ["SmolLM2.gguf"]), (["Qwen/Qwen3-8B", "demo"], ["Qwen3-8B", "demo"]),
    (["/a/model", "/b/model", "C:\\m\\other\\"], ["/a/model", "/b/model", "other"]),
    (["..", "http://host/v1"], ["..", "http://host/v1"]),
])  # fmt: skip
def test_models_are_called_by_their_short_names_unless_two_share_one(names: list[str], short: list[str]) -> None:
    models = [Model(name, None, None, None, [512]) for name in names]
    view = View(Results({}, models, [Subject(name, "none", "Plain model") for name in names], [], []))
    assert view.name == ", ".join(short)
    assert {line.subject.model: line.name for line in view.lines} == dict(zip(names, short, strict=True))
    assert {line.id for line in view.lines} == {f"{name} none" for name in names}


def test_titles_have_four_digits_unless_two_methods_would_look_alike() -> None:
    def titles(*values: str) -> list[str]:
        subjects = [Subject("M", f"aa(tau={v})", f"Alignment (tau={v})") for v in values]
        lines = View(Results({}, [Model("M", None, None, None, [512])], subjects, [], [])).lines
        assert [line.subject.method for line in lines] == [subject.method for subject in subjects]
        return [line.title for line in lines]

    assert titles("0.4773841040469507") == ["Alignment (tau=0.4774)"]
    assert titles("0.47738", "0.47739") == ["Alignment (tau=0.47738)", "Alignment (tau=0.47739)"]


def test_lengths_beyond_the_promise_are_said_where_no_method_reaches_them(raw: dict[str, Any], keep: Keep) -> None:
    plain, promised = keep(methods=["none"]), raw["models"][0]["length"]
    plain["models"][0]["lengths"] = [promised, 2 * promised]
    [said] = read(plain).warnings()
    assert f"promises {tokens(promised)} tokens: {tokens(2 * promised)} are beyond" in said
    assert not any("promises" in one for one in read(keep(methods=["none", "yarn"])).warnings())
    plain["models"][0]["lengths"] = [promised]
    assert read(plain).warnings() == []


def test_the_view_says_what_was_left_out() -> None:
    settings = {"instead": {"qa_1": "qa_1_synthetic", "altered_qa": ""}, "added length": 1024}
    subject = Subject("M", "none", "Plain model")
    view = View(Results(settings, [Model("M", None, None, None, [1024])], [subject], [], []))
    assert view.warnings() == [
        "1,024 tokens, the target, were measured too; --lengths did not name them.",
        "Not asked, as no --qa gave its texts: qa_1 (in its place: qa_1_synthetic), altered_qa.",
    ]


def test_a_name_is_brief_where_no_other_method_has_the_same() -> None:
    titles = ["LongRoPE (fitted='f5')", "YaRN (a=1) + DCA (b=2)", "NTK (stretch=2.0)", "NTK"]
    subjects = [Subject("M", str(i), title) for i, title in enumerate(titles)]
    view = View(Results({}, [Model("M", None, None, None, [512])], subjects, [], []))
    briefs = {line.title: line.brief for line in view.lines}
    assert briefs == dict(
        zip(titles, ["LongRoPE", "YaRN + DCA", "NTK (stretch=2.0)", "NTK (stretch=2.0)"], strict=True)
    ) | {"NTK": "NTK"}
