"""The collator for other people's trainers: its batches, who sees whom in them, and real runs with it."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from trl import SFTConfig, SFTTrainer

import ropewalk
from ropewalk import CREAM, E2LLM, EndPrompt, FullLength, PoSE, SkipwiseCollator, UserError
from ropewalk.training.positions.entries import POSITIONS
from tests.models import tiny
from tests.tokenizers import byte_level
from tests.training.runs import BACKENDS, TARGET, WINDOW, Recorder, arguments, equal, model_for, texts, trainer, weights

ROOT = Path(__file__).parents[2]
EVERY = [made for entry in POSITIONS for made in entry.load().examples()]
SKIPPING = [made for made in EVERY if made.skips]
every_positions = pytest.mark.parametrize("positions", EVERY, ids=lambda one: one.id)


def ready(positions, epoch=0, seed=0):
    collator = SkipwiseCollator(positions, to=TARGET, window=positions.window_for(WINDOW, TARGET), seed=seed)
    collator.set_epoch(epoch)
    return collator


# Batches


@every_positions
def test_a_batch_holds_what_was_picked(positions):
    examples = texts(3)
    batch = ready(positions)(examples)
    n = positions.window_for(WINDOW, TARGET)
    assert {name: value.shape for name, value in batch.items()} == dict.fromkeys(
        ("input_ids", "labels", "position_ids", "attention_mask"), (3, n)
    )
    assert batch["position_ids"].dtype == (torch.float32 if positions.rope == "trained" else torch.int64)
    assert batch["attention_mask"].all() and batch["attention_mask"].dtype == torch.int64
    assert (batch["labels"][:, 0] == -100).all()
    counted = batch["labels"] != -100
    assert torch.equal(batch["labels"][counted], batch["input_ids"][counted]) and counted.any(1).all()
    for row, example in zip(batch["input_ids"].tolist(), examples, strict=True):
        text = iter([*example["input_ids"], *positions.cue])
        assert all(token in text for token in row)  # in the order of the text


@pytest.mark.parametrize("positions", [PoSE(), EndPrompt(cue=(5, 6)), E2LLM()], ids=lambda one: one.id)
def test_short_texts_are_padded_behind_their_end(positions):
    batch = ready(positions)([*texts(1), *texts(1, 20)])
    n = 20 + len(positions.cue)
    assert batch["attention_mask"].sum(1).tolist() == [64, n] and batch["attention_mask"][1, :n].all()
    assert (batch["labels"][1, n:] == -100).all() and not batch["position_ids"][1, n:].any()


def test_a_draw_depends_on_seed_epoch_and_text_alone():
    examples = texts(4)
    whole = ready(PoSE())(examples)
    for order in ([2], [3, 1], [1, 0, 3, 2]):
        part = ready(PoSE())([examples[i] for i in order])
        assert all(torch.equal(part[name], whole[name][order]) for name in whole)
    again = [ready(PoSE(), **change)(examples)["position_ids"] for change in ({"epoch": 1}, {"seed": 1}, {})]
    assert [torch.equal(one, whole["position_ids"]) for one in again] == [False, False, True]


def test_a_batch_shares_the_scale_of_e2():
    collator, scales = ready(E2LLM()), set()
    for seed in range(30):
        gaps = collator(texts(3, seed=seed))["position_ids"].diff()[:, -1]
        assert gaps.max() - gaps.min() < 1e-4
        scales.add(round(1 / gaps[0].item()))
    assert scales == {1, 2, 3, 4}


def test_labels_of_an_example_are_kept():
    example = texts(1)[0]
    example["labels"] = [-100] * 100 + example["input_ids"][100:]
    assert ready(FullLength())([example])["labels"].tolist() == [example["labels"]]
    batch = ready(PoSE())([example, *texts(3)])
    labels, counted = batch["labels"][0], batch["labels"][0] != -100
    assert 0 < counted.sum() < WINDOW - 1 and torch.equal(labels[counted], batch["input_ids"][0][counted])


def test_what_holds_no_label_is_drawn_again():
    example = texts(1)[0]
    answer = {**example, "labels": [-100] * 156 + example["input_ids"][156:]}
    batches = [ready(PoSE(), epoch)([answer]) for epoch in range(30)]
    assert all((batch["labels"] != -100).any() for batch in batches)
    plain = [ready(PoSE(), epoch)([example]) for epoch in range(30)]
    kept = [torch.equal(a["position_ids"], b["position_ids"]) for a, b in zip(plain, batches, strict=True)]
    assert 0 < sum(kept) < 30


def test_padding_of_an_example_is_taken_off():
    example = texts(1, 30)[0]
    padded = {"input_ids": [0] * 9 + example["input_ids"], "attention_mask": [0] * 9 + [1] * 30}
    one, other = ready(PoSE())([example]), ready(PoSE())([padded])
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("example", "what"), [
    ({"input_ids": [1, 2, 3], "position_ids": [0, 1, 0]}, "an example has position_ids"),
    ({"input_ids": [1, 2, 3], "seq_lengths": [2, 1]}, "an example has seq_lengths"),
    ({"input_ids": [1, 2, 3], "completion_mask": [0, 1, 1]}, "an example has completion_mask"),
    ({"text": "once"}, "an example has text"),
    ({"input_ids": [1, 2, 3], "labels": [1, 2]}, "shape"),
    ({"input_ids": [[1, 2, 3]]}, "shape"),
    ({"input_ids": [1]}, "2 or more"),
    ({"input_ids": [1, 2, 3], "labels": [-100] * 3}, "no token of a batch has a loss"),
])  # fmt: skip
def test_what_is_no_tokenised_text_is_refused(example, what):
    with pytest.raises(UserError, match=what):
        ready(PoSE())([example])


def test_weights_that_a_trainer_cannot_carry_are_refused():
    with pytest.raises(UserError, match="a loss weight between 0 and 1"):
        ready(EndPrompt(cue=(5,), cue_weight=0.5))(texts(1))
    assert (ready(EndPrompt(cue=(5,), cue_weight=0.0))(texts(1))["labels"][:, -1] == -100).all()


def test_what_was_told_nothing_is_refused():
    with pytest.raises(UserError, match="does not know the epoch"):
        SkipwiseCollator(PoSE(), to=TARGET, window=WINDOW)(texts(1))
    collator = SkipwiseCollator(PoSE(), to=TARGET)
    collator.set_epoch(0)
    with pytest.raises(UserError, match="does not know how long samples are"):
        collator(texts(1))


def test_lengths_and_positions_are_read_as_everywhere():
    collator = SkipwiseCollator("cream", to="4k", window="1k")
    assert (collator.positions, collator.to, collator.window) == (CREAM(), 4096, 1024)
    with pytest.raises(UserError, match="window <= target"):
        SkipwiseCollator(PoSE(), to=64, window=65)


# Who sees whom


@cache
def reader(backend="sdpa"):
    return tiny("llama", attn_implementation=backend)


def seen(model, batch, changed):
    """Which tokens' logits move, bool [B, N], when the tokens ``changed`` [B, N] are other ones."""
    given = {name: value for name, value in batch.items() if name != "labels"}
    other = torch.where(changed, (given["input_ids"] + 1) % 97, given["input_ids"])
    with torch.no_grad():
        before, after = (model(**{**given, "input_ids": ids}, use_cache=False).logits
                         for ids in (given["input_ids"], other))  # fmt: skip
    return (before != after).any(-1)


