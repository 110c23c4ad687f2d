"""What a training is said to take, against what it takes."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ropewalk.common.errors import UserError
from ropewalk.planning import memory
from ropewalk.planning.cost import cost
from ropewalk.planning.hardware import gpu
from ropewalk.planning.measure import peak_bytes
from ropewalk.planning.shapes import shapes
from ropewalk.training.forecast import forecast, how
from ropewalk.training.loop import Run, roped
from ropewalk.training.optimizers import Optimizer
from ropewalk.training.recipe import CHOICES, Recipe
from tests.models import config, tiny

TOKENS, VOCABULARY = 1024, 8000  # small: many processors multiply bfloat16 fifty times slower than float32


def llama() -> LlamaConfig:
    return LlamaConfig(vocab_size=VOCABULARY, hidden_size=128, intermediate_size=352, num_hidden_layers=6,
                       num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
                       tie_word_embeddings=True)  # fmt: skip


def bytes_of(tensors: Any) -> int:
    return sum(one.numel() * one.element_size() for one in tensors)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "kind", "tiled"),
    [(way, kind, False) for way in CHOICES["memory"] for kind in ("float32", "bfloat16")]
    + [("plain", "float32", True), ("checkpointed", "float32", True)],
)
def test_a_step_takes_what_was_said_within_a_tenth(way: str, kind: str, tiled: bool) -> None:
    model = LlamaForCausalLM(llama())
    for one in model.parameters():
        one.data = one.data.to(getattr(torch, kind))
    recipe = Recipe(method="pi", steps=3, batch=1, memory=way, chunk=256, tiled_mlp=tiled, warmup=0)
    rng = np.random.default_rng(0)
    run = Run(recipe, model, TOKENS, [rng.integers(3, VOCABULARY, TOKENS) for _ in range(3)], np.array([1]))
    with roped(model, recipe, run.parts[0]):
        model.train()
        run._step(0, run.parts[0], run.samplers[0])
        gc.collect()
        state = run.optimizer.state_dict()
        moments = [one for each in state["state"].values() for one in each.values()]
        staying = bytes_of(model.parameters()) + bytes_of(moments) + bytes_of(state["masters"].values())
        peak = staying + peak_bytes(lambda: run._step(1, run.parts[0], run.samplers[0]))
    said = memory.training(shapes(llama()), how(recipe, kind), TOKENS).total
    assert said == pytest.approx(peak, rel=0.1), (said / 2**20, peak / 2**20)


@pytest.mark.parametrize("family", ["llama", "gpt_oss"])
def test_muon_keeps_one_moment_of_matrices_and_two_of_embeddings_and_experts(family: str) -> None:
    model = tiny(family)
    optimizer = Optimizer(model.named_parameters(), "muon", learning_rate=1.0)
    moments = [one for each in optimizer.state_dict()["state"].values() for one in each.values() if one.ndim]
    said = memory.training(shapes(model.config), how(Recipe(optimizer="muon"), "float32"), 64).parts["optimizer"]
    assert said == pytest.approx(bytes_of(moments), rel=0.02)  # norms and biases are few


def small(**more: Any) -> Any:
    usual: dict[str, Any] = dict(method="pi", batch=4)
    found = config("llama", max_position_embeddings=64)
    return forecast(found, Recipe(**{**usual, **more}), 256, 64, "m", dtype="float32")


def test_stages_and_tokens_are_those_of_the_run() -> None:
    one = small(steps=10)
    assert one.tokens == 10 * 4 * 256
    assert one.trained == one.parameters
    assert small(steps=10, positions="pose").tokens == 10 * 4 * 64


def test_switches_need_less_and_the_one_that_lengthens_most_comes_first() -> None:
    one = small()
    assert one.fits
    assert all(other.bytes < one.memory.total for other in one.switches)
    assert [other.longest for other in one.switches] == sorted((other.longest for other in one.switches), reverse=True)


def test_what_does_not_fit_is_refused_with_the_switch_that_makes_it_fit() -> None:
    one = small(micro=4)
    object.__setattr__(one, "room", one.memory.total - 1)
    with pytest.raises(UserError) as refused:
        one.refuse_too_large()
    assert refused.value.mend.startswith("Add --")
    object.__setattr__(one, "room", 1)
    with pytest.raises(UserError) as refused:
        one.refuse_too_large()
    assert "--to" in refused.value.mend


@pytest.mark.parametrize(("name", "moves"), [("beacon", False), ("landmark", True)])
def test_a_frozen_model_is_not_said_to_move(name: str, moves: bool) -> None:
    found = small(method=name, micro=1)
    assert found.trained == (found.parameters if moves else None)
    assert ("none of" in str(found)) is not moves
    assert not any("lora" in one.options or "recurrent" in one.options for one in found.switches)
    assert any("checkpointed" in one.options for one in found.switches) is moves


def test_adapters_move_less() -> None:
    assert small(trainable="lora").trained < small().trained


def test_hours_are_those_of_all_stages_on_a_named_accelerator() -> None:
    found = config("llama", max_position_embeddings=64)
    times = {
        kind: forecast(found, Recipe(method="pi", batch=4, memory=kind), 256, 64, "m", "h100", "bfloat16", devices=n)
        for kind, n in (("plain", 1), ("checkpointed", 2))
    }
    work = cost(shapes(found), 256, 1000 * 4 * 256, gpu("h100"))
    assert times["plain"].hours == pytest.approx(work.training_hours)
    assert times["checkpointed"].hours == pytest.approx(work.training_hours * 4 / 3 / 2)
    assert small().hours is None


@pytest.mark.parametrize("way", [way for way in CHOICES["memory"] if way not in ("plain", "recurrent")])
def test_offloaded_activations_are_counted_in_every_way_that_has_them(way: str) -> None:
    found = config("llama", max_position_embeddings=64, num_hidden_layers=6)
    usual: dict[str, Any] = dict(method="pi", batch=4, memory=way, chunk=32)
    with_, without = (
        forecast(found, Recipe(**usual, offload=offload), 256, 64, "m", "h100", "float32")
        for offload in (("activations",), ())
    )
    assert with_.memory.total < without.memory.total and with_.memory.host > without.memory.host
