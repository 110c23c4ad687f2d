"""The claims of memories: what they ask is what their documents say, and verdicts are of whole intervals."""

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import ropewalk
from ropewalk.texts.pieces import TokenUnits
from tests.models import tiny, tokens

FOLDER = Path(__file__).parents[2] / "claims" / "memory"


@pytest.fixture
def script(monkeypatch):
    def opened(name):
        spec = importlib.util.spec_from_file_location(f"{name}_claims", FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return opened


def test_fots_documents_ask_for_what_their_first_window_says(script):
    fot, tokenizer = script("fot"), ropewalk.load("demo")[1]
    units, rng = TokenUnits(tokenizer), random.Random(0)
    for _ in range(3):
        said, asked, answers = fot.document(rng, units)
        assert len(said) == len(asked) == len(answers) == fot.WINDOW
        told = dict(line.strip().split(": ") for line in tokenizer.decode(said[1:]).split("\n") if ":" in line)
        lines = [
            line.split(" lookup ")[1].split(" -> ") for line in tokenizer.decode(asked).split("\n") if "->" in line
        ]
        assert len(lines) > 2 and all(told[key] == code for key, code in lines)
        right = [not inside or i % 2 == 0 for i, inside in enumerate(answers)]
        assert fot._share([True] * fot.WINDOW, answers) == 1 and fot._share(right, answers) == 0
    ids, labels = fot.batch(0, units)
    assert ids.shape == labels.shape == (fot.ROWS, 2 * fot.WINDOW)
    assert bool((labels[:, : fot.WINDOW] == -100).all()) and bool((labels[:, fot.WINDOW :] != -100).any())


def test_a_claim_of_a_memory_holds_if_its_whole_interval_does(script):
    attendre, fot = script("attendre"), script("fot")
    rng = np.random.default_rng(0)
    seen = {name: {"found": (rng.normal(2, 0.01, 8) + name.startswith("fifo")).tolist()} for name in attendre.METHODS}
    seen |= {f"keys {policy} {attendre.LARGE}": {"found": [policy == "lra"] * 8} for policy in attendre.POLICIES}
    seen["cache"] = {"found": {str(attendre.SHORT): 100, str(attendre.LONG): 104}}
    holds = [row["holds"] for row in attendre.rows(seen, "python claims/memory/attendre.py")]
    assert holds[:4] == [True] * 4 and holds[5:] == [False, True]
    found = {
        kind: {"found": {str(n): [1 - (kind == "without") * n / 20 + i / 99 for i in range(8)] for n in fot.OTHERS}}
        for kind in fot.NEGATIVES
    }
    found["with"]["found"]["topk"] = [0.9 * one for one in found["with"]["found"][str(fot.MOST)]]
    assert [row["holds"] for row in fot.rows(found, "python claims/memory/fot.py")] == [True, True, True, False]


def test_lacts_control_has_a_memory_that_never_learns(script):
    from ropewalk import LaCT

    lact, model = script("lact"), tiny("llama")
    LaCT(window=8, heads=2, rank=2).carried(model)
    lact.still(model.ropewalk_memory)
    for layer in model.ropewalk_memory:
        rates = layer.inputs(torch.randn(1, 5, 64), *torch.randn(3, 1, 5, 64))[3]
        assert rates.shape == (1, 2, 5, 3) and not rates.any()
    ids = tokens(1, 40)
    each = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:], reduction="none")
    assert lact.losses(model, ids, 20) == pytest.approx(float(each[19:].mean()), rel=1e-5)


def test_lact_and_hylo_hold_by_their_whole_intervals(script):
    lact, hylo, rng = script("lact"), script("hylo"), np.random.default_rng(0)

    def arm(mean):
        return {name: (mean + rng.normal(0, 0.001, 8)).tolist() for name in ("8x", "32x", "window")}

    arms = {"memory": arm(2.0) | {"numbers held": {"8x": 100, "32x": 104}}, "still": arm(2.1), "window alone": arm(2.0)}
    assert [row["holds"] for row in lact.rows({"arms": arms})] == [False, True, True, True]
    arms = {"hybrid": arm(2.0), "model": arm(1.97), "latents alone": arm(2.2), "hybrid, next token alone": arm(1.9)}
    assert [row["holds"] for row in hylo.rows({"arms": arms})] == [True, True, False, False]
    assert all({"claim", "source", "holds", "n"} <= row.keys() for row in lact.rows({"arms": arms | {
        "memory": arms["hybrid"] | {"numbers held": {"8x": 1, "32x": 2}}, "still": arms["model"],
        "window alone": arms["model"]}}))  # fmt: skip


def test_hylos_arms_leave_a_twelfth_of_the_cache(script):
    hylo, model = script("hylo"), ropewalk.load("demo", dtype="float32")[0]
    for name, (options, _) in hylo.ARMS.items():
        chosen = ropewalk.HyLo(**options)
        chosen.carried(model)
        assert abs(hylo.numbers(chosen, model) - 2 * 6 * 2 * 64 / 12) <= 2, name  # ranks are whole
        del model.ropewalk_memory
