"""What is refused before a Trainer trains at positions of ours, or in its first step."""

from __future__ import annotations

import datasets
import pytest
import torch
from accelerate.utils import ParallelismConfig
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from ropewalk import E2LLM, FullLength, PoSE, PositionInterpolation, SkipwiseCollator, UserError
from ropewalk.training import checks
from tests.models import tiny
from tests.training.runs import TARGET, Recorder, arguments, model_for, texts, trainer


def refused(what, folder, positions=None, model=None, data=None, kind=Recorder, **more):
    positions = positions or PoSE()
    collator = SkipwiseCollator(positions, to=TARGET)
    run = kind(
        model=model or model_for(positions),
        args=arguments(folder, **more),
        train_dataset=texts(8) if data is None else data,
        data_collator=collator,
        callbacks=[collator],
    )
    with pytest.raises(UserError, match=what):
        run.train()
    assert run.state.global_step == 0


def test_a_model_that_is_not_extended_is_refused(tmp_path):
    refused(r"reads 64 tokens by its rope, and is to learn 256[^$]*extend\(model, to=256\)", tmp_path,
            model=tiny("llama"))  # fmt: skip


def test_a_model_that_is_extended_is_refused_where_positions_are_squeezed(tmp_path):
    model = tiny("llama")
    PositionInterpolation().extend(model, to=TARGET)
    refused("trains the rope that the model was made with", tmp_path, E2LLM(), model)


def test_a_rope_that_only_the_configuration_has_is_refused(tmp_path):
    model = tiny("llama")
    model.config.rope_parameters = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    model.config.max_position_embeddings = TARGET
    refused("Reload the model after changing its configuration", tmp_path, model=model)


@pytest.mark.parametrize("family", ["mistral", "gemma3"])
def test_layers_that_see_by_the_number_of_a_token_are_refused(family, tmp_path):
    model = tiny(family)
    PositionInterpolation().extend(model, to=TARGET)
    refused("sliding_attention layers see the last", tmp_path, model=model)
    collator = SkipwiseCollator(FullLength(), to=TARGET)
    trainer(collator, model, tmp_path, texts(2), max_steps=1).train()


@pytest.mark.parametrize(("data", "what"), [
    (texts(7) + texts(1, 1), "1 of 8 texts that were looked at have fewer than the 2 tokens that pose needs"),
    ([], "the dataset is empty"),
    ([{"labels": [1, 2]}], "examples of the dataset have labels, expected input_ids"),
])  # fmt: skip
def test_a_dataset_that_cannot_be_drawn_from_is_refused(data, what, tmp_path):
    if data == []:
        with pytest.raises(UserError, match=what):
            checks.check_texts(data, 2, PoSE())
    else:
        refused(what, tmp_path, data=data)


def test_short_texts_far_behind_are_seen_too():
    data = datasets.Dataset.from_list(texts(3000, 4) + texts(3000, 3))
    with pytest.raises(UserError, match="500 of 1000 texts"):
        checks.check_texts(data, 4, PoSE())


def test_packed_texts_are_refused(tmp_path):
    data = [{**row, "position_ids": [*range(128), *range(128)]} for row in texts(4)]
    refused("an example has position_ids", tmp_path, data=data)


def test_a_collator_that_only_listens_is_refused(tmp_path):
    collator = SkipwiseCollator(PoSE(), to=TARGET)
    run = Recorder(model=model_for(PoSE()), args=arguments(tmp_path), train_dataset=texts(4), callbacks=[collator])
    with pytest.raises(UserError, match="batches are made by another collator"):
        run.train()


def test_a_collator_that_does_not_listen_is_refused(tmp_path):
    collator = SkipwiseCollator(PoSE(), to=TARGET)
    run = Recorder(model=model_for(PoSE()), args=arguments(tmp_path), train_dataset=texts(4), data_collator=collator)
    with pytest.raises(UserError, match=r"callbacks=\[collator\]"):
        run.train()


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])  # torch waits 5 s for such workers
def test_what_a_worker_refuses_is_read_by_the_user(workers, tmp_path):
    data = texts(4)
    data[2]["seq_lengths"] = [100, 156]
    refused("an example has seq_lengths", tmp_path, data=data, remove_unused_columns=False,
            dataloader_num_workers=workers)  # fmt: skip


