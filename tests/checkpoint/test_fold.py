"""Folding an attention factor into the weights: the same logits without the key, and nothing else touched."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Cohere2Config

from ropewalk.checkpoint.fold import fold, heads_of
from ropewalk.checkpoint.write import extended_config
from ropewalk.common.errors import UserError
from ropewalk.engines.handover import without_attention_factor
from ropewalk.rope import config as rope_config
from ropewalk.rope import live
from tests.matrix import LONG, TARGET, logits, made
from tests.models import FAMILIES, config, tiny

T = 1.3


def saved(model, folder):
    model.save_pretrained(folder)
    return [folder / "model.safetensors"]


def with_biases(family):
    model = tiny(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.fill_(0.1)
    return model


def folded(family, tmp_path, spelling=f"yarn(attention_factor={T})"):
    """Logits with the key, logits after folding without it, the two state dicts, and the names that changed."""
    model = with_biases(family)
    method = made(spelling, model)
    written, _ = extended_config(model.config, method, TARGET)
    parameters, factors = without_attention_factor(written)
    files = saved(model, tmp_path)
    (tmp_path / "out").mkdir()
    names = fold(files, tmp_path / "out", written, factors)
    before, after = load_file(files[0]), load_file(tmp_path / "out" / "model.safetensors")
    method.extend(model, to=TARGET)
    with_key = logits(model, LONG)
    plain = with_biases(family)
    rope_config.write(plain.config, parameters, TARGET)
    live.rebuild(plain, parameters)
    plain.load_state_dict(after, strict=False)
    return with_key, logits(plain, LONG), before, after, names


@pytest.mark.parametrize("family", list(FAMILIES))
def test_a_folded_model_gives_the_logits_of_the_key(family, tmp_path):
    with_key, without, before, after, names = folded(family, tmp_path)
    scale = float(with_key.abs().max())
    assert float((with_key - without).abs().max()) < 1e-4 * scale
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(names)


def test_without_the_factor_the_logits_differ(tmp_path):
    model = tiny("llama")
    method = made(f"yarn(attention_factor={T})", model)
    written, _ = extended_config(model.config, method, TARGET)
    parameters, _ = without_attention_factor(written)
    method.extend(model, to=TARGET)
    with_key = logits(model, LONG)
    rope_config.write(model.config, parameters, TARGET)
    live.rebuild(model, parameters)
    assert float((with_key - logits(model, LONG)).abs().max()) > 0.1


def test_yarns_own_factor_stays_with_the_engines(tmp_path):
    written, _ = extended_config(config("llama"), made(f"yarn(attention_factor={T})", tiny("llama")), TARGET)
    parameters, factors = without_attention_factor(written)
    (entry,), (factor,) = parameters.values(), factors.values()
    assert entry["rope_type"] == "yarn" and entry["original_max_position_embeddings"] == 64
    assert factor == pytest.approx(T / 1.138629, rel=1e-6)


def test_only_rotated_query_rows_of_a_partly_rotated_fused_projection_change(tmp_path):
    _, _, before, after, names = folded("gpt_neox", tmp_path)
    name = next(name for name in names if name.endswith("weight"))
    changed = (before[name] != after[name]).any(1).reshape(4, 3, 16)  # heads, (q, k, v), head_dim
    assert changed[:, 0, :8].all() and not changed[:, 0, 8:].any() and not changed[:, 1:].any()


def test_phi3_changes_the_first_rows_of_its_fused_projection_only(tmp_path):
    _, _, before, after, names = folded("phi3", tmp_path)
    changed = (before[names[0]] != after[names[0]]).any(1)
    assert changed[:64].reshape(4, 16)[:, :12].all() and not changed[:64].reshape(4, 16)[:, 12:].any()
    assert not changed[64:].any()


def test_biases_fold_with_their_rows_and_keys_stay(tmp_path):
    *_, names = folded("qwen2", tmp_path)
    assert {name.split("self_attn.")[1] for name in names} == {"q_proj.weight", "q_proj.bias"}


@pytest.mark.parametrize("family", ["qwen3", "gemma3", "olmo2"])
def test_where_queries_are_normalised_the_norms_weight_takes_the_factor(family, tmp_path):
    *_, names = folded(family, tmp_path)
    assert all(name.endswith("q_norm.weight") for name in names)


@pytest.mark.parametrize("family", ["gemma3", "olmo3"])
def test_sliding_layers_are_left_alone(family, tmp_path):
    *_, names = folded(family, tmp_path)
    assert names and all("layers.1." in name for name in names)  # layer 0 slides


def test_architectures_without_a_place_for_it_are_refused():
    few = Cohere2Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=2)
    with pytest.raises(UserError, match="cannot be folded into cohere2"):
        heads_of(few, {"all": T})


def test_tensors_that_are_not_there_or_are_quantised_are_named(tmp_path):
    written, _ = extended_config(config("llama"), made("yarn", tiny("llama")), TARGET)
    files = saved(tiny("llama"), tmp_path)
    tensors = load_file(files[0])
    name = "model.layers.1.self_attn.q_proj.weight"
    save_file({**tensors, name: torch.ones(64, 64, dtype=torch.int8)}, files[0])
    with pytest.raises(UserError, match=f"{name} is torch.int8"):
        fold(files, tmp_path, written, {"all": T})
    lost = copy.copy(tensors)
    del lost[name]
    save_file(lost, files[0])
    with pytest.raises(UserError, match=r"no query weights found in layers \[1\]"):
        fold(files, tmp_path, written, {"all": T})
