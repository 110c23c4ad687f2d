"""Reading a comparison: what is checked, how methods are ordered, and what the verdict says."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from ropewalk.common.errors import UserError
from ropewalk.report.comparison import Comparison
from ropewalk.report.numbers import quantity, tax, tokens

Keep = Callable[..., dict[str, Any]]


@pytest.mark.parametrize("key", ["model", "to", "methods", "results", "summary"])
def test_a_missing_key_is_named(comparison: dict[str, Any], key: str) -> None:
    del comparison[key]
    with pytest.raises(UserError, match=f"no key '{key}'") as caught:
        Comparison.read(comparison)
    assert "ropewalk compare" in caught.value.mend


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["model"].pop("window"), "model has no key 'window'"),
        (lambda c: c["model"].update(window="512"), "'window' in model is '512', expected int"),
        (lambda c: c.update(to=0), "'to' in the comparison is 0"),
        (lambda c: c["methods"][3].pop("title"), r"methods\[3\] has no key 'title'"),
        (lambda c: c["results"][7].pop("metric"), r"results\[7\] has no key 'metric'"),
        (lambda c: c["results"][7].update(value="a lot"), r"'value' in results\[7\] is 'a lot'"),
        (lambda c: c["results"][7].update(method="nobody"), r"results of \['nobody'\] have no entry in 'methods'"),
        (lambda c: c["results"].insert(0, 5), r"results\[0\] is int, expected an object"),
        (lambda c: c["rope"]["yarn"]["full_attention"].pop("wavelengths"), "rope of yarn, full_attention has no key"),
        (lambda c: c.update(methods=[], results=[]), "'methods' is empty"),
    ],
)
def test_a_wrong_value_is_named(comparison: dict[str, Any], spoil: Callable[[Any], Any], message: str) -> None:
    spoil(comparison)
    with pytest.raises(UserError, match=message):
        Comparison.read(comparison)


def test_something_else_than_an_object_is_refused() -> None:
    with pytest.raises(UserError, match="is list, expected an object"):
        Comparison.read([])


def test_methods_are_ordered_by_what_they_reach(comparison: dict[str, Any]) -> None:
    order = [m.id for m in Comparison.read(comparison).methods]
    assert order[:3] == ["none", "yarn", "longrope"]
    assert order[-1] == "sink"


def test_retrieval_at_the_target_is_pooled_over_tasks(comparison: dict[str, Any]) -> None:
    read = Comparison.read(comparison)
    yarn = next(m for m in read.methods if m.id == "yarn")
    rows = [r for r in comparison["results"] if (r["method"], r["length"]) == ("yarn", 4096) and "depth" not in r]
    values = [r["value"] for r in rows if r["metric"] == "accuracy"]
    assert len(values) == 2
    assert yarn.retrieval.value == pytest.approx(sum(values) / 2)  # both tasks have twenty answers


def test_the_best_tax_is_sought_among_the_methods_that_can_have_one(keep: Keep) -> None:
    read = Comparison.read(keep(methods=["none", "yarn", "pi"]))
    assert [read.leads(m, "short_tax", tax) for m in read.methods] == [False, True, False]
    assert [read.leads(m, "effective_length", tokens) for m in read.methods] == [False, True, False]


def test_what_prints_alike_leads_alike(keep: Keep) -> None:
    read = Comparison.read(keep(methods=["none", "yarn", "longrope", "pi"]))
    assert [read.leads(m, "perplexity", quantity) for m in read.methods] == [False, True, True, False]


def test_the_verdict_names_the_best_method_and_the_plain_model(keep: Keep) -> None:
    text = Comparison.read(keep(methods=["none", "yarn", "pi"])).verdict().replace("\N{NO-BREAK SPACE}", " ")
    assert text == "YaRN reaches 4,096 tokens (effective length 2,048 … 4,096), the plain model 512."


def test_the_verdict_of_less(keep: Keep) -> None:
    def verdict(data: dict[str, Any]) -> str:
        return Comparison.read(data).verdict()

    assert verdict(keep(methods=["none"])) == (
        "The plain model reaches 512 tokens; there is no method to compare it with."
    )
    assert verdict(keep(methods=["none", "sink"])) == (
        "No method reaches further than the plain model, which reaches 512 tokens."
    )
    assert verdict(keep(methods=["yarn"])).startswith("YaRN reaches 4,096 tokens (")


def test_the_verdict_falls_back_to_perplexity(keep: Keep) -> None:
    data = keep(methods=["none", "yarn", "pi"], tasks=["ppl"])
    data["summary"] = [s | {"effective_length": None, "low": None, "high": None} for s in data["summary"]]
    assert Comparison.read(data).verdict().startswith("YaRN has the lowest perplexity at 4,096 tokens: 10.9 (")
    data["summary"] = []
    assert Comparison.read(data).verdict().startswith("Nothing was measured at 4,096 tokens")


def test_the_caveat_counts_overlapping_intervals(keep: Keep) -> None:
    assert "LongRoPE overlaps with that of YaRN" in Comparison.read(keep(methods=["yarn", "longrope"])).caveat()
    assert "2 other methods" in Comparison.read(keep(methods=["yarn", "longrope", "dca"])).caveat()
    assert Comparison.read(keep(methods=["none", "yarn", "sink"])).caveat() == ""


def test_the_critical_dimension_is_the_first_without_a_full_turn(comparison: dict[str, Any]) -> None:
    spectrum = Comparison.read(comparison).spectra["full_attention"]["none"]
    critical = spectrum.critical(512)
    assert critical is not None
    assert spectrum.wavelengths[critical - 1] <= 512 < spectrum.wavelengths[critical]
    assert spectrum.critical(10**9) is None


def test_a_dimension_without_rotation_has_an_infinite_wavelength(comparison: dict[str, Any]) -> None:
    comparison["rope"]["yarn"]["full_attention"]["wavelengths"][-1] = None
    assert Comparison.read(comparison).spectra["full_attention"]["yarn"].wavelengths[-1] == math.inf
