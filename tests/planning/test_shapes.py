"""Parameter counts and widths against real modules, published sizes and the configurations themselves."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
import transformers

from ropewalk.checkpoint.inspection import layer_types
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


VISION = {"depth": 1, "hidden_size": 32, "num_heads": 2, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 96, "num_experts": 2, "num_experts_per_tok": 1,
        "num_local_experts": 2, "moe_intermediate_size": 32, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2}  # fmt: skip
WITH_PICTURES = [
    "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen3_5", "gemma3", "llama4", "mistral3", "internvl",
    "llava", "glm4v", "idefics3", "mllama",
]  # fmt: skip


@pytest.mark.parametrize("kind", WITH_PICTURES)
def test_a_decoder_beside_other_towers_is_counted_as_it_stands_in_the_whole_model(kind):
    of_text = TEXT | ({"cross_attention_layers": [1]} if kind == "mllama" else {})
    made = transformers.AutoConfig.for_model(kind, text_config=of_text)
    made.vision_config = type(made.vision_config)(**VISION)
    with torch.device("meta"):
        whole = transformers.AutoModelForMultimodalLM.from_config(made)
    whole.tie_weights()
    text = made.get_text_config(decoder=True)
    decoder = next(module for module in whole.modules() if type(getattr(module, "config", None)) is type(text))
    counted = {id(one): one.numel() for part in (decoder, whole.get_output_embeddings()) for one in part.parameters()}
    found = shapes(made)
    assert (found.parameters, found.depth, found.hidden) == (sum(counted.values()), 4, 64)
    assert found.vocabulary == whole.get_output_embeddings().weight.shape[0]
    kinds = Counter[str]()
    for layer, n in found.layers:
        kinds[layer.kind] += n
    assert kinds == layer_types(text)


@pytest.mark.parametrize("tied", [False, True])
def test_the_whole_configuration_says_whether_the_head_is_the_embedding(tied):
    for kind in ("qwen2_5_vl", "internvl", "mistral3"):
        found = shapes(transformers.AutoConfig.for_model(kind, text_config=TEXT, tie_word_embeddings=tied))
        assert found.head == (0 if tied else found.embedding)


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