def jumping(positions, examples):
    """Places before the first jump of the first row, bool [B, N], where that is, and the batch."""
    batches = (ready(positions, epoch)(examples) for epoch in range(20))
    batch = next(one for one in batches if (one["position_ids"][0].diff() != 1).any())
    jump = int((batch["position_ids"][0].diff() != 1).nonzero()[0]) + 1
    changed = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    changed[0, :jump] = True
    return changed, jump, batch


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("lengths", [[256], [256, 256], [256, 40, 30]], ids=["one", "several", "padded"])
@pytest.mark.parametrize("positions", SKIPPING, ids=lambda one: one.id)
def test_what_stands_before_a_jump_is_seen_behind_it_and_nowhere_else(positions, lengths, backend):
    shortest = positions.shortest(WINDOW, TARGET)
    if min(lengths) < shortest:
        lengths = [n for n in lengths if n >= shortest] * 2
    changed, jump, batch = jumping(positions, [row for i, n in enumerate(lengths) for row in texts(1, n, seed=i)])
    moved = seen(reader(backend), batch, changed)
    assert moved[0, jump:].all() and not moved[1:].any()


@pytest.mark.parametrize("backend", ["eager", "sdpa", "block_decisions"])
@pytest.mark.parametrize("rows", [1, 2])
def test_without_the_mask_they_would_not_be_seen(backend, rows):
    changed, jump, batch = jumping(PoSE(), texts(rows))
    del batch["attention_mask"]
    moved = seen(reader(backend), batch, changed)
    assert moved[0, :jump].all() and not moved[0, jump:].any()


