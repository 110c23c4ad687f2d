"""The claim of LongPO: the questions it measures on, and what it tells of losses that are known beforehand."""

from __future__ import annotations

import importlib.util
import math
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "claims" / "longpo.py"


@pytest.fixture
def longpo() -> Any:
    spec = importlib.util.spec_from_file_location("longpo_claims", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["longpo_claims"] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


def test_both_contexts_of_a_question_hold_its_answer_and_the_longer_one_holds_the_shorter(longpo, tmp_path) -> None:
    texts, chance = tmp_path / "texts", random.Random(0)
    texts.mkdir()
    for i in range(4):
        (texts / f"{i}.txt").write_text(" ".join(f"n{chance.randrange(10**6):06}" for _ in range(400)))
    rows = longpo.copies(str(texts), 1024, tmp_path / "rows", longpo.Copies(6, (5, 1)), 0)
    decode, places = longpo.ropewalk.load("demo")[1].decode, set()
    assert len(rows) == 12 and rows.about.told["answers that end"] == 12
    for number in range(0, 12, 2):
        shown, answers = [], []
        for row in (number, number + 1):
            ids, _, _, weights = rows.row(row)
            answers.append(decode(ids[weights > 0][:-1].tolist()).strip())
            shown.append(decode(ids[weights == 0].tolist()))
            where = rows.provenance[row].evidence[0]
            assert answers[-1] in decode(ids[where["at"] : where["at"] + longpo.SEGMENT].tolist())
        assert answers[0] == answers[1] and rows.provenance[number].question == rows.provenance[number + 1].question
        assert rows.provenance[number].evidence[0]["start"] == rows.provenance[number + 1].evidence[0]["start"]
        assert len(shown[0]) > 3 * len(shown[1])
        places.add(rows.provenance[number].evidence[0]["at"])
        assert rows.provenance[number + 1].evidence[0]["at"] <= 1
    assert len(places) > 1, "the evidence stands anywhere"


def test_an_effect_that_was_put_in_is_told_of_its_context_alone(longpo) -> None:
    noise = np.random.default_rng(0).normal(0, 0.01, 40)
    start = [2 + noise[i] + 0.001 * i for i in range(40)]
    seen = {way: (list(start), [0.5] * 40) for way in (longpo.START, *longpo.WAYS)}
    seen["longpo"] = ([loss - 0.5 * (i % 2 == 0) for i, loss in enumerate(start)], [0.75] * 40)
    told = longpo.told(seen)
    whole, alone = told["whole context"], told["evidence alone"]
    assert whole["ratios of perplexities"]["longpo / start"]["value"] == pytest.approx(math.exp(-0.5))
    assert whole["ratios of perplexities"]["longpo / chosen"]["n"] == 20
    assert alone["ratios of perplexities"]["longpo / start"]["value"] == pytest.approx(1)
    assert whole["differences of right tokens"]["longpo - start"]["value"] == pytest.approx(0.25)
    assert whole["of"]["longpo"]["right tokens"]["value"] == 0.75
    assert alone["of"]["start"]["perplexity"]["value"] == pytest.approx(math.exp(np.mean(start[1::2])))