def settings(**more):
    """Arguments as they come, without what they would start."""
    args = arguments("unused")
    for name, value in more.items():
        setattr(args, name, value)
    return args


@pytest.mark.parametrize(("more", "positions", "what"), [
    ({"parallelism_config": ParallelismConfig(cp_size=2)}, PoSE(), "parallelism_config cuts sequences"),
    ({"packing": True}, PoSE(), "packing is on"),
    ({"padding_free": True}, PoSE(), "padding_free is on"),
    ({"max_length": 63}, PoSE(), "max_length=63 cuts every text"),
    ({"deepspeed": {"zero": 1}}, E2LLM(), "positions are fractions"),
    ({"fsdp": True}, E2LLM(), "positions are fractions"),
])  # fmt: skip
def test_settings_under_which_samples_would_not_arrive_are_refused(more, positions, what):
    checks.check_settings(settings(), positions, 64)
    checks.check_settings(settings(fsdp=True, max_length=64), PoSE(), 64)
    with pytest.raises(UserError, match=what):
        checks.check_settings(settings(**more), positions, 64)


# The first forward pass


class Losing(Recorder):
    """A trainer that does something to the batch on its way."""

    lost: tuple[str, ...] = ()

    def compute_loss(self, model, inputs, *rest, **more):
        return super().compute_loss(model, self.changed(inputs), *rest, **more)

    def changed(self, inputs):
        return {name: value for name, value in inputs.items() if name not in self.lost}


class LosesPositions(Losing):
    lost = ("position_ids",)


class LosesMask(Losing):
    lost = ("attention_mask",)


class Rounds(Losing):
    def changed(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {**inputs, "position_ids": inputs["position_ids"].bfloat16()}


@pytest.mark.parametrize(("kind", "positions", "what"), [
    (LosesPositions, PoSE(), "position_ids of the collator did not reach the model"),
    (LosesMask, PoSE(), "attention_mask of the collator did not reach the model"),
    (Rounds, E2LLM(), "rounded to torch.bfloat16"),
])  # fmt: skip
def test_what_gets_lost_on_the_way_is_noticed(kind, positions, what, tmp_path):
    refused(what, tmp_path, positions, kind=kind)


def test_a_model_that_makes_positions_of_its_own_is_noticed(tmp_path):
    model = model_for(PoSE())
    forward = model.model.forward
    model.model.forward = lambda *args, position_ids=None, **more: forward(*args, **more)
    with pytest.raises(UserError, match="rotates by other positions than the collator gave"):
        trainer(SkipwiseCollator(PoSE(), to=TARGET), model, tmp_path, texts(4)).train()


def crossing(module, query, key, value, attention_mask, **named):
    """Rows that see each other."""
    mixed = torch.cat([value[:1], value[1:] + value[:1].flip(-1)])
    return sdpa_attention_forward(module, query, key, mixed, attention_mask, **named)


def cutting(module, query, key, value, attention_mask, position_ids=None, **named):
    """Attention inside runs of positions, as of packed documents."""
    run = (position_ids.diff(prepend=position_ids[:, :1] - 1) != 1).cumsum(-1)
    seen = (run[:, None] == run[:, :, None]).tril()[:, None]
    return sdpa_attention_forward(module, query, key, value, seen, **named)


for name, function in (("cutting", cutting), ("crossing", crossing)):
    AttentionInterface.register(name, function)
    AttentionMaskInterface.register(name, sdpa_mask)


@pytest.mark.parametrize("attention", ["cutting", "crossing"])
def test_attention_that_cuts_samples_or_joins_rows_is_refused(attention, tmp_path):
    model = model_for(PoSE())
    model.config._attn_implementation = attention
    refused(f"attn_implementation='{attention}' does not keep a sample in one piece", tmp_path, model=model)