@pytest.mark.parametrize("positions", SKIPPING, ids=lambda one: one.id)
def test_the_future_is_not_seen(positions):
    batch = ready(positions)(texts(2))
    changed = torch.zeros_like(batch["input_ids"], dtype=torch.bool)
    changed[:, 40:] = True
    moved = seen(reader(), batch, changed)
    assert not moved[:, :40].any() and moved[:, 40:].all()


@every_positions
def test_a_target_of_the_window_has_the_loss_of_plain_training_bit_for_bit(positions):
    if positions.id == "segmented(form='prefix')":
        pytest.skip("its loss is on the last segment alone")
    n = 128
    examples = texts(2, n - len(positions.cue))
    collator = SkipwiseCollator(positions, to=n, window=n)
    collator.set_epoch(0)
    ids = torch.tensor([[*example["input_ids"], *positions.cue] for example in examples])
    model = tiny("llama")
    with torch.no_grad():
        ours, plain = model(**collator(examples)).loss, model(input_ids=ids, labels=ids).loss
    assert torch.equal(ours, plain)


def test_the_offset_of_e2_moves_logits_because_it_leaves_the_sinks():
    model, ids = tiny("llama"), torch.tensor([texts(1, 64)[0]["input_ids"]])

    def logits(sinks, offset):
        m = torch.arange(64)
        positions = torch.where(m < sinks, m, m + offset)[None] / 4
        with torch.no_grad():
            return model(ids, position_ids=positions, attention_mask=torch.ones_like(ids)).logits

    assert torch.allclose(logits(0, 100), logits(0, 0), atol=1e-4)
    assert (logits(4, 100) - logits(4, 0)).abs().max() > 0.1


# The real Trainer


@every_positions
def test_a_trainer_trains_on_it(positions, tmp_path):
    collator = SkipwiseCollator(positions, to=TARGET)
    run = trainer(collator, model_for(positions), tmp_path, texts(8), max_steps=2)
    before = weights(run.model)
    run.train()
    assert collator.window == positions.window_for(positions.reach(WINDOW, WINDOW), TARGET)
    assert not equal(before, weights(run.model))
    assert all(batch["input_ids"].shape == (2, collator.window) for batch in run.batches)
    assert not any(module._forward_pre_hooks for module in run.model.modules())


@pytest.mark.parametrize("more", [
    {"bf16": True}, {"gradient_checkpointing": True}, {"gradient_accumulation_steps": 2},
    {"remove_unused_columns": False},
], ids=lambda more: next(iter(more)))  # fmt: skip
@pytest.mark.parametrize("positions", [PoSE(), E2LLM()], ids=lambda one: one.id)
def test_other_settings_of_a_trainer_do_no_harm(positions, more, tmp_path):
    data = datasets.Dataset.from_list(texts(8))
    run = trainer(SkipwiseCollator(positions, to=TARGET), model_for(positions), tmp_path, data, max_steps=2, **more)
    run.train()
    assert run.state.global_step == 2 and {batch["position_ids"].dtype for batch in run.batches} <= {
        torch.int64 if positions == PoSE() else torch.float32
    }


def test_a_stream_of_texts_is_drawn_anew_in_every_epoch(tmp_path):
    data = datasets.Dataset.from_list(texts(4)).to_iterable_dataset()
    run = trainer(SkipwiseCollator(PoSE(), to=TARGET), model_for(PoSE()), tmp_path, data, max_steps=4)
    run.train()
    first, second = ([batch["position_ids"] for batch in run.batches[i : i + 2]] for i in (0, 2))
    assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_every_text_is_drawn_anew_in_every_epoch(tmp_path):
    run = trainer(SkipwiseCollator(PoSE(), to=TARGET), model_for(PoSE()), tmp_path, texts(2), max_steps=3)
    run.train()
    drawn = [{tuple(row) for row in batch["position_ids"].tolist()} for batch in run.batches]
    assert len(set.union(*drawn)) == 6


def ran(folder, positions, resume=None, **more):
    """Final weights, and the batches, of a run of six steps over two epochs."""
    data = datasets.Dataset.from_list(texts(6))
    run = trainer(SkipwiseCollator(positions, to=TARGET), model_for(positions), folder, data, max_steps=6, **more)
    run.train(resume_from_checkpoint=resume)
    return weights(run.model), run.batches


