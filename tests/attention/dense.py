"""A second, slow implementation of a tiny Llama, to compare with: one score at a time, rotations as complex numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import LlamaForCausalLM


def _norm(x: Tensor, module: torch.nn.Module) -> Tensor:
    return x * (x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon).rsqrt() * module.weight.double()


def _complex(x: Tensor, heads: int) -> Tensor:
    """[N, H * d] -> complex [H, N, d/2], pairs (i, i + d/2)."""
    first, second = x.view(len(x), heads, -1).transpose(0, 1).chunk(2, dim=-1)
    return torch.complex(first, second)


@torch.no_grad()
def dense_logits(
    model: LlamaForCausalLM,
    ids: Tensor,
    inv_freq: Callable[[int], Tensor],
    temperature: Callable[[int], float] = lambda m: 1.0,
) -> Tensor:
    """Logits [N, V] of one row in float64.

    Args:
        model: in float32.
        ids: [N].
        inv_freq: query position m -> float64 [d/2] or [kv heads, d/2] that rotates it and all keys it sees.
        temperature: query position m -> multiplier of its scores.
    """
    config = model.config
    heads, kv_heads, d = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    n = len(ids)
    x = model.model.embed_tokens.weight[ids].double()
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        y = _norm(x, layer.input_layernorm)
        q = _complex(y @ attention.q_proj.weight.double().T, heads)
        k = _complex(y @ attention.k_proj.weight.double().T, kv_heads).repeat_interleave(heads // kv_heads, 0)
        v = (y @ attention.v_proj.weight.double().T).view(n, kv_heads, d).transpose(0, 1)
        v = v.repeat_interleave(heads // kv_heads, 0)
        rows = []
        for m in range(n):
            w = inv_freq(m)
            w = (w if w.ndim == 2 else w.expand(kv_heads, -1)).repeat_interleave(heads // kv_heads, 0)
            distance = (m - torch.arange(m + 1)).double()
            turn = torch.polar(torch.ones(1, dtype=torch.float64), distance[None, :, None] * w[:, None, :])
            scores = (q[:, m, None] * k[:, : m + 1].conj() * turn).real.sum(-1) / math.sqrt(d) * temperature(m)
            rows.append((scores.softmax(-1)[..., None] * v[:, : m + 1]).sum(1).flatten())
        x = x + torch.stack(rows) @ attention.o_proj.weight.double().T
        y = _norm(x, layer.post_attention_layernorm)
        gate, up = y @ mlp.gate_proj.weight.double().T, y @ mlp.up_proj.weight.double().T
        x = x + (torch.nn.functional.silu(gate) * up) @ mlp.down_proj.weight.double().T
    return _norm(x, model.model.norm) @ model.lm_head.weight.double().T
