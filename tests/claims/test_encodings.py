"""The claims on encodings: what is told of answers that are known, what is missing, and a run that goes on."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "claims" / "encodings.py"
# What is lost beyond the window if papers are right; all others lose 3, and miss a half of the rows.
LOST = {"fire": 1, "cable": 1, "fope": 1, "xpos bca": -1, "softplus": 2, "softplus reweight": 1, "alibi pi": 1}
MISSED = {"nope": 0.1, "randomized": 0.2, "t5": 0.3}


@pytest.fixture
def claims(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("encodings_claims", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "encodings_claims", module)  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def as_papers_say(claims: Any, asked: Any, rng: np.random.Generator, right: float) -> dict[str, Any]:
    """Answers of a cell as papers have it, or the other way round where ``right`` is -1."""
    found = {}
    for way, n in asked.reads:
        name = f"{asked.cell.encoding} {way}".strip()
        lost = LOST.get(name, 3) * (n > claims.L)
        missed = rng.random(64) < 0.5 + right * (MISSED.get(name, 0.5) - 0.5)
        found[f"{way} {n}".strip()] = [(n * (9 + right * lost + 0.01 * rng.normal()), n, int(one)) for one in missed]
    return {"answers": found, "seconds": 1.0}


def seeds(claims: Any, right: float, only: Any = lambda one: True) -> list[dict[str, Any]]:
    rng, found = np.random.default_rng(0), [{} for _ in range(5)]
    for one in claims.cells(5):
        if only(one):
            found[one.cell.seed][one.name] = as_papers_say(claims, one, rng, right)
    return found


def test_a_claim_holds_or_is_refuted_by_the_whole_interval(claims: Any) -> None:
    for right, expected in ((1.0, "holds"), (-1.0, "refuted")):
        made = seeds(claims, right)
        rows = [claims.judged(one, made) for one in claims.CLAIMS]
        assert {row["verdict"] for row in rows} == {expected}, [row for row in rows if row["verdict"] != expected]
        assert all(row["n"] == len(row["by seed"]) == 5 for row in rows)
    made = seeds(claims, 0.0)
    rows = [claims.judged(one, made) for one in claims.CLAIMS]
    assert sum(row["verdict"] == "not shown" for row in rows) > 0.8 * len(rows)


def test_losses_and_shares_are_those_of_the_rows(claims: Any) -> None:
    rows = {str(n): [(4.0, 2, 0), (2.0, 4, 1)] for n in (16, *claims.BEYOND)}
    seen = {f"nope {task}": {"answers": rows} for task in claims.TASKS} | {"nope text": {"answers": rows}}
    assert claims.loss(seen, "nope", 20) == 1.0
    assert claims.exact(seen, "nope") == 0.5 and claims.by_byte(seen, "nope") == 0.875
    del seen["nope text"]
    assert claims.tables([seen, {}])["right"]["sort"]["nope"]["24"]["rows"]["value"] == 0.5


def test_what_is_missing_is_said_and_not_judged(claims: Any) -> None:
    made = seeds(claims, 1.0, lambda one: one.cell.task == "text" and one.cell.seed < 2)
    rows = {one.claim: claims.judged(one, made) for one in claims.CLAIMS}
    assert {row["n"] for row in rows.values()} == {0, 2}
    assert {row["verdict"] for row in rows.values()} == {"not measured", "not judged: 2 of 5 seeds"}
    assert all((row["verdict"] == "not measured") == (row["n"] == 0) for row in rows.values())


def test_a_run_goes_on_and_refuses_another_size(claims: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OF_TEXT", "OF_TASKS", "LONGER"):
        monkeypatch.setattr(claims, name, replace(getattr(claims, name), steps=1, width=8, layers=1, batch=1))
    for name, value in {"SAMPLES": 1, "READ_TEXT": {"alibi": ("", "pi")}, "TASKS": ("copy",),
                        "READ_TASKS": ("nope",)}.items():  # fmt: skip
        monkeypatch.setattr(claims, name, value)
    out, work = tmp_path / "out.json", tmp_path / "work"
    line = ["encodings.py", "--json", str(out), "--work", str(work), "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", line)
    claims.main()
    whole = json.loads(out.read_text())
    assert not whole["missing"] and whole["loss"]["alibi"].keys() == {"64", "128", "256", "pi 128", "pi 256"}
    monkeypatch.setattr(claims, "trained", None)  # nothing is trained again
    (work / "nope-copy-1.json").unlink()
    monkeypatch.setattr(sys, "argv", [*line, "--report"])
    claims.main()
    again = json.loads(out.read_text())
    assert again["missing"] == ["nope copy 1"] and again["loss"] == whole["loss"]
    monkeypatch.setattr(claims, "SAMPLES", 2)
    with pytest.raises(SystemExit, match="of other sizes"):
        claims.main()
