"""GGUF files of tiny models, written tensor by tensor under names that are spelled out here, as llama.cpp has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

BLOCK = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
GEMMA = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
ARCHITECTURES = {"gemma3_text": "gemma3", "mistral": "llama"}


def name_of(parameter: str, four_norms: bool) -> str:
    stem, _, suffix = parameter.rpartition(".")
    if stem in TOP:
        return f"{TOP[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{({**BLOCK, **GEMMA} if four_norms else BLOCK)[part]}.{suffix}"


def kind_of(value: Any) -> tuple[Any, ...]:
    """The type that a key of this value has in a file, and of a list's entries."""
    kinds = gguf.GGUFValueType
    if isinstance(value, list):
        return kinds.ARRAY, *kind_of(value[0])
    return ({bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING}[type(value)],)


def written(
    path: Path, model: Any, keys: dict[str, Any] | None = None, factors: dict[str, Any] | None = None, leave: str = ""
) -> Path:
    """Write a model as F32: its keys as llama.cpp's converter writes them, and ``keys`` (None removes one)."""
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    given = {
        "block_count": config.num_hidden_layers,
        "context_length": config.max_position_embeddings,
        "embedding_length": config.hidden_size,
        "feed_forward_length": config.intermediate_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "attention.key_length": head_dim,
        "attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "rope.freq_base": 10000.0,
    } | (keys or {})
    writer = gguf.GGUFWriter(path, architecture)
    for key, value in given.items():
        if value is not None:
            writer.add_key_value(f"{architecture}.{key}", value, *kind_of(value))
    gemma = architecture.startswith("gemma")
    for parameter, tensor in model.state_dict().items():
        if parameter == "lm_head.weight" and config.tie_word_embeddings:
            continue
        name, values = name_of(parameter, architecture in ("gemma2", "gemma3")), tensor.float().numpy()
        if name == leave:
            continue
        if architecture == "llama" and (".attn_q." in name or ".attn_k." in name):
            heads = config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads
            rows = [  # row 2i of a head is its i-th, row 2i + 1 its (i + d/2)-th
                head * head_dim + i // 2 + (i % 2) * (head_dim // 2) for head in range(heads) for i in range(head_dim)
            ]
            values = values[rows]
        writer.add_tensor(name, np.ascontiguousarray(values + 1 if gemma and name.endswith("norm.weight") else values))
    for name, values in (factors or {}).items():
        writer.add_tensor(f"{name}.weight", np.asarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
