"""The memory model against counted allocations, and its own laws."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from ropewalk.common.errors import UserError
from ropewalk.planning.calibrate import calibrate
from ropewalk.planning.measure import peak_bytes
from ropewalk.planning.memory import OPTIMIZERS, Correction, Serving, Training, longest, serving, training
from ropewalk.planning.shapes import shapes
from tests.planning.test_shapes import llama_3_8b

SMALL = {
    "vocab_size": 1000, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2,
}  # fmt: skip
LLAMA = shapes(llama_3_8b())
BFLOAT16 = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()  # else it computes in copies in float32


def test_allocations_are_counted_exactly():
    def work():
        kept = torch.empty(1000, dtype=torch.float32)
        passing = torch.empty(3000, dtype=torch.uint8)
        del passing
        return kept, torch.empty(500, dtype=torch.float64)

    assert peak_bytes(work) == 4000 + 4000
    assert peak_bytes(lambda: torch.empty(10_000, dtype=torch.uint8)) == 10_000


def test_temporaries_of_a_backward_pass_are_counted():
    x = torch.randn(1000, requires_grad=True)
    x.grad = torch.zeros_like(x)
    assert 8000 <= peak_bytes(lambda: (x * 2).exp().sum().backward()) <= 12_100  # with a result kept, and two gradients


@pytest.mark.parametrize(("name", "more"), [
    ("Llama", {}),
    ("Qwen3", {}),
    ("Gemma3Text", {"sliding_window": 4096}),
    ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_measured_peaks_are_predicted_within_ten_percent(name, more, dtype):
    config = getattr(transformers, f"{name}Config")(**SMALL | more)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    found = calibrate(model, shapes(config), window=512)
    for key, measured in found.measured.items():
        weights = sum(p.numel() * p.element_size() for p in model.parameters()) * (1 if key == "prefill" else 2)
        copies = 0.05 if dtype == torch.bfloat16 and not BFLOAT16 else 0
        assert weights + found.predicted[key] == pytest.approx(weights + measured, rel=0.1 + copies), key
    assert found.correction.layer == pytest.approx(1, abs=0.15)


def test_calibration_leaves_the_model_as_it_was():
    model = AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SMALL)).eval()
    model.lm_head.requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    calibrate(model, shapes(model.config), window=64)
    assert (
        not model.training and not model.lm_head.weight.requires_grad and model.model.embed_tokens.weight.requires_grad
    )
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_a_correction_scales_only_what_it_names():
    how = Training(checkpointing=True)
    plain, doubled = (training(LLAMA, how, 4096, Correction(loss=factor)).parts for factor in (1.0, 2.0))
    assert doubled.pop("logits and loss") == 2 * plain.pop("logits and loss")
    assert doubled == plain


@pytest.mark.parametrize(("trainable", "optimizer", "per_parameter"), [
    ("all", "adamw", 2 + 2 + 12),
    ("all", "adamw-bf16", 2 + 2 + 4),
    ("all", "adamw-8bit", 2 + 2 + 2 + 8 / 256),
    ("all", "paged-adamw-8bit", 2 + 2),
])  # fmt: skip
def test_resident_bytes_per_parameter(trainable, optimizer, per_parameter):
    parts = training(LLAMA, Training(trainable=trainable, optimizer=optimizer, checkpointing=True), 1024).parts
    resident = sum(parts.get(key, 0) for key in ("weights", "gradients", "optimizer"))
    assert resident == pytest.approx(LLAMA.parameters * per_parameter, rel=1e-6)


def test_adamw_states_are_those_that_torch_makes():
    model = AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SMALL))
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    states = sum(t.numel() * t.element_size() for s in optimizer.state.values() for t in s.values() if t.dim())
    assert training(shapes(model.config), Training(dtype="float32"), 64).parts["optimizer"] == states


def test_float32_logits_have_the_known_size():
    parts = training(LLAMA, Training(checkpointing=True), 16_000).parts
    assert parts["logits and loss"] >= 3 * 7.64 * 2**30  # three float32 copies at the worst moment


def test_offloaded_layer_inputs_have_the_known_size():
    found = training(LLAMA, Training(checkpointing=True, offload=True), 100_000)
    assert found.host / 2**30 == pytest.approx(24.4, abs=0.05)
    assert found.parts["layer inputs"] == 2 * 100_000 * 4096 * 2


@pytest.mark.parametrize("on", [{"checkpointing": True}, {"chunked_loss": True}, {"tiled_mlp": True},
                            {"optimizer": "adamw-8bit"}, {"trainable": "lora"}, {"trainable": "qlora"}, {"shard": 8},
                                {"sequence": 8}])  # fmt: skip
def test_every_switch_saves_at_a_long_length(on):
    start = Training(checkpointing="tiled_mlp" in on or "chunked_loss" in on)
    start = replace(start, chunked_loss="tiled_mlp" in on)
    assert training(LLAMA, replace(start, **on), 131_072).total < training(LLAMA, start, 131_072).total


@pytest.mark.parametrize(
    "how", [Training(), Training(checkpointing=True, chunked_loss=True, tiled_mlp=True, offload=True)]
)
def test_memory_grows_with_the_length(how):
    totals = [training(LLAMA, how, 2**i).total for i in range(10, 24)]
    assert totals == sorted(totals)


def test_serving_parts_are_weights_cache_and_prefill():
    parts = serving(LLAMA, Serving(chunk=8192), 131_072).parts
    assert parts["weights"] == LLAMA.parameters * 2 and parts["cache"] == 16 * 2**30
    halved = serving(LLAMA, Serving(weights="fp8", cache="fp8", tensor=2), 131_072).parts
    ends = LLAMA.embedding + LLAMA.head
    assert halved["cache"] == 4 * 2**30 and halved["weights"] == (LLAMA.parameters - ends + 2 * ends) // 2


def test_the_committed_measurements_hold_the_promise():
    rows = json.loads((Path(__file__).parents[2] / "bench" / "results" / "memory.json").read_text())
    measured = [row for row in rows if row["unit"] == "MiB"]
    assert len(measured) > 20 and all(abs(row["ratio"] - 1) <= 0.1 for row in measured)


def test_longest_is_the_last_length_that_fits():
    assert longest(lambda length: length <= 12_345) == 12_345
    assert longest(lambda length: False) == 0
    assert longest(lambda length: True, most=1000) == 1000


def test_unknown_names_are_refused_with_the_nearest():
    with pytest.raises(UserError, match="adamw-8bit"):
        training(LLAMA, Training(optimizer="adamw-8bits"), 64)
    with pytest.raises(UserError, match="fp8"):
        serving(LLAMA, Serving(cache="fp88"), 64)
    assert "adamw" in OPTIMIZERS
