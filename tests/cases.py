"""Small configurations in the shapes that public checkpoints have, as plain JSON."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel

from ropewalk.rope.trial import class_of

BASE: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
    "pad_token_id": 0, "torch_dtype": "float32",
}  # fmt: skip
LATENT = {"num_key_value_heads": 4, "q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8,
          "qk_nope_head_dim": 16, "v_head_dim": 16}  # fmt: skip
EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
           "moe_intermediate_size": 32, "first_k_dense_replace": 2}  # fmt: skip
SCALED = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 64, "beta_fast": 32, "beta_slow": 1,
          "mscale": 1.0, "mscale_all_dim": 1.0}  # fmt: skip
PAIRED = {"max_position_embeddings": 2560, "rope_theta": 10000.0, "rope_scaling": SCALED}
STAIRS = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 64,
          "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0,
          "llama_4_scaling_beta": 0.1}  # fmt: skip
SLIDING = ["sliding_attention", "full_attention"]


def of(model_type: str, *without: str, **more: Any) -> dict[str, Any]:
    """A configuration of a model type: the common keys, others, and some left out."""
    found = {"model_type": model_type, **copy.deepcopy(BASE), **copy.deepcopy(more)}
    return {key: value for key, value in found.items() if key not in without}


def llama(length: int = 4096, **more: Any) -> dict[str, Any]:
    return of("llama", architectures=["LlamaForCausalLM"], max_position_embeddings=length, **more)


def deepseek(kind: str = "deepseek_v3", **more: Any) -> dict[str, Any]:
    return of(kind, **{**LATENT, **EXPERTS, **PAIRED, **more})


def ministral3(**more: Any) -> dict[str, Any]:
    return of("ministral3", head_dim=16, max_position_embeddings=1024, rope_parameters=STAIRS, **more)


def mixtral(**more: Any) -> dict[str, Any]:
    return of("mixtral", num_local_experts=2, num_experts_per_tok=1, max_position_embeddings=4096, rope_theta=1e6,
              sliding_window=None, **more)  # fmt: skip


def phi3(**more: Any) -> dict[str, Any]:
    return of("phi3", **{"num_key_value_heads": 4, "max_position_embeddings": 4096, "rope_theta": 10000.0,
                         "original_max_position_embeddings": 4096, **more})  # fmt: skip


def hunyuan(kind: str = "hunyuan_v1_dense", **more: Any) -> dict[str, Any]:
    rope = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0,
            "mscale_all_dim": 1.0}  # fmt: skip
    return of(kind, head_dim=16, max_position_embeddings=4096, rope_theta=10000.0, rope_scaling=rope, **more)


def gemma4(**more: Any) -> dict[str, Any]:
    return of("gemma4_text", head_dim=16, global_head_dim=32, sliding_window=64, layer_types=SLIDING,
              max_position_embeddings=4096, hidden_size_per_layer_input=0, vocab_size_per_layer_input=96,
              num_kv_shared_layers=0, rope_parameters={
                  "full_attention": {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
                  "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}, **more)  # fmt: skip


def llama4(**more: Any) -> dict[str, Any]:
    return of("llama4_text", **{"num_hidden_layers": 4, "head_dim": 16, "num_local_experts": 2,
                                "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "intermediate_size_mlp": 64,
                                "attention_chunk_size": 64, "no_rope_layers": [1, 1, 1, 0],
                                "max_position_embeddings": 1024, "rope_theta": 500000.0, **more})  # fmt: skip


def hybrid(kind: str, **more: Any) -> dict[str, Any]:
    """Layers that rotate see a window, the others see all and do not rotate."""
    experts = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32, "num_shared_experts": 1}
    return of(kind, **{"layer_types": SLIDING, "sliding_window": 64, "max_position_embeddings": 1024,
                       "rope_theta": 10000.0, "head_dim": 16, **(experts if kind == "exaone_moe" else {}),
                       **more})  # fmt: skip


def deepseek_v4(**more: Any) -> dict[str, Any]:
    return of("deepseek_v4", num_key_value_heads=1, head_dim=64, qk_rope_head_dim=16, q_lora_rank=16, o_groups=2,
              o_lora_rank=16, n_routed_experts=4, n_shared_experts=1, num_experts_per_tok=2, moe_intermediate_size=32,
              index_head_dim=32, index_n_heads=4, index_topk=16, hc_mult=2, num_hash_layers=1, sliding_window=32,
              max_position_embeddings=4096, rope_theta=10000, compress_rope_theta=160000, compress_ratios=[0, 4],
              rope_scaling={"type": "yarn", "factor": 16, "original_max_position_embeddings": 256, "beta_fast": 32,
                            "beta_slow": 1}, **more)  # fmt: skip


def multimodal(kind: str = "gemma3", text: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    vision = {"gemma3": "siglip_vision_model", "llava": "clip_vision_model"}[kind]
    gemma3 = of("gemma3_text", num_hidden_layers=6, head_dim=16, sliding_window=64, max_position_embeddings=4096,
                rope_theta=1e6, rope_local_base_freq=10000.0)  # fmt: skip
    own = {"gemma3": gemma3, "llava": llama(rope_theta=10000.0)}
    return {"model_type": kind, "text_config": {**own[kind], **(text or {})}, "vision_config": {"model_type": vision},
            **copy.deepcopy(more)}  # fmt: skip


def qwen2_vl(**more: Any) -> dict[str, Any]:
    return of("qwen2_vl", max_position_embeddings=32768, rope_theta=1e6, vision_config={"model_type": "qwen2_vl"},
              rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3]}, **more)  # fmt: skip


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096}
LINEAR = {"type": "linear", "factor": 4.0}

SOUND: dict[str, dict[str, Any]] = {
    "Qwen2-VL": qwen2_vl(),
    "latent attention's pair": deepseek(),
    "Kimi's equal betas": deepseek(rope_scaling={**SCALED, "beta_fast": 1.0, "beta_slow": 1.0}),
    "stairs": ministral3(),
    "full rotary Phi-3": phi3(),
    "partial rotary Phi-3": phi3(partial_rotary_factor=0.75),
    "alpha base": hunyuan(),
    "two kinds of head": gemma4(),
    "length before scaling, said twice": llama(rope_theta=1e4, max_sequence_length=16384, rope_scaling=LINEAR),
    "factors of latent attention": of(
        "minicpm3", **LATENT, max_position_embeddings=4096,
        rope_scaling={"type": "longrope", "short_factor": [1.05, 1.1, 2.0, 4.0], "long_factor": [1.05, 1.1, 2.0, 4.0],
                      "original_max_position_embeddings": 4096}),
    "yarn without a base, old spelling": llama(16384, rope_scaling={**YARN}),
    "Qwen's recipe": of("qwen2", max_position_embeddings=4096, rope_theta=1e6, rope_scaling=YARN),
    "a lower limit of a trained-in YaRN": deepseek(max_position_embeddings=2048),
    "su with its length inside": phi3(max_position_embeddings=16384, rope_scaling={
        "type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "original_max_position_embeddings": 4096}),
    "Gemma 3 as published": multimodal(
        text={"max_position_embeddings": 131072, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}}),
    "Mixtral": mixtral(),
    "three axes": qwen2_vl(),
    "chunks": llama4(),
    "gpt-oss as published": of("gpt_oss", head_dim=16, num_local_experts=2, num_experts_per_tok=1, sliding_window=64,
                               layer_types=SLIDING, max_position_embeddings=131072, rope_theta=150000, rope_scaling={
                                   "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                                   "truncate": False, "original_max_position_embeddings": 4096}),
    "a window that the model does not read": llama(rope_theta=1e4, sliding_window=64),
    "Qwen3.5": of("qwen3_5_text", head_dim=16, num_hidden_layers=4, max_position_embeddings=4096, rope_parameters={
        "rope_type": "default", "rope_theta": 1e7, "mrope_section": [1, 1, 0], "mrope_interleaved": True,
        "partial_rotary_factor": 0.25}),
    "DeepSeek-V4": deepseek_v4(),
}  # fmt: skip

PICTURES = {"model_type": "qwen2_vl"}


def qwen3_vl(section: Any, **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_interleaved": True, "mrope_section": section, **more}
    text = of("qwen3_vl_text", head_dim=16, max_position_embeddings=4096, rope_parameters=rope)
    return {"model_type": "qwen3_vl", "text_config": text, "vision_config": {}}


UNSOUND: dict[str, tuple[str, str, dict[str, Any]]] = {  # code, key, configuration
    "lost section": ("mrope-section-missing", "rope_scaling.mrope_section", of(
        "qwen2_vl", max_position_embeddings=4096, rope_theta=1e6, vision_config=PICTURES,
        rope_scaling={"type": "mrope"})),
    "section of another head": ("mrope-section-invalid", "rope_scaling.mrope_section", of(
        "qwen2_vl", max_position_embeddings=4096, rope_theta=1e6, vision_config=PICTURES,
        rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]})),
    "empty section": ("mrope-section-invalid", "text_config.rope_parameters.mrope_section", qwen3_vl([])),
    "more turns than pairs": ("mrope-section-invalid", "text_config.rope_parameters.mrope_section",
                              qwen3_vl([2, 3, 3])),
    "no turns": ("mrope-layout-contradicted", "text_config.rope_parameters.mrope_interleaved",
                 qwen3_vl([4, 2, 2], mrope_interleaved=False)),
    "turns where there are none": ("mrope-layout-contradicted", "rope_scaling.mrope_interleaved", of(
        "qwen2_vl", max_position_embeddings=4096, rope_theta=1e6, vision_config=PICTURES,
        rope_scaling={"type": "mrope", "mrope_section": [2, 3, 3], "mrope_interleaved": True})),
    "no type": ("rope-type-missing", "rope_scaling.type", llama(16384, rope_theta=1e4, rope_scaling={
        "factor": 4.0, "original_max_position_embeddings": 4096})),
    "default type": ("rope-type-missing", "rope_parameters.rope_type", llama(16384, rope_parameters={
        "rope_type": "default", "rope_theta": 1e4, "factor": 4.0})),
    "factor beside a base": ("rope-type-missing", "rope_parameters.rope_type", llama(16384, rope_parameters={
        "rope_theta": 1e4, "factor": 8})),
    "null type": ("rope-type-missing", "rope_scaling.rope_type", llama(16384, rope_theta=1e4, rope_scaling={
        **YARN, "rope_type": None})),
    "null type, nothing else": ("rope-type-unknown", "rope_parameters.rope_type", llama(rope_parameters={
        "rope_type": None, "rope_theta": 1e4})),
    "engine's name": ("rope-type-unknown", "rope_scaling.rope_type", llama(16384, rope_theta=1e4, rope_scaling={
        **YARN, "rope_type": "deepseek_yarn"})),
    "vendor's name": ("rope-type-unknown", "rope_scaling.type", llama(16384, rope_theta=1e4, rope_scaling={
        **{key: value for key, value in YARN.items() if key != "rope_type"}, "type": "telechat3-yarn"})),
    "capitals": ("rope-type-unknown", "rope_scaling.rope_type", llama(16384, rope_theta=1e4, rope_scaling={
        **YARN, "rope_type": "YaRN"})),
    "no near name": ("rope-type-unknown", "rope_scaling.type", llama(16384, rope_theta=1e4, rope_scaling={
        "type": "ntk", "factor": 4.0})),
    "old name": ("rope-type-unknown", "rope_scaling.type", phi3(max_position_embeddings=16384, rope_scaling={
        "type": "su", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8})),
    "heads that do not divide": ("head-count-invalid", "num_key_value_heads", llama(num_key_value_heads=3)),
    "beside the language model": ("keys-outside", "rope_scaling", multimodal(
        rope_scaling=YARN, max_position_embeddings=16384)),
    "beside llava's": ("keys-outside", "rope_scaling", multimodal("llava", rope_scaling=YARN)),
    "misspelt base": ("key-misspelt", "rope_thetha", llama(rope_thetha=1e6)),
    "foreign base": ("key-misspelt", "rotary_base", llama(rotary_base=1e6)),
    "share as text": ("partial-rotary-invalid", "rotary_pct", of("gpt_neox", "num_key_value_heads", rotary_pct="0.25")),
    "share above one": ("partial-rotary-invalid", "partial_rotary_factor", llama(partial_rotary_factor=1.5)),
    "two lengths": ("length-contradicted", "max_position_embeddings", of(
        "cohere", max_position_embeddings=8192, model_max_length=131072, rope_theta=8e6)),
    "two readings": ("length-ambiguous", "max_position_embeddings", llama(16384, rope_theta=1e5, rope_scaling=LINEAR)),
    "two readings, no base": ("length-ambiguous", "max_position_embeddings", llama(16384, rope_scaling=LINEAR)),
    "no head size": ("head-dim-missing", "head_dim", {**mixtral(rope_scaling=YARN), "max_position_embeddings": 16384}),
    "misspelt alias": ("key-misspelt", "rope_scaling.attn_facter", llama(16384, rope_theta=1e4, rope_scaling={
        **YARN, "attn_facter": 1.0})),
    "negative factor": ("factor-invalid", "rope_scaling.factor", llama(16384, rope_theta=1e4, rope_scaling={
        **YARN, "factor": -4.0})),
    "endless factor": ("factor-invalid", "rope_scaling.factor", llama(16384, rope_theta=1e4, rope_scaling={
        **YARN, "factor": float("inf")})),
    "base missing, new spelling": ("rope-theta-missing", "rope_parameters.rope_theta", llama(
        16384, rope_parameters=YARN)),
}  # fmt: skip


def write(folder: Path, raw: dict[str, Any]) -> str:
    """A folder with this config.json, and nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    return str(folder)


def build(folder: Path, raw: dict[str, Any]) -> PreTrainedModel:
    """Random weights beside the configuration as it was given, and the model."""
    write(folder, raw)
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(folder)
    model: PreTrainedModel = class_of(config)(config).float().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    write(folder, raw)
    return model