@pytest.mark.parametrize("positions", [PoSE(), E2LLM()], ids=lambda one: one.id)
def test_workers_and_a_resume_change_nothing(positions, tmp_path):
    plain, batches = ran(tmp_path / "plain", positions)
    same, again = ran(tmp_path / "workers", positions, dataloader_num_workers=2, dataloader_persistent_workers=True,
                      save_strategy="steps", save_steps=2)  # fmt: skip
    assert equal(plain, same) and len(again) == len(batches) == 6
    for step in (2, 4):  # in the middle of the first and of the second epoch
        resumed, rest = ran(tmp_path / "workers", positions, resume=str(tmp_path / f"workers/checkpoint-{step}"))
        assert equal(plain, resumed) and len(rest) == 6 - step
        assert all(equal(a, b) for a, b in zip(batches[step:], rest, strict=True))


@pytest.mark.slow
def test_workers_that_are_spawned_draw_the_same(tmp_path):
    plain, _ = ran(tmp_path / "plain", PoSE())
    same, _ = ran(tmp_path / "spawned", PoSE(), dataloader_num_workers=1, dataloader_persistent_workers=True,
                  dataloader_multiprocessing_context="spawn")  # fmt: skip
    assert equal(plain, same)


def test_evaluation_is_on_such_samples_too(tmp_path):
    collator = SkipwiseCollator(PoSE(), to=TARGET)
    run = Recorder(model=model_for(PoSE()), args=arguments(tmp_path), eval_dataset=texts(4), data_collator=collator,
                   callbacks=[collator])  # fmt: skip
    assert np.isfinite(run.evaluate()["eval_loss"])


# TRL's


def sft(folder, data, model=None, **more):
    collator = SkipwiseCollator(PoSE(), to=TARGET)
    return SFTTrainer(
        model=model or model_for(PoSE(), vocabulary=600),
        args=arguments(folder, SFTConfig, **({"max_length": None} | more)),
        train_dataset=data,
        data_collator=collator,
        callbacks=[collator],
        processing_class=byte_level(),
    )


STORY = "The grass is green. The sky is blue. The pass key is 12345. Here we go. There and back again. "


def test_an_sft_trainer_trains_on_texts(tmp_path):
    run = sft(tmp_path, datasets.Dataset.from_dict({"text": [f"{i} {STORY * 20}" for i in range(8)]}))
    run.train()
    assert [round(log["loss"], 3) for log in run.state.log_history if "loss" in log] and run.state.global_step == 4
    assert run.data_collator.window == WINDOW


def test_an_sft_trainer_trains_on_completions_alone(tmp_path):
    rows = {"prompt": [STORY] * 8, "completion": [f" {i} {STORY * 20}" for i in range(8)]}
    run = sft(tmp_path, datasets.Dataset.from_dict(rows))
    run.train()
    example = run.train_dataset[0]
    assert example["labels"][0] == -100 and run.state.global_step == 4


@pytest.mark.parametrize(("more", "what"), [
    ({"max_length": 32}, "max_length=32 cuts every text"),
    ({"max_length": 128, "packing": True, "packing_strategy": "wrapped"}, "packing is on"),
])  # fmt: skip
def test_an_sft_trainer_that_cuts_or_joins_texts_is_refused(more, what, tmp_path):
    data = datasets.Dataset.from_dict({"text": [f"{i} {STORY * 20}" for i in range(8)]})
    with pytest.raises(UserError, match=what):
        sft(tmp_path, data, **more).train()


SLOW = pytest.mark.slow
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs/training.md").read_text("utf-8"), re.DOTALL)


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    [pytest.param(0, marks=SLOW), pytest.param(1, marks=SLOW), 2, 3, 4],
    ids=["Trainer", "SFTTrainer", "loop", "adapter", "memory"],
)
def test_the_lines_of_the_page_run(block, tmp_path, monkeypatch):
    assert len(BLOCKS) == 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(BLOCKS[block], "docs/training.md", "exec"), names)
    if block == 0:
        saved = ropewalk.inspect(str(tmp_path / "out/last"))
        logs = names["trainer"].state.log_history
        assert saved.sound and saved.length == 2048 and sum("eval_passkey_2048" in log for log in logs) == 2
    if block == 3:
        assert ropewalk.inspect("merged").length == 2048 and ropewalk.inspect("adapter").base == "demo"
