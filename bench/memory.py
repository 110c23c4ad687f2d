"""The memory model against measured peaks, and against the longest lengths that others published for real GPUs.

    python bench/memory.py [--quick] --json FILE

Measured rows: small models of many families on the CPU; every tensor allocation of a training step (gradients present,
as in accumulation) or of a prefill is counted. "ours" is predicted and "peer" measured, weights and gradients included;
the ratio of the transient part alone stands in the setting. A row further off than 10 % ends the benchmark. Published
rows: "ours" is the longest length that the model lets fit, "peer" the one that was reported; these are not enforced.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # read when torch is loaded: the profiler is silent about itself

import torch
import transformers
from common.row import row
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen3Config

from ropewalk.planning import memory
from ropewalk.planning.hardware import gpu, usable
from ropewalk.planning.measure import peak_bytes
from ropewalk.planning.memory import Serving, Training
from ropewalk.planning.shapes import Shapes, shapes

TOLERANCE = 0.1
BLOCK = 128  # tokens of a chunked loss here; the models are small
COMMON: dict[str, Any] = {
    "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 32, "max_position_embeddings": 8192, "bos_token_id": 0, "eos_token_id": 1,
    "pad_token_id": 2,
}  # fmt: skip
ABSENT = "absent"
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 352}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "phi3": ("Phi3", {"head_dim": ABSENT}),
    "gemma2": ("Gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None, "sliding_window": 8192}),
    "gemma3": ("Gemma3Text", {"sliding_window": 8192}),
    "olmo2": ("Olmo2", {"head_dim": ABSENT}),
    "mixtral": ("Mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2}),
    "qwen3_moe": ("Qwen3Moe", {"num_experts": 8, **EXPERTS}),
    "gpt_oss": ("GptOss", {"num_local_experts": 8, "num_experts_per_tok": 2, "sliding_window": 8192}),
    "gpt_neox": ("GPTNeoX", {"head_dim": ABSENT, "num_key_value_heads": ABSENT}),
    "deepseek_v3": ("DeepseekV3", {"head_dim": ABSENT, "num_key_value_heads": 8, "q_lora_rank": 64, "kv_lora_rank": 64,
                                   "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32, "n_group": 1,
                                   "topk_group": 1, "first_k_dense_replace": 1, "n_routed_experts": 8, **EXPERTS}),
}  # fmt: skip
FULL = Training(checkpointing=True, chunked_loss=True)


def made(family: str, dtype: str) -> tuple[PreTrainedModel, Shapes]:
    """A small random model on fused attention (sinks and soft caps are left out), and its shapes."""
    name, more = FAMILIES[family]
    keys = {key: value for key, value in {**COMMON, **more}.items() if value != ABSENT}
    config = getattr(transformers, f"{name}Config")(**keys)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    numbers = shapes(config)
    model.config._attn_implementation = "sdpa"
    return model, numbers


def chunked_loss(model: Any, ids: Tensor) -> Tensor:
    """Mean cross-entropy, logits of ``BLOCK`` tokens at a time, computed again in the backward pass."""
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    targets = ids[:, 1:]

    def block(x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(model.lm_head(x).float().flatten(0, 1), y.flatten(), reduction="sum")

    starts = range(0, targets.shape[1], BLOCK)
    parts = [
        checkpoint(block, hidden[:, a : a + BLOCK], targets[:, a : a + BLOCK], use_reentrant=False) for a in starts
    ]
    return torch.stack(parts).sum() / targets.numel()


class Tiled(nn.Module):
    """An MLP over pieces of as many tokens as the model is wide, computed again in the backward pass."""

    def __init__(self, mlp: nn.Module, tile: int):
        super().__init__()
        self.mlp, self.tile = mlp, tile

    def forward(self, x: Tensor) -> Tensor:
        pieces = [checkpoint(self.mlp, piece, use_reentrant=False) for piece in x.split(self.tile, dim=1)]
        return torch.cat(pieces, dim=1)


def training_step(model: Any, how: Training, length: int) -> Callable[[], object]:
    model.train()
    if how.checkpointing:
        model.activation_checkpointing_enable()
    if how.tiled_mlp:
        for layer in model.model.layers:
            layer.mlp = Tiled(layer.mlp, model.config.hidden_size)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True) if how.optimizer == "adamw" else None
    ids = torch.randint(3, COMMON["vocab_size"], (1, length), generator=torch.Generator().manual_seed(0))

    def work() -> None:
        loss = chunked_loss(model, ids) if how.chunked_loss else model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        if optimizer:
            optimizer.step()

    return work


def measured_training(family: str, how: Training, length: int, label: str) -> dict[str, Any]:
    model, numbers = made(family, how.dtype)
    work = training_step(model, how, length)
    work()
    states = 8 if how.optimizer == "adamw" else 0  # float32 weights are their own master copy
    held = sum(p.numel() * (2 * p.element_size() + states) for p in model.parameters())
    peak = peak_bytes(work)
    predicted = memory.training(numbers, how, length)
    return in_mib(
        f"{family}: {label}", predicted.total, held + peak, how.dtype, length, (predicted.total - held) / peak
    )


def measured_prefill(family: str, dtype: str, length: int) -> dict[str, Any]:
    model, numbers = made(family, dtype)
    ids = torch.randint(3, COMMON["vocab_size"], (1, length), generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def work() -> object:
        return model.eval()(input_ids=ids, use_cache=True, logits_to_keep=1)

    held = sum(p.numel() * p.element_size() for p in model.parameters())
    peak = peak_bytes(work)
    predicted = memory.serving(numbers, Serving(weights=dtype, cache=dtype), length).total
    return in_mib(f"{family}: prefill", predicted, held + peak, dtype, length, (predicted - held) / peak)


def in_mib(name: str, ours: int, peer: int, dtype: str, length: int, transient: float) -> dict[str, Any]:
    return row(name, ours / 2**20, peer / 2**20, "MiB", 1, dtype=dtype, length=length, transient_ratio=transient,
               device="cpu")  # fmt: skip


def measured(quick: bool) -> list[dict[str, Any]]:
    memory.OPTIMIZERS["none"] = memory.Optimizer(0)  # forward and backward passes alone
    memory.LOSS_CHUNK = BLOCK
    plain = Training(optimizer="none", dtype="float32")
    cases = [
        ("plain", plain),
        ("gradient checkpointing", replace(plain, checkpointing=True)),
        ("+ chunked loss", replace(plain, checkpointing=True, chunked_loss=True)),
        ("+ tiled MLP", replace(plain, checkpointing=True, chunked_loss=True, tiled_mlp=True)),
    ]
    rows = [measured_training("llama", replace(how, dtype=dtype), 1024, label)  # type: ignore[arg-type]
            for dtype in ("float32", "bfloat16") for label, how in cases]  # fmt: skip
    adamw = replace(plain, optimizer="adamw", checkpointing=True, chunked_loss=True)
    rows.append(measured_training("llama", adamw, 1024, "+ AdamW"))
    families = ["qwen3", "gemma3", "mixtral"] if quick else [family for family in FAMILIES if family != "llama"]
    for family in families:
        how = replace(plain, checkpointing=True, chunked_loss=True, dtype="bfloat16")
        rows.append(measured_training(family, how, 1024, "checkpointing, chunked loss"))
    rows += [measured_prefill(family, "bfloat16", 2048) for family in ("llama", "qwen3", "mixtral")]
    return rows


# Longest lengths in tokens. ALST (arXiv 2506.13996): Llama-3.1-8B, ZeRO-3, optimizer states on the host, on one GPU the
# weights too; TRL: Qwen3-8B, context parallel over 8 H100, layer inputs on the host.
ALST = replace(FULL, optimizer="adamw-offload")
PUBLISHED: tuple[tuple[str, str, int, str, Training, int], ...] = (
    ("ALST, 1 GPU, all", "llama", 1, "h100-80gb", replace(ALST, tiled_mlp=True, offload=True), 500_000),
    ("ALST, 8 GPUs, sequence parallel", "llama", 8, "h100-80gb", ALST, 1_100_000),
    ("ALST, 8 GPUs, + tiled MLP", "llama", 8, "h100-80gb", replace(ALST, tiled_mlp=True), 1_200_000),
    ("ALST, 8 GPUs, + offload", "llama", 8, "h100-80gb", replace(ALST, offload=True), 2_400_000),
    ("ALST, 8 GPUs, all", "llama", 8, "h100-80gb", replace(ALST, tiled_mlp=True, offload=True), 3_700_000),
    ("ALST, 1 H200, chunked loss", "llama", 1, "h200", ALST, 300_000),
    ("ALST, 1 H200, + offload", "llama", 1, "h200", replace(ALST, offload=True), 650_000),
    ("ALST, 1 H200, all", "llama", 1, "h200", replace(ALST, tiled_mlp=True, offload=True), 1_200_000),
)
MODELS = {
    "llama": LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                         num_key_value_heads=8, vocab_size=128256),
    "qwen3": Qwen3Config(hidden_size=4096, intermediate_size=12288, num_hidden_layers=36, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=128, vocab_size=151936),
}  # fmt: skip


def published() -> list[dict[str, Any]]:
    memory.LOSS_CHUNK = 2048
    rows = []
    for name, model, gpus, device, how, reported in PUBLISHED:
        numbers = shapes(MODELS[model])
        settings = replace(how, shard=gpus, sequence=gpus)
        room = usable(gpu(device).memory)

        def fits(length: int, numbers: Shapes = numbers, settings: Training = settings, room: int = room) -> bool:
            needed = memory.training(numbers, settings, length)
            on_host = needed.parts["weights"] if settings.shard == 1 else 0
            return needed.total - on_host <= room

        ours = memory.longest(fits)
        rows.append({"name": name, "ours": ours, "peer": reported, "ratio": ours / reported, "unit": "tokens", "n": 1,
                     "setting": {"gpu": device, "gpus": gpus, "source": "arXiv 2506.13996"}})  # fmt: skip
    numbers = shapes(MODELS["qwen3"])
    how = Training(checkpointing=True, chunked_loss=True, offload=True, shard=8, sequence=8)
    ours = memory.training(numbers, how, 2**20).total / 1e9
    rows.append({"name": "TRL, Qwen3-8B at 1,048,576 tokens", "ours": ours, "peer": 56.2, "ratio": ours / 56.2,
                 "unit": "GB", "n": 1, "setting": {"gpu": "h100-80gb", "gpus": 8,
                 "source": "https://github.com/huggingface/trl/issues/6846"}})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="end within a minute")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE", help="where the rows go")
    arguments = parser.parse_args()
    rows = measured(arguments.quick)
    off = [row["name"] for row in rows if abs(row["ratio"] - 1) > TOLERANCE]
    rows += published()
    for each in rows:
        print(f"{each['name']}: {each['ours']:,.4g} {each['unit']} against {each['peer']:,.4g}, {each['ratio']:.3f} x")
    if off:
        raise SystemExit(f"further off than {TOLERANCE:.0%}: {', '.join(off)}")
    arguments.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
