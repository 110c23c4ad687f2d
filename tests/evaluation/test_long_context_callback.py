"""What the callback logs during runs of real trainers, against the same numbers computed plainly."""

from __future__ import annotations

import math
from itertools import pairwise

import datasets
import pytest
import torch
from transformers import TrainingArguments
from trl import SFTConfig, SFTTrainer

import ropewalk
from ropewalk import LongContextCallback, PoSE, PositionInterpolation, SkipwiseCollator, UserError
from ropewalk.backends.nll import token_nll
from tests.models import tiny
from tests.tokenizers import byte_level
from tests.training.conftest import small_heap  # noqa: F401
from tests.training.runs import TARGET, Recorder, arguments, equal, model_for, texts, weights

STORY = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again. "
HELD_OUT = {str(i): f"{i} is the number of the story. {STORY * 30}" for i in range(3)}
EDGES = [1, 128, 181, 256]


def run_of(folder, model=None, tokenizer=None, **more):
    collator = SkipwiseCollator(PoSE(), to=TARGET)
    return Recorder(
        model=model or model_for(PoSE(), vocabulary=600),
        args=arguments(folder, **more),
        train_dataset=texts(8),
        eval_dataset=texts(2, seed=1),
        data_collator=collator,
        callbacks=[collator],
        processing_class=byte_level() if tokenizer is None else tokenizer or None,
    )


def watched(run, **more):
    usual = {"to": TARGET, "texts": HELD_OUT, "texts_used": 2, "keys": 3}
    callback = LongContextCallback(run, **(usual | more))
    run.add_callback(callback)
    return callback


def logged(run):
    return {log["step"]: log for log in run.state.log_history if "eval_passkey_256" in log}


def by_hand(model):
    """Perplexity in every bucket of positions, of the two texts used."""
    tokenizer = byte_level()
    rows = [tokenizer(text).input_ids[:TARGET] for text in list(HELD_OUT.values())[:2]]
    losses = token_nll(model, torch.tensor(rows))
    bounds = pairwise(EDGES)
    return {f"eval_perplexity_{a}-{b}": losses[:, a - 1 : b - 1].double().mean().exp().item() for a, b in bounds}


def test_it_logs_perplexity_by_position_and_keys_before_and_after(tmp_path):
    run = run_of(tmp_path)
    watched(run)
    before = by_hand(run.model)
    run.train()
    found = logged(run)
    assert list(found) == [0, 4]
    for step, expected in ((0, before), (4, by_hand(run.model))):
        assert {name: found[step][name] for name in expected} == pytest.approx(expected, rel=1e-5)
        keys = {name: value for name, value in found[step].items() if "passkey" in name}
        assert keys == {"eval_passkey_128": 0.0, "eval_passkey_256": 0.0}  # a window of 64 holds none
    assert before != pytest.approx(by_hand(run.model), rel=1e-5)


@pytest.mark.parametrize(("more", "args", "steps"), [
    ({}, {"eval_strategy": "steps", "eval_steps": 2}, [0, 2, 4]),
    ({"every": 3}, {}, [0, 3, 4]),
    ({"every": 1}, {"eval_strategy": "steps", "eval_steps": 1}, [0, 1, 2, 3, 4]),
])  # fmt: skip
def test_when_it_logs(more, args, steps, tmp_path):
    run = run_of(tmp_path, **args)
    watched(run, **more)
    run.train()
    times = [log["step"] for log in run.state.log_history if "eval_passkey_256" in log]
    assert times == steps


def test_watching_changes_no_weight(tmp_path):
    plain, seen = run_of(tmp_path), run_of(tmp_path)
    watched(seen, every=1)
    plain.train()
    seen.train()
    assert equal(weights(plain.model), weights(seen.model)) and seen.model.training == plain.model.training
    losses = [[log["loss"] for log in run.state.log_history if "loss" in log] for run in (plain, seen)]
    assert losses[0] == losses[1] and len(losses[0]) == 4


def test_a_method_may_be_put_on_while_it_measures(tmp_path):
    plain, extended = tiny("llama", vocab_size=600), tiny("llama", vocab_size=600)
    PositionInterpolation().extend(extended, to=TARGET)
    collator = SkipwiseCollator("e2", to=TARGET)
    run = Recorder(model=plain, args=arguments(tmp_path, max_steps=1), train_dataset=texts(4), data_collator=collator,
                   callbacks=[collator], processing_class=byte_level())  # fmt: skip
    watched(run, method=PositionInterpolation())
    expected = by_hand(extended)
    run.train()
    assert {name: logged(run)[0][name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_an_sft_trainer_logs_it_too(tmp_path):
    collator = SkipwiseCollator(PoSE(), to=TARGET)
    run = SFTTrainer(
        model=model_for(PoSE(), vocabulary=600),
        args=arguments(tmp_path, SFTConfig, max_length=None, max_steps=2, bf16=False),
        train_dataset=datasets.Dataset.from_dict({"text": [f"{i} {STORY * 20}" for i in range(8)]}),
        data_collator=collator,
        callbacks=[collator],
        processing_class=byte_level(),
    )
    watched(run)
    expected = by_hand(run.model)
    run.train()
    found = logged(run)
    assert list(found) == [0, 2] and {name: found[0][name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_a_model_that_finds_keys_is_seen_to_find_them(tmp_path):
    model, tokenizer = ropewalk.load("demo", device="cpu")
    run = Recorder(model=model, args=arguments(tmp_path, max_steps=1, learning_rate=0.0), train_dataset=texts(2, 64),
                   processing_class=tokenizer)  # fmt: skip
    callback = watched(run, to=512, texts="topics", texts_used=1)
    callback.on_train_begin(run.args, run.state, run.control, model=model)
    (log,) = run.state.log_history
    assert log["eval_passkey_512"] == 1.0 and 1 < log["eval_perplexity_362-512"] < 100 and math.isfinite(log["epoch"])


@pytest.mark.parametrize(("more", "what"), [
    ({"to": 512}, "reads 256 tokens by its rope, and is to learn 512"),
    ({"texts": {"one": "short"}}, "no document has 256 tokens"),
    ({"keys": 0}, "keys is 0"),
    ({"texts_used": True}, "texts_used is True"),
    ({"every": -1}, "every is -1"),
])  # fmt: skip
def test_what_cannot_be_measured_is_refused(more, what, tmp_path):
    run = run_of(tmp_path)
    with pytest.raises(UserError, match=what):
        watched(run, **more)
        run.train()
    assert run.state.global_step == 0


def test_a_trainer_without_a_tokenizer_is_refused(tmp_path):
    run = run_of(tmp_path, tokenizer=False)
    with pytest.raises(UserError, match="no processing_class"):
        watched(run)
    watched(run, tokenizer=byte_level())


def test_a_model_that_is_spread_over_processes_is_refused(tmp_path):
    run = run_of(tmp_path)
    callback = watched(run)
    args: TrainingArguments = arguments(tmp_path)
    args.fsdp = True
    with pytest.raises(UserError, match="spreads over processes"):
        callback.on_train_begin(args, run.state, run.control, model=run.model)
