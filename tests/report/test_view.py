"""Reading results: how subjects are ordered, and what the verdict says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ropewalk.report.numbers import quantity, tax, tokens
from ropewalk.report.schema import Average, Estimate, Model, Results, Row, Subject, Task
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


def test_the_verdict_names_the_best_method_and_the_plain_model(keep: Keep) -> None:
    text = read(keep(methods=["none", "yarn", "pi"])).verdict().replace("\N{NO-BREAK SPACE}", " ")
    assert text == "YaRN reaches 4,096 tokens (effective length 2,048 … 4,096), the plain model 512."


def test_the_verdict_of_less(keep: Keep) -> None:
    assert read(keep(methods=["none", "sink"])).verdict() == (
        "No method reaches further than the plain model, which reaches 512 tokens."
    )
    assert read(keep(methods=["yarn", "pi"])).verdict().startswith("YaRN reaches 4,096 tokens (")


def test_the_verdict_falls_back_to_perplexity(keep: Keep) -> None:
    data = keep(methods=["none", "yarn", "pi"], tasks=["ppl"])
    for subject in data["subjects"]:
        del subject["effective_length"], subject["averages"]
    assert read(data).verdict().startswith("YaRN has the lowest perplexity at 4,096 tokens: 10.9 (")
    plain = next(subject for subject in data["subjects"] if subject["method"] == "none")
    plain["perplexity_at_to"] = {**plain["perplexity_at_to"], "value": 1.5, "low": 1.4, "high": 1.6}
    assert read(data).verdict() == "No method has a lower perplexity at 4,096 tokens than the plain model: 1.50."
    for subject in data["subjects"]:
        del subject["perplexity_at_to"]
    assert read(data).verdict() == "demo: 3 subjects on Perplexity."


def test_the_caveat_counts_overlapping_intervals(keep: Keep) -> None:
    assert "LongRoPE overlaps with that of YaRN" in read(keep(methods=["yarn", "longrope"])).caveat()
    assert "2 other methods" in read(keep(methods=["yarn", "longrope", "dca"])).caveat()
    assert read(keep(methods=["none", "yarn", "sink"])).caveat() == ""


def test_an_interval_from_nothing_on_is_no_claim(keep: Keep) -> None:
    data = keep(methods=["none", "yarn"])
    plain, yarn = data["subjects"]
    yarn["effective_length"] |= {"low": 0}
    assert read(data).verdict() == "Too few samples to tell how far YaRN reaches (n = 40)."
    yarn["effective_length"] |= {"low": 4096}
    plain["effective_length"] |= {"low": 0}
    text = read(data).verdict().replace("\N{NO-BREAK SPACE}", " ")
    assert text == (
        "YaRN reaches 4,096 tokens (effective length 4,096 … 4,096). "
        "Too few samples to tell how far the plain model reaches (n = 40)."
    )


def test_what_nobody_tested_is_not_judged(keep: Keep) -> None:
    data = keep(methods=["none", "yarn"], lengths=[4096])
    plain, yarn = data["subjects"]
    for subject in data["subjects"]:
        subject["averages"] = subject["averages"][-1:]
    yarn["effective_length"] = {"value": 4096}
    plain["effective_length"] = {"value": 0, "low": 0, "high": 0}
    assert read(data).verdict() == (
        "YaRN reaches 4,096 tokens, the only length tested; "
        "the plain model fails at 4,096 tokens, and was not tested below."
    )


def test_a_length_at_which_only_some_tasks_were_asked_was_tested(keep: Keep) -> None:
    data = keep(methods=["none", "yarn"])
    plain, yarn = data["subjects"]
    for subject in data["subjects"]:
        subject["averages"] = subject["averages"][-3:]
    plain["effective_length"] = {"value": 0, "low": 0, "high": 0}
    assert read(data).verdict().endswith("plain model fails at 1,024 tokens, and not every task was tested below.")
    yarn["effective_length"] = plain["effective_length"]
    text = read(data).verdict()
    assert text.startswith("No method reaches further") and "not every task was tested below" in text
    del data["subjects"][0]
    data["rows"] = [row for row in data["rows"] if row["method"] == "yarn"]
    (line,) = read(data).lines
    said = line.printer("effective_length", tokens)
    assert [said(0), said(1024)] == ["<1,024", "1,024"] and line.printer("score", tokens)(0) == "0"
    assert read(data).verdict().endswith("with yarn fails at 1,024 tokens, and not every task was tested below")
    data["rows"] = [row for row in data["rows"] if row["task"] not in ("passkey", "niah") or row["length"] >= 1024]
    assert read(data).verdict().endswith("fails at 1,024 tokens, and was not tested below")


def test_one_common_length_is_not_the_only_one_where_tasks_were_asked_at_others() -> None:
    subjects = [
        Subject("M", method, method, effective_length=Estimate(2048, 2048, 2048), averages=[Average(2048, 1, 1, 1, 9)])
        for method in ("none", "yarn")
    ]
    rows = [Row("M", "yarn", "vt", n, 1.0, 0.9, 1.0, 9) for n in (1024, 2048)]
    models, tasks = [Model("M", 512, None, 2048, [1024, 2048])], [Task("vt", "Tracing", "score")]
    assert "only length" not in View(Results({}, models, subjects[1:], tasks, rows)).verdict()
    assert "No method reaches further than the plain model, which reaches 2,048 tokens, the only length tested" in (
        View(Results({}, models, subjects, tasks, rows)).verdict()
    )


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


def test_the_verdict_on_one_model_has_its_short_name_and_few_digits() -> None:
    subject = Subject("/tmp/x/M.gguf", "aa(tau=0.4773841040469507)", "Alignment", effective_length=Estimate(0, 0, 512))
    view = View(Results({}, [Model("/tmp/x/M.gguf", None, None, None, [512])], [subject], [], []))
    assert view.verdict() == "Too few samples to tell how far M.gguf with aa(tau=0.4774) reaches (n = 0)"


def alone(effective: int, passing: dict[int, float], low: int = 1024, **settings: Any) -> View:
    """One subject whose average passes with some probabilities."""
    averages = [Average(n, 0.9, 0.8, 1.0, 9, 0.012, "", p) for n, p in passing.items()]
    reach = Estimate(effective, min(low, effective), effective)
    subject = Subject("M", "none", "Plain model", effective_length=reach, averages=averages)
    model = Model("M", None, None, None, list(passing))
    return View(Results({"threshold": 0.85, **settings}, [model], [subject], [], []))


@pytest.mark.parametrize(
    ("effective", "passing", "verdict"),
    [
        (2048, {1024: 0.99, 2048: 0.8}, "M uses its context up to 2,048 tokens, the longest tested"),
        (1024, {1024: 0.99, 2048: 0.1}, "M uses 1,024 of 2,048 tokens"),
        (2048, {1024: 0.9, 2048: 0.38}, "M uses 1,024 of 2,048 tokens, and 2,048 tokens with a probability of 38%"),
        (1024, {1024: 0.99}, "M uses its context up to 1,024 tokens, the only length tested"),
        (0, {1024: 0.0, 2048: 0.0}, "M fails at 1,024 tokens, and was not tested below"),
    ],
)
def test_a_length_that_probably_fails_is_said_with_its_probability(
    effective: int, passing: dict[int, float], verdict: str
) -> None:
    assert alone(effective, passing).verdict() == verdict


def test_one_subject_of_which_too_little_is_known() -> None:
    one = alone(1024, {1024: 0.41, 2048: 0.0}, low=0)
    assert one.verdict() == "Too few samples to tell how far M reaches (n = 9)"
    assert "up to 1,024 tokens 41%" in one.caveat()


def test_lengths_beyond_the_promise_are_said_where_no_method_reaches_them(raw: dict[str, Any], keep: Keep) -> None:
    plain, promised = keep(methods=["none"]), raw["models"][0]["length"]
    plain["models"][0]["lengths"] = [promised, 2 * promised]
    [said] = read(plain).warnings()
    assert f"promises {tokens(promised)} tokens: {tokens(2 * promised)} are beyond" in said
    assert not any("promises" in one for one in read(keep(methods=["none", "yarn"])).warnings())
    plain["models"][0]["lengths"] = [promised]
    assert read(plain).warnings() == []


def test_the_view_says_how_sure_the_average_is_and_what_was_left_out() -> None:
    one = alone(1024, {1024: 0.9}, instead={"qa_1": "qa_1_synthetic", "altered_qa": ""}, **{"added length": 1024})
    assert one.caveat().endswith("up to 1,024 tokens 90%. Its standard error is 1.2 points at most.")
    assert one.warnings() == [
        "1,024 tokens, the target, were measured too; --lengths did not name them.",
        "Not asked, as no --qa gave its texts: qa_1 (in its place: qa_1_synthetic), altered_qa.",
    ]
