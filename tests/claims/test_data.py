"""The claims of long data: what is measured, by hand, and a pair from texts to its JSON, which is not run again."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ropewalk.data.arranged import Arranged

SCRIPT = Path(__file__).parents[2] / "claims" / "data.py"
QUOTED = '''"""é: a docstring that says path."""
import os.path as path, sys

limit = 3


def walk(rope, knots=limit):
    for knot in rope:
        yield path.join(knot, str(knots))


print(later)
later = walk
'''


@pytest.fixture
def data() -> Any:
    spec = importlib.util.spec_from_file_location("data_claims", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["data_claims"] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_first_uses_are_of_names_that_stand_before(data) -> None:
    uses = data.first_uses(QUOTED)
    assert [QUOTED[start:stop] for start, stop in uses] == ["limit", "rope", "path", "knot", "knots", "walk"]
    lines = [QUOTED.count("\n", 0, start) + 1 for start, _ in uses]
    assert lines == [7, 8, 9, 9, 9, 13], "not the docstring's, and not `later`, which is defined behind its use"
    assert data.first_uses("def broken(:") == []


def test_a_difference_of_means_has_welchs_interval(data) -> None:
    rng = np.random.default_rng(0)
    some, others = rng.normal(1, 1, 9), rng.normal(0, 3, 14)
    mine = data.unpaired(some, others)
    theirs = stats.ttest_ind(some, others, equal_var=False).confidence_interval()
    assert (mine.low, mine.high) == pytest.approx((theirs.low, theirs.high), rel=1e-6)
    assert mine.value == pytest.approx(some.mean() - others.mean())


def question(depth: float, loss: float) -> dict[str, float]:
    return {"depth": depth, "loss": loss, "right": 0.5}


def test_a_dip_that_was_put_in_is_found(data) -> None:
    depths = [(i + 0.5) / 30 for i in range(30)]
    noise = np.random.default_rng(0).normal(0, 0.01, 30)
    theirs = [question(at, 2 + noise[i] + (0.5 if 1 / 3 <= at < 2 / 3 else 0)) for i, at in enumerate(depths)]
    ours = [question(at, 1 + noise[i]) for i, at in enumerate(depths)]
    told = data.by_depth({"questions": ours}, {"questions": theirs})
    assert told["middle less the rest"]["theirs"]["value"] == pytest.approx(0.5, abs=0.02)
    assert told["middle less the rest"]["difference"]["value"] == pytest.approx(-0.5, abs=1e-9)
    assert told["far less near"]["difference"]["value"] == pytest.approx(0, abs=1e-9)
    assert [told[third]["n"] for third in data.THIRDS] == [10, 10, 10]
    assert told["first"]["ratio"]["value"] == pytest.approx(math.exp(-1)) != told["middle"]["ratio"]["value"]


def test_losses_of_names_are_weighed_by_tokens(data) -> None:
    ours, theirs = (
        {"names": {"names": [{"loss": a, "tokens": 2}, {"loss": b, "tokens": 8}, {"loss": 0.0, "tokens": 0}]}}
        for a, b in ((2.0, 8.0), (4.0, 8.0))
    )
    told = data.on_names("names", ours, theirs)
    assert told["tokens"] == 10 and told["ours"]["value"] == pytest.approx(math.e)
    assert told["ratio"]["value"] == pytest.approx(math.exp(-0.2)) and told["ratio"]["n"] == 2


def test_equal_loss_is_found_where_it_is_reached(data) -> None:
    way = {"as it came": [9.0], "0": [4.0], "10": [3.0], "20": [2.0], "30": [1.0]}
    theirs = {"on the way": {step: [loss + 1 if step.isdigit() else loss] for step, (loss,) in way.items()}}
    told = data.steps({"on the way": way}, theirs)
    assert told["first there"] == {"ours": 20, "theirs": 30}
    assert data.steps(theirs, {"on the way": way})["first there"] == {"ours": None, "theirs": 30}


def test_rows_that_are_cut_alone_are_those_of_concatenation_but_for_who_sees_whom(data, tmp_path) -> None:
    (tmp_path / "texts").mkdir()
    for i in range(6):
        (tmp_path / "texts" / f"{i}.txt").write_text(f"number {i} " * (300 + 50 * i))
    data.cut_alone(tmp_path / "texts", tmp_path / "alone")
    data.pack("concat", tmp_path / "texts", tmp_path / "concat")
    alone, plain = Arranged.open(tmp_path / "alone"), Arranged.open(tmp_path / "concat")
    assert alone.counts.crossing == 0 < plain.counts.crossing and alone.counts.cut == plain.counts.cut > 0
    ids = [sorted(one.row(i)[0].tobytes() for i in range(len(one))) for one in (alone, plain)]
    assert ids[0] == ids[1]


@pytest.mark.slow
def test_a_pair_is_trained_measured_and_kept(data, tmp_path, monkeypatch, capsys) -> None:
    for name, value in (("TO", 1024), ("STEPS", 2), ("MORE", 1), ("PACKAGES", ("accelerate",)), ("KEYS", 2),
                        ("QUESTIONS", 2), ("FILES", 3)):  # fmt: skip
        monkeypatch.setattr(data, name, value)
    file = tmp_path / "data.json"
    line = ["data.py", "--json", str(file), "--work", str(tmp_path / "work"), "--only"]
    monkeypatch.setattr(sys, "argv", [*line, "best-fit"])
    data.main()
    first = json.loads(file.read_text())["pairs"]["best-fit"]
    assert first["names"]["tokens"] > 0 and first["names"]["ratio"]["low"] < first["names"]["ratio"]["high"]
    assert first["of ours"]["tokens"] == pytest.approx(first["of theirs"]["tokens"], rel=0.1)
    assert first["documents cut"]["ours"]["cut_in_vain"] == 0 < first["documents cut"]["theirs"]["cut_in_vain"]
    monkeypatch.setattr(data.ropewalk, "train", None)  # nothing is trained again
    data.main()
    assert json.loads(file.read_text())["pairs"]["best-fit"] == first
