"""Tiny random models of every family, built from configurations; nothing is downloaded."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import Cache, PreTrainedModel

from ropewalk.attention.cache_argument import as_argument, of_output

VOCABULARY = 97
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
THETA = {"rope_type": "default", "rope_theta": 10000.0}
LAYERS = ["sliding_attention", "full_attention"]


def _common(*without: str, **more: Any) -> dict[str, Any]:
    return {key: value for key, value in COMMON.items() if key not in without} | more


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", _common(rope_parameters=THETA)),
    "qwen2": ("Qwen2", _common("head_dim", rope_parameters={**THETA, "rope_theta": 1e6})),
    "qwen3": ("Qwen3", _common(rope_parameters={**THETA, "rope_theta": 1e6})),
    "mistral": ("Mistral", _common(rope_parameters=THETA, sliding_window=96)),
    "gemma3": (
        "Gemma3",
        _common(
            sliding_window=16,
            layer_types=LAYERS,
            query_pre_attn_scalar=16,
            rope_parameters={
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "default", "rope_theta": 1e6},
            },
        ),
    ),
    "phi3": ("Phi3", _common("head_dim", rope_parameters={**THETA, "partial_rotary_factor": 0.75},
                             original_max_position_embeddings=64)),
    "gpt_neox": ("GPTNeoX", _common("head_dim", "num_key_value_heads", rope_parameters={**THETA,
                                                                                        "partial_rotary_factor": 0.5})),
    "olmo2": ("Olmo2", _common("head_dim", rope_parameters=THETA)),
    "olmo3": ("Olmo3", _common("head_dim", rope_parameters={"full_attention": THETA, "sliding_attention": THETA},
                               layer_types=LAYERS, sliding_window=16)),
    "cohere": ("Cohere", _common("head_dim", rope_parameters=THETA)),
    "gpt_oss": ("GptOss", _common(rope_parameters=THETA, layer_types=LAYERS, sliding_window=16, num_local_experts=2,
                                  num_experts_per_tok=1)),
}  # fmt: skip


FURTHER: dict[str, tuple[str, dict[str, Any]]] = {  # what none of the families has: softcaps, layers without positions
    "gemma": ("Gemma", _common(rope_parameters=THETA)),
    "gemma2": ("Gemma2", _common(rope_parameters=THETA, layer_types=LAYERS, sliding_window=16,
                                 attn_implementation="eager",  # sdpa does not cap logits in every version
                                 query_pre_attn_scalar=16)),
    "smollm3": ("SmolLM3", _common("head_dim", rope_parameters=THETA, no_rope_layers=[1, 0])),
}  # fmt: skip


def config(family: str, **more: Any) -> Any:
    """A fresh configuration; ``more`` overrides keys."""
    import copy

    name, values = (FAMILIES | FURTHER)[family]
    suffix = "TextConfig" if family == "gemma3" else "Config"
    return getattr(transformers, name + suffix)(**copy.deepcopy(values | more))


def tiny(family: str, **more: Any) -> PreTrainedModel:
    """A fresh random model in float32 and evaluation mode, always with the same weights."""
    torch.manual_seed(0)
    name = (FAMILIES | FURTHER)[family][0]
    model = getattr(transformers, f"{name}ForCausalLM")(config(family, **more))
    with torch.no_grad():
        for parameter in model.parameters():  # large enough that positions matter in the logits
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return model.eval()


@cache
def shared(family: str) -> PreTrainedModel:
    """One model per family for tests that leave it as it was."""
    return tiny(family)


def step(model: PreTrainedModel, ids: Tensor, cache: Cache | None = None, **more: Any) -> tuple[Tensor, Cache]:
    """Logits of some tokens on top of a cache, and the cache with them."""
    out = model(ids, use_cache=True, **as_argument(model, cache), **more)
    return out.logits, of_output(out)


@torch.no_grad()
def in_pieces(model: PreTrainedModel, ids: Tensor, *sizes: int, cache: Cache | None = None) -> Tensor:
    """Logits of all tokens, read a few at a time."""
    assert sum(sizes) == ids.shape[1]
    read = []
    for piece in ids.split(list(sizes), 1):
        logits, cache = step(model, piece, cache)
        read.append(logits)
    return torch.cat(read, 1)


def tokens(batch: int, n: int, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCABULARY, (batch, n), generator=torch.Generator().manual_seed(seed))


def as_trained(memory):
    """Parameters as after some training: away from the model's own."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in memory.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
