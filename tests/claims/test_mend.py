"""The tasks of MEND's claim: of one shape, answered by their demonstrations, and the same again."""

import importlib.util
from itertools import islice
from pathlib import Path

import pytest
import torch

import ropewalk
from ropewalk.texts.pieces import TokenUnits

SCRIPT = Path(__file__).parents[2] / "claims" / "mend.py"


@pytest.fixture
def mend():
    spec = importlib.util.spec_from_file_location("mend_claims", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_batch_asks_for_what_its_demonstrations_say(mend):
    tokenizer = ropewalk.load("demo")[1]
    units = TokenUnits(tokenizer)
    batches, again = (list(islice(mend.tasks(1, units), 2)) for _ in range(2))
    for (told, prompts, answers), other in zip(batches, again, strict=True):
        assert len(told) == len(prompts) == mend.BATCH and prompts.shape == answers.shape
        assert all(torch.equal(a, b) for a, b in zip((told, prompts, answers), other, strict=True))
        assert bool(answers.any(1).all()) and not bool(answers[:, 0].any())
        for row in range(mend.BATCH):
            lines = tokenizer.decode(told[row])
            first = tokenizer.decode(prompts[row]).strip().split("\n")[0]
            key, label = first.removeprefix("lookup ").split(" -> ")
            assert f"{key}: {label}" in lines
