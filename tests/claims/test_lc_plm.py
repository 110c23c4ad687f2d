"""The claim of LC-PLM: models of one size, what is told of accuracies that are known, and a run that goes on."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "claims" / "lc_plm.py"


@pytest.fixture
def lc_plm() -> Any:
    spec = importlib.util.spec_from_file_location("lc_plm_claims", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lc_plm_claims"] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_both_models_are_of_one_size(lc_plm) -> None:
    sizes = [sum(one.numel() for one in build().parameters()) for build, _ in lc_plm.MODELS.values()]
    assert abs(sizes[0] / sizes[1] - 1) < 0.03


def seed(ours: float, theirs: float) -> dict[str, Any]:
    """Of losses at all lengths that rise by what is given from the crop on, and accuracies to match."""

    def one(rise: float, right: int) -> dict[str, Any]:
        cells = {"1 to 63": [90, 100], "64 to 127": [80, 100], "128 to 255": [right, 100], "256 to 512": [right, 100]}
        return {"weights": 1, "far": {"loss": 1.0, "right of": cells}, "unlearnt": {"copied": 0.8, "commonest": 0.2},
                "tests": {str(n): {"loss": 1.0 + rise * i, "right of": cells}
                                        for i, n in enumerate((128, 256, 512, 1024))},
                "walks": {"loss": 1.0, "right of": {"a": [9, 10]}},
                "shuffled": {"loss": 1.0, "right of": {"a": [2, 10]}}}  # fmt: skip

    return {"lc-plm": one(ours, 70), "esm-2": one(theirs, 30)}


def test_a_claim_holds_where_its_whole_interval_does(lc_plm) -> None:
    rng = np.random.default_rng(0)
    seeds = [seed(0.001 * rng.normal(), 0.1 + 0.001 * rng.normal()) for _ in range(3)]
    same, flat, rises, far, walks, edges = rows = lc_plm.rows(seeds, "again")
    assert same["measured"] == 0 and not same["holds"]
    assert flat["holds"] and abs(flat["measured"]) < 0.01 and flat["n"] == 3
    assert rises["holds"] and rises["measured"] == pytest.approx(0.3, abs=0.01)
    assert far["holds"] and far["measured"] == pytest.approx(0.4)
    assert walks["holds"] and walks["measured"] == pytest.approx(0.7)
    assert edges["holds"] and edges["measured"] == pytest.approx(0.1)
    assert all(row["command"] == "again" and row["source"] == lc_plm.PAPER for row in rows)
    worse = lc_plm.rows([seed(0.1, -0.1), seed(0.2, -0.2)], "again")
    assert not worse[1]["holds"] and not worse[2]["holds"]
    assert lc_plm.rows([seed(0.1, -0.1)], "again")[1]["holds"] is None, "one seed tells nothing"


def test_a_run_goes_on_where_it_was_and_its_seeds_decide_all(lc_plm, tmp_path, monkeypatch) -> None:
    for name, value in {"STEPS": 2, "GRAPH_STEPS": 1, "TOKENS": 2048, "ROWS": 8, "FAR": 2048, "GRAPHS": 8}.items():
        monkeypatch.setattr(lc_plm, name, value)
    trained, asked = lc_plm.trained, []
    monkeypatch.setattr(lc_plm, "trained", lambda name, seed, work: asked.append(name) or trained(name, seed, work))
    first = lc_plm.measured(0, tmp_path)
    for file in ("esm-2-0.json", "esm-2-0.pt"):
        (tmp_path / file).unlink()
    assert lc_plm.measured(0, tmp_path) == first and set(first) == set(lc_plm.MODELS)
    assert asked == ["lc-plm", "esm-2", "esm-2"]
    assert set(first["lc-plm"]["tests"]) == {str(n) for n in lc_plm.LENGTHS}


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(lc_plm, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(lc_plm, "EVERY", 1)

    def ended(file: str, stop: int) -> dict[str, Any]:
        def batch(step: int) -> Any:
            if step == stop:
                raise InterruptedError
            rng = np.random.default_rng(step)
            return lc_plm.pairs(1, 128, rng).masked(rng, training=True)

        torch.manual_seed(0)
        found: dict[str, Any] = lc_plm.fit(lc_plm.lc_plm(), 1e-3, 3, batch, tmp_path / file).state_dict()
        return found

    whole = ended("whole.pt", stop=-1)
    with pytest.raises(InterruptedError):
        ended("stopped.pt", stop=2)
    again = ended("stopped.pt", stop=1)  # which is behind it
    assert all((one == whole[name]).all() for name, one in again.items())


def test_all_lengths_are_asked_the_same(lc_plm, monkeypatch) -> None:
    seen = {}
    monkeypatch.setattr(lc_plm, "answered", lambda model, asked: seen.update({asked.ids.shape[1]: asked}))
    monkeypatch.setattr(lc_plm, "TOKENS", 8192)
    lc_plm.tested(None, 0)
    whole = seen[1024]
    for length, one in seen.items():
        assert one.ids.shape == (8192 // length, length)
        assert (
            one.labels.reshape(8, 1024) == whole.labels
        ).mean() > 0.99  # a site that a part begins with has no marker
        assert ((one.distance > 0) <= (whole.distance.reshape(one.distance.shape) > 0)).mean() > 0.999
    assert (seen[128].distance > 0).sum() < (whole.distance > 0).sum() and (whole.distance > 128).any()


def test_seeds_have_tests_of_their_own_and_what_is_kept_knows_its_sizes(lc_plm, monkeypatch) -> None:
    first, second = lc_plm.on_graphs(0), lc_plm.on_graphs(1)
    assert (first.ids != second.ids).any() and (first.ids == lc_plm.on_graphs(0).ids).all()
    assert (first.distance > 0).sum() > 500
    sizes = lc_plm.sizes()
    for name, value in {"CROP": 64, "GRAPHS": 3, "MODELS": {**lc_plm.MODELS, "esm-2": (lc_plm.esm_2, 1e-3)}}.items():
        with monkeypatch.context() as patch:
            patch.setattr(lc_plm, name, value)
            assert lc_plm.sizes() != sizes
    monkeypatch.setattr(lc_plm.made, "STRANGERS", 0.1)
    assert lc_plm.sizes() != sizes


def test_a_copy_of_the_nearest_site_reads_no_edges(lc_plm) -> None:
    site, n = [lc_plm.FAMILY, 6], 12
    ids = np.zeros((2, n), int)
    for at, residue in ((0, 6), (4, lc_plm.MASK), (7, 8)):
        ids[:, at : at + 2] = site[0], residue
    distance, labels = np.zeros((2, n), int), np.full((2, n), -100)
    distance[:, 5], labels[:, 5] = 4, (6, 8)
    assert lc_plm.unlearnt(lc_plm.Masked(ids, labels, distance)) == {"copied": 0.5, "commonest": 0.5}
