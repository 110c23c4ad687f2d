"""results.json: what is checked when it is read, and that what is written is read again."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ropewalk.common.errors import UserError
from ropewalk.report.schema import SCHEMA, Results, Spectrum

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("key", ["settings", "models", "subjects", "tasks", "rows"])
def test_a_missing_key_is_named(raw: dict[str, Any], key: str) -> None:
    del raw[key]
    with pytest.raises(UserError, match=f"no key '{key}'") as caught:
        Results.of(raw)
    assert "samples.sqlite" in caught.value.mend


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c: c["models"][0].pop("window"), r"models\[0\] has no key 'window'"),
        (lambda c: c["models"][0].update(window="512"), r"models\[0\].window is '512', expected int"),
        (lambda c: c["models"][0].update(window=True), "window is True"),
        (lambda c: c["subjects"][3].pop("title"), r"subjects\[3\] has no key 'title'"),
        (lambda c: c["rows"][7].pop("value"), r"rows\[7\] has no key 'value'"),
        (lambda c: c["rows"][7].update(value="a lot"), r"rows\[7\].value is 'a lot', expected float"),
        (lambda c: c["rows"][7].update(colour="red"), r"rows\[7\] has a key 'colour' that the schema does not know"),
        (lambda c: c["rows"][7].update(method="nobody"), "a row of demo, nobody, position has no entry"),
        (lambda c: c["rows"][7].update(task="nothing"), "nothing has no entry in 'subjects' or 'tasks'"),
        (lambda c: c["rows"].insert(0, 5), r"rows\[0\] is int, expected an object"),
        (lambda c: c["tasks"][0].update(metric="speed"), "metric is 'speed', expected one of perplexity, nll, score"),
        (lambda c: c["subjects"][5]["rope"]["full_attention"].pop("wavelengths"), "full_attention has no key"),
        (lambda c: c.update(subjects=[], rows=[]), "'subjects' is empty"),
        (lambda c: c["rows"][7].update(value=math.nan), r"rows\[7\].value is no finite number"),
        (lambda c: c["rows"][7].update(high=math.inf), r"rows\[7\].high is no finite number"),
        (lambda c: c["rows"][7].update(n=10**400), r"rows\[7\].n is no finite number"),
        (lambda c: c["rows"][7].update(n=-1), r"rows\[7\].n is -1, expected 0 or more"),
        (lambda c: c["rows"][0].update(value=-2.0), r"rows\[0\].value is -2.0, expected 0 or more"),
        (
            lambda c: c["rows"][7].update(low=9.0, high=1.0),
            r"rows\[7\].low is 9.0, above .*high, which is 1.0",
        ),
        (lambda c: c["rows"][-1].update(value=1.5), r"rows\[\d+\].value is 1.5, expected 0 to 1"),
        (lambda c: c["rows"][-1].update(low=-0.5), r"rows\[\d+\].low is -0.5, expected 0 to 1"),
        (lambda c: c["rows"][-2].update(depth=2), r"depth is 2, expected 0 to 1"),
        (lambda c: c["models"][0].update(window=-512), r"models\[0\].window is -512, expected 0 or more"),
        (lambda c: c["models"][0]["facts"].update(loss=math.nan), r"models\[0\].facts.loss is no finite number"),
        (lambda c: c["settings"].update(depths=[math.inf]), r"settings.depths\[0\] is no finite number"),
        (lambda c: c["subjects"][1]["averages"][0].update(passing=1.2), "passing is 1.2, expected 0 to 1"),
        (lambda c: c["subjects"][1]["effective_length"].update(low=-1), "effective_length.low is -1, expected 0 or"),
        (lambda c: c["subjects"][1]["short_tax"][0].update(value=-2.0), "value is -2.0, expected -1 or more"),
        (lambda c: c["subjects"][1].update(tokens={"read": -3}), "tokens.read is -3, expected 0 or more"),
    ],
)
def test_a_wrong_value_is_named(raw: dict[str, Any], spoil: Callable[[Any], Any], message: str) -> None:
    spoil(raw)
    with pytest.raises(UserError, match=message):
        Results.of(raw)


@pytest.mark.parametrize("content", [{}, {"schema": "ropewalk results 1"}, {"model": {}, "results": []}])
def test_other_schemas_are_refused_by_name(content: Any, tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"its schema is .*, expected '{SCHEMA}'"):
        Results.read(tmp_path / "results.json")


def test_no_file_and_no_json_are_said(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text("{")
    for name in ("results.json", "absent.json"):
        with pytest.raises(UserError, match=r"is not valid JSON|does not exist"):
            Results.read(tmp_path / name)


def test_what_is_written_is_read_again(raw: dict[str, Any], tmp_path: Path) -> None:
    found = Results.of(raw)
    found.write(tmp_path / "results.json")
    assert Results.read(tmp_path / "results.json") == found


@pytest.mark.parametrize("name", ["demo", "reach"])
def test_committed_results_are_of_this_schema(name: str) -> None:
    found = Results.read(ROOT / "bench" / "results" / f"{name}.json")
    lost = {one.method for one in found.not_measured if one.task == "ppl"}
    assert lost == {subject.method for subject in found.subjects if not subject.causal}


def test_the_critical_dimension_is_the_first_without_a_full_turn(raw: dict[str, Any]) -> None:
    spectrum = Results.of(raw).subjects[0].rope["full_attention"]
    critical = spectrum.critical(512)
    assert critical is not None
    assert spectrum.wavelengths[critical - 1] <= 512 < spectrum.wavelengths[critical]
    assert spectrum.critical(10**9) is None
    assert Spectrum([1.0, None]).critical(10**9) == 1, "a dimension without rotation"
