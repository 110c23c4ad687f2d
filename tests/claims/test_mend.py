"""MEND's claim: tasks that their demonstrations answer, texts of files, and what is measured behind each."""

import importlib.util
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import ropewalk
from ropewalk.texts.pieces import TokenUnits
from ropewalk.training.demonstration_distillation import Distiller, answered

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


def test_no_batch_of_texts_has_two_of_a_file_and_halves_are_of_the_same_files(mend):
    tokenizer = ropewalk.load("demo")[1]
    units = TokenUnits(tokenizer)
    halves = mend.held_out(tokenizer, units)
    files = [tokenizer.decode(mend.token_ids(text[:20_000], tokenizer)) for text in mend.held_out_sources().values()]
    for told, rest, asked in halves:
        assert told.shape == (len(files), mend.CUT + 1) and rest.shape[1] == mend.TEXT - mend.CUT
        assert (told[:, 0] == units.bos[0]).all() and not asked[:, 0].any() and asked[:, 1:].all()
    whole = [[tokenizer.decode(row[1:]) for row in torch.cat(one[:2], 1)] for one in halves]
    for file, first, second in zip(files, *whole, strict=True):
        assert first in file and second in file and file.index(first) < file.rindex(second)


def test_none_is_behind_bos_and_the_control_has_the_vectors_of_another_row(mend):
    model, tokenizer = ropewalk.load("demo", dtype="float32")
    units = TokenUnits(tokenizer)
    batch = next(mend.tasks(1, units))
    distiller = Distiller(model, 2, model.config.hidden_size)
    found = mend.measured(model, distiller, units.bos, [batch])
    prompts, asked = (one[:1] for one in batch[1:])
    with torch.no_grad():
        ids = torch.cat([torch.tensor([units.bos]), prompts], 1)
        alone = answered(model(input_ids=ids).logits[:, 1:], prompts, asked).mean()
        other = torch.cat([distiller(batch[0][-1:]), model.get_input_embeddings()(prompts)], 1)
        theirs = answered(model(inputs_embeds=other).logits[:, 2:], prompts, asked).mean()
    assert found["none"][0, 0] == pytest.approx(alone.item(), rel=1e-4)
    assert found["others' vectors"][0, 0] == pytest.approx(theirs.item(), rel=1e-4)


def test_rows_of_a_cluster_count_once(mend):
    rng = np.random.default_rng(0)
    once = {name: rng.normal(size=(20, 2)) for name in ("none", "others' vectors", "vectors", "demonstrations")}
    twice = {name: np.concatenate([one, one]) for name, one in once.items()}
    assert mend.told(twice, list(range(20)) * 2) == mend.told(once, list(range(20)))
    ratios = mend.told(once, list(range(20)))["ratios of perplexities"]
    assert set(ratios) == {f"vectors / {name}" for name in ("none", "others' vectors", "demonstrations")}
    claims = mend.rows({"tasks": {"ratios of perplexities": {name: {"high": 1.02} for name in ratios}}})
    assert [row["holds"] for row in claims] == [False, False, True]
