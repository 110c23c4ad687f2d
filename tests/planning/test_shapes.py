"""Parameter counts and widths against real modules, published sizes and the configurations themselves."""

from __future__ import annotations

import pytest
import torch
import transformers

from ropewalk.common.errors import UserError
from ropewalk.planning.memory import cache
from ropewalk.planning.shapes import layer_kinds, shapes
from tests.models import FAMILIES, config, shared, step

MIB = 2**20


def llama_3_8b():
    return transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        vocab_size=128256, max_position_embeddings=8192, rope_parameters={"rope_type": "default", "rope_theta": 5e5},
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_model(family):
    model = shared(family)
    found = shapes(config(family))
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert found.depth == 2
    assert found.vocabulary == model.get_output_embeddings().weight.shape[0]


@pytest.mark.parametrize(("made", "total", "active"), [
    (llama_3_8b(), 8_030_261_248, 8_030_261_248),  # the published checkpoints' sizes
    (transformers.MixtralConfig(), 46_702_792_704, 12_879_925_248),
    (transformers.DeepseekV3Config(), 671_026_404_352, 37_552_282_624),
])  # fmt: skip
def test_published_sizes(made, total, active):
    found = shapes(made)
    assert (found.parameters, found.active_parameters) == (total, active)


def test_tied_embeddings_are_counted_once():
    apart, tied = (shapes(config("llama", tie_word_embeddings=tie)) for tie in (False, True))
    assert apart.parameters - tied.parameters == apart.head == apart.embedding
    assert tied.head == 0 and tied.matrix_parameters == apart.matrix_parameters


def test_active_parameters_grow_with_the_experts_chosen():
    one, two = (shapes(config("gpt_oss", num_experts_per_tok=n)) for n in (1, 2))
    assert one.parameters == two.parameters == two.active_parameters
    assert (
        two.active_parameters - one.active_parameters
        == sum(n * layer.expert_parameters for layer, n in one.layers) // 2
    )


def test_adapters_on_every_linear_map_have_the_published_size():
    llama_2 = transformers.LlamaConfig(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, vocab_size=32000
    )
    assert 64 * sum(n * layer.adaptable for layer, n in shapes(llama_2).layers) == 159_907_840  # LongQLoRA, r = 64


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "phi3", "gpt_neox", "gpt_oss", "olmo3"])
def test_cache_is_what_transformers_keeps(family):
    model, length = shared(family), 60
    filled = transformers.DynamicCache(config=model.config)
    with torch.no_grad():
        step(model, torch.randint(3, 90, (1, length)), filled)
    kept = sum(layer.keys.numel() + layer.values.numel() for layer in filled.layers)
    windows = [layer for layer, n in shapes(model.config).layers for _ in range(n) if layer.window is not None]
    off_by_one = sum(layer.cached for layer in windows if layer.window <= length)  # it keeps window - 1 tokens
    assert cache(shapes(model.config), length, 1) - off_by_one == kept


def test_cache_of_known_models():
    assert cache(shapes(llama_3_8b()), 131_072) == 16 * 2**30  # 128 KiB per token
    deepseek = shapes(transformers.DeepseekV3Config())
    assert cache(deepseek, 1000) == 61 * (512 + 64) * 2 * 1000
    assert cache(deepseek, 1000, devices=8) == cache(deepseek, 1000)  # a latent is held by every device


def test_sliding_layers_stop_growing():
    gemma = shapes(config("gemma3"))
    growth = cache(gemma, 2000) - cache(gemma, 1000)
    full = next(layer for layer, _ in gemma.layers if layer.window is None)
    assert growth == 1000 * full.cached * 2


def test_kinds_of_layers_follow_the_window_where_none_are_listed():
    assert set(layer_kinds(transformers.MistralConfig(sliding_window=4096))) == {"sliding_attention"}
    assert set(layer_kinds(transformers.MistralConfig(sliding_window=None))) == {"full_attention"}


def test_norms_are_asked_what_they_keep():
    (llama, _), (neox, _) = shapes(config("llama")).layers[0], shapes(config("gpt_neox")).layers[0]
    kept = dict(llama.norm_bytes)
    assert kept[2] == 2 * (64 * (4 + 2) + 4)  # float32 copy, rounded product, the reciprocal root
    assert kept[4] == 2 * (64 * (4 + 4) + 4)
    assert dict(neox.norm_bytes)[2] == 2 * (64 * 2 + 8)  # LayerNorm: its input, mean and deviation


def test_a_model_without_decoder_is_refused():
    with pytest.raises(UserError, match="no decoder"):
        shapes(transformers.ViTConfig())
