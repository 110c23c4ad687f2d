"""Tiny random models of as many architectures as attention methods may meet, and what they do with each.

``docs/render.py`` makes the table of docs/architectures.md from this; a test holds every row against its model.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ropewalk.common.errors import UserError
from ropewalk.methods.catalogue import method
from ropewalk.rope.live import decoder
from ropewalk.rope.probe import Rotating, identity_rotary, probe
from ropewalk.rope.spec import ALL
from tests.models import COMMON, THETA, step
from tests.vision import MODELS as PICTURES
from tests.vision import seeing

TOKENS = 48  # inside the window of 64, beyond the sliding windows of 16
ALLOWED = 2e-5  # of the largest logit
NO_HEADS = ("head_dim",)
MIXED = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
BOTH = {"rope_parameters": {"sliding_attention": THETA, "full_attention": {**THETA, "rope_theta": 1e6}}}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LOCAL = {"num_local_experts": 2, "num_experts_per_tok": 2}
LATENT = {  # multi-head latent attention
    "num_key_value_heads": 4, "q_lora_rank": 32, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
    "v_head_dim": 16, "head_dim": 8,
}  # fmt: skip
ROUTED = {"n_routed_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_group": 1, "topk_group": 1}
YARN = {"rope_parameters": {**THETA, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        "max_position_embeddings": 256}  # fmt: skip
LLAMA3 = {"rope_parameters": {**THETA, "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
                              "high_freq_factor": 4.0, "original_max_position_embeddings": 64},
          "max_position_embeddings": 256}  # fmt: skip

ARCHITECTURES: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {  # keys left out of COMMON, and further ones
    "apertus": (NO_HEADS, {}),
    "arcee": ((), {}),
    "bitnet": (NO_HEADS, {}),
    "cohere": (NO_HEADS, {}),
    "cohere2": ((), MIXED),
    "deepseek_v3": ((), LATENT | ROUTED | {"first_k_dense_replace": 1}),
    "doge": ((), {}),
    "dots1": ((), ROUTED | {"first_k_dense_replace": 1, "n_shared_experts": 1}),
    "ernie4_5": ((), {}),
    "ernie4_5_moe": (NO_HEADS, {"moe_num_experts": 2, "moe_k": 2, "moe_intermediate_size": 32}),
    "exaone4": ((), MIXED),
    "flex_olmo": (NO_HEADS, EXPERTS),
    "gemma": ((), {}),
    "gemma2": ((), MIXED | {"query_pre_attn_scalar": 16}),
    "gemma3_text": ((), MIXED | BOTH | {"query_pre_attn_scalar": 16}),
    "gemma4_text": ((), MIXED | BOTH | {"global_head_dim": 16, "vocab_size_per_layer_input": 97,
                                        "hidden_size_per_layer_input": 8, "num_kv_shared_layers": 0}),
    "glm": ((), {}),
    "glm4": ((), {}),
    "glm4_moe": ((), ROUTED | {"first_k_dense_replace": 1}),
    "gpt_neox": (("head_dim", "num_key_value_heads"), {"rope_parameters": {**THETA, "partial_rotary_factor": 0.25}}),
    "gpt_oss": ((), MIXED | LOCAL),
    "granite": (NO_HEADS, {}),
    "granitemoe": (NO_HEADS, LOCAL),
    "helium": ((), {}),
    "hunyuan_v1_dense": ((), {}),
    "hunyuan_v1_moe": ((), {"num_experts": 2, "moe_topk": 2}),
    "jais2": ((), {}),
    "jetmoe": (("head_dim", "num_attention_heads"), LOCAL | {"kv_channels": 16}),
    "lfm2": (NO_HEADS, {"layer_types": ["conv", "full_attention"]}),
    "llama": ((), {}),
    "llama (llama3)": ((), LLAMA3),
    "llama (yarn)": ((), YARN),
    "llama4_text": ((), LOCAL | {"num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "num_hidden_layers": 4,
                                 "intermediate_size_mlp": 96, "attention_chunk_size": 16,
                                 "moe_layers": [], "attn_temperature_tuning": False}),
    "longcat_flash": (("num_hidden_layers",), LATENT | {
        "num_layers": 1, "ffn_hidden_size": 64, "expert_ffn_hidden_size": 32, "n_routed_experts": 2,
        "zero_expert_num": 1, "moe_topk": 2}),
    "minimax": ((), LOCAL | {"layer_types": ["full_attention", "linear_attention"], "block_size": 16}),
    "minimax_m2": ((), LOCAL),
    "ministral": ((), MIXED),
    "ministral3": ((), {"rope_parameters": {**THETA, "llama_4_scaling_beta": 0.1,
                                            "original_max_position_embeddings": 64}}),
    "mistral": ((), {"sliding_window": 16}),
    "mixtral": ((), LOCAL | {"sliding_window": None}),
    "modernbert-decoder": (("head_dim", "num_key_value_heads"), BOTH | {
        "layer_types": ["sliding_attention", "full_attention"], "local_attention": 16}),
    "moshi": ((), {"num_codebooks": 2, "sliding_window": 16}),
    "nanochat": (NO_HEADS, {}),
    "nemotron": ((), {"rope_parameters": {**THETA, "partial_rotary_factor": 0.5}}),
    "olmo": (NO_HEADS, {}),
    "olmo2": (NO_HEADS, {}),
    "olmo3": (NO_HEADS, MIXED | {"rope_parameters": {"sliding_attention": THETA, "full_attention": THETA}}),
    "olmoe": (NO_HEADS, EXPERTS),
    "persimmon": (("head_dim", "num_key_value_heads"), {"rope_parameters": {**THETA, "partial_rotary_factor": 0.5}}),
    "phi": (NO_HEADS, {"rope_parameters": {**THETA, "partial_rotary_factor": 0.5}}),
    "phi3": (NO_HEADS, {"rope_parameters": {**THETA, "partial_rotary_factor": 0.75},
                        "original_max_position_embeddings": 64}),
    "minimax (window)": ((), LOCAL | {"sliding_window": 16, "layer_types": ["full_attention", "linear_attention"],
                                      "block_size": 16}),
    "phimoe (window)": (NO_HEADS, LOCAL | {"original_max_position_embeddings": 64, "sliding_window": 16}),
    "phimoe": (NO_HEADS, LOCAL | {"original_max_position_embeddings": 64, "sliding_window": None}),
    "qwen2": (NO_HEADS, {}),
    "qwen2_moe": (NO_HEADS, EXPERTS | {"shared_expert_intermediate_size": 32}),
    "qwen2 (window)": (NO_HEADS, {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "qwen2_moe (window)": (NO_HEADS, EXPERTS | {
        "shared_expert_intermediate_size": 32, "use_sliding_window": True, "sliding_window": 16,
        "max_window_layers": 1}),
    "qwen3": ((), {}),
    "qwen3_moe": ((), EXPERTS),
    "qwen3_next": ((), EXPERTS | {
        "layer_types": ["linear_attention", "full_attention"], "shared_expert_intermediate_size": 32,
        "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
        "rope_parameters": {**THETA, "partial_rotary_factor": 0.25}}),
    "seed_oss": ((), {}),
    "smollm3": ((), {"no_rope_layers": [1, 0]}),
    "stablelm": (NO_HEADS, {"rope_parameters": {**THETA, "partial_rotary_factor": 0.25}}),
    "starcoder2": (NO_HEADS, {"sliding_window": 16}),
    "vaultgemma": ((), MIXED | {"query_pre_attn_scalar": 16}),
    "falcon": (("head_dim", "num_key_value_heads"), {"new_decoder_architecture": True, "num_kv_heads": 2}),
    "gpt_neox_japanese": (("head_dim", "num_key_value_heads"), {}),
    "gptj": (("head_dim", "num_key_value_heads"), {"rotary_dim": 8}),
    "bloom": (("head_dim", "num_key_value_heads"), {"n_head": 4}),
    **dict.fromkeys(PICTURES, ((), {})),  # on text
}  # fmt: skip


@torch.no_grad()
def build(name: str) -> PreTrainedModel:
    """The model in float32; also its norms have random weights, as those of trained models differ from 1."""
    model = seeing(name) if name in PICTURES else _of_text(name)
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.normal_(0, 0.15)
        else:
            weight.uniform_(0.5, 1.5)
    return model


def _of_text(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    without, more = ARCHITECTURES[name]
    values = {"rope_parameters": dict(THETA), "attention_dropout": 0.0} | COMMON | copy.deepcopy(more)
    values = {key: value for key, value in values.items() if key not in without}
    config = AutoConfig.for_model(name.split(" ")[0], **values)
    # Transformers' SDPA cannot cap logits; 5.16 takes it all the same, and leaves the cap out.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager" if capped else None).eval()


@torch.no_grad()
def read(model: PreTrainedModel) -> Tensor:
    """Logits of a text, read at once and once more in a prompt and single tokens."""
    ids = torch.randint(3, 97, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    whole, cache, steps = model(ids, use_cache=False).logits, None, []
    for a, b in [(0, 40), *((i, i + 1) for i in range(40, TOKENS))]:
        logits, cache = step(model, ids[:, a:b], cache)
        steps.append(logits)
    return torch.stack([whole, torch.cat(steps, 1)])


@torch.no_grad()
def asked(model: PreTrainedModel) -> dict[nn.Module, tuple[int, set[str]]]:
    """What every layer brings to attention: dimensions per head, and what it asks for beside softmax."""
    found: dict[nn.Module, tuple[int, set[str]]] = {}
    names = {"sliding_window": "sliding window", "softcap": "softcap", "s_aux": "sinks"}
    config: Any = decoder(model).config
    local = "chunks" if hasattr(config, "attention_chunk_size") else "sliding window"

    def spy(module: Any, q: Tensor, k: Tensor, v: Tensor, *mask: Any, **more: Any) -> tuple[Tensor, None]:
        asks = {text for name, text in names.items() if more.get(name) is not None}
        given = mask[0] if mask else more["attention_mask"]
        found[module] = q.shape[-1], asks | ({local} if getattr(given, "local_size", None) else set())
        return v.repeat_interleave(q.shape[1] // v.shape[1], dim=1).transpose(1, 2).contiguous(), None

    def mask(*sizes: Any, local_size: int | None = None, **more: Any) -> Tensor:
        made: Any = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        made.local_size = local_size
        return made

    AttentionInterface.register("spy", spy)
    AttentionMaskInterface.register("spy", mask)
    before, config._attn_implementation = config._attn_implementation, "spy"
    try:
        decoder(model)(torch.arange(8)[None], use_cache=False)
    finally:
        config._attn_implementation = before
    return found


def by_layer(texts: dict[int, str]) -> str:
    """One text if all layers have the same, else each with its layers."""
    if len(set(texts.values())) <= 1:
        return next(iter(texts.values()), "")
    kinds = {text: ", ".join(str(i) for i in texts if texts[i] == text) for text in texts.values()}
    return "; ".join(f"{text or 'none'} (layer {layers})" for text, layers in kinds.items())


def rotation(how: Rotating, width: int) -> str:
    """What the probe found in a layer."""
    if how.rotary is None:
        return "no rotation"
    turned = 2 * how.rotary.inv_freq.shape[-1]
    where = f"all {width}" if turned == width else f"{turned} of {width} at the {how.place}"
    kind = "" if how.rotary.layer_type == ALL else f", {how.rotary.layer_type.removesuffix('_attention')}"
    return f"{how.style}, {where}{kind}"


def row(name: str) -> tuple[str, str, str, str]:
    """Architecture, rotation, what else attention does, result."""
    model = build(name)
    try:
        found, seen = probe(model), asked(model)
        errors = differences(model)
    except UserError as error:
        return name, "", "", f"refused: {reason(error)}"
    turns = {how.index: rotation(how, seen[how.module][0]) for how in found}
    extras = {how.index: ", ".join(sorted(seen[how.module][1])) for how in found}
    return name, by_layer(turns), by_layer(extras), "exact" if max(errors) <= ALLOWED else f"off by {max(errors):.1g}"


def reason(error: UserError) -> str:
    """The message without the name of the class and without advice."""
    known = {
        "attention interface": "no attention interface",
        "inv_freq": "no rotary module",
        "do not explain": "queries are turned in a way that no rotary module explains",
        "of its own": "layers have masks of their own",
    }
    return next((text for part, text in known.items() if part in error.message), error.message)


def table() -> str:
    """All rows, as Markdown."""
    head = ["| architecture | rotation | beside softmax | result |", "|---|---|---|---|"]
    return "\n".join(head + [line(name) for name in sorted(ARCHITECTURES)])


def line(name: str) -> str:
    return f"| {' | '.join(row(name))} |"


def differences(model: PreTrainedModel) -> list[float]:
    """Between the model and itself under regions that change no distance, of the largest logit."""
    plain = read(model)
    found = []
    for spelling in ("log-n", "self-extend(group=1, window=8)"):
        with method(spelling).on(model):
            found.append(difference(read(model), plain))
    return found


def without_rotation(model: PreTrainedModel) -> float:
    """How far the logits move if nothing is rotated: what ``differences`` would show if rotations were lost."""
    plain = read(model)
    with identity_rotary(model):
        return difference(read(model), plain)


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())
