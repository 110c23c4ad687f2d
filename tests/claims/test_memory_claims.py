"""The claims of memories: what they ask is what their documents say, and verdicts are of whole intervals."""

import importlib.util
import random
import sys
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.texts.pieces import TokenUnits

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
