"""Attention one query at a time in float64, over keys met at stated distances; rotations are complex numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ropewalk import method
from tests.models import step, tiny

L, TARGET, N, VOCABULARY = 32, 128, 100, 300  # trained window, target, tokens of a text
W = 1e4 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
Distances = Mapping[int, float]  # key -> distance at which it is met; keys that are missing are not seen


class Seen:
    """Unrotated queries, keys, values and outputs of the first attention layer for one row, float64 [H, tokens, D]."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, out: Tensor):
        group = len(q) // len(k)
        self.group, self.kv_heads = group, len(k)
        self.q, self.k, self.v, self.out = q, k.repeat_interleave(group, 0), v.repeat_interleave(group, 0), out

    def rotated(self, x: Tensor, position: float | Tensor) -> Tensor:
        """[.., D] at a position, pairs (i, i + D/2)."""
        a, b = x.chunk(2, -1)
        turned = torch.complex(a, b) * torch.polar(torch.ones(()).double(), position * W)
        return torch.cat([turned.real, turned.imag], -1)

    def logits(self, head: int, m: int, distances: Distances) -> Tensor:
        met_at = torch.tensor(list(distances.values())).double()[:, None]
        query = self.rotated(self.q[head, m].expand(len(met_at), -1), met_at)
        return (query * self.k[head, list(distances)]).sum(-1) / math.sqrt(16)

    def attended(self, head: int, m: int, distances: Distances) -> Tensor:
        return self.logits(head, m, distances).softmax(0) @ self.v[head, list(distances)]


@torch.no_grad()
def one_layer(family: str = "llama", **more: object) -> torch.nn.Module:
    """Logits of about 3 and outputs of about 1, so that float32 leaves less than 1e-6."""
    options = {"num_hidden_layers": 1, "max_position_embeddings": L, "vocab_size": VOCABULARY} | more
    model = tiny(family, **options)
    model.model.layers[0].self_attn.q_proj.weight.mul_(0.5)
    model.model.layers[0].self_attn.v_proj.weight.mul_(0.4)
    return model


@torch.no_grad()
def read(model: torch.nn.Module, chosen: object, ids: Tensor, ends: list[int], **more: object) -> list[Seen]:
    """Every row of a text that is read in pieces up to ``ends``; padding is cut off."""
    attention, found, cache, start = model.model.layers[0].self_attn, {}, None, 0

    def recorder(name: str) -> Callable[..., None]:
        def hook(module: object, arguments: tuple[Tensor, ...], *output: Tensor) -> None:
            x = output[0] if output else arguments[0]
            found.setdefault(name, []).append(x.double().unflatten(-1, (-1, 16)).transpose(1, 2))

        return hook

    mask = more.pop("attention_mask", torch.ones_like(ids))
    with (method(chosen) if isinstance(chosen, str) else chosen).begun().on(model, to=TARGET):
        hooks = [getattr(attention, f"{name}_proj").register_forward_hook(recorder(name)) for name in "qkv"]
        hooks.append(attention.o_proj.register_forward_pre_hook(recorder("out")))
        for end in ends:
            _, cache = step(model, ids[:, start:end], cache, attention_mask=mask[:, :end], **more)
            start = end
    for hook in hooks:
        hook.remove()
    whole = [torch.cat(found[name], 2) for name in ("q", "k", "v", "out")]
    return [Seen(*(x[row][:, mask[row].bool()] for x in whole)) for row in range(len(ids))]


def error(seen: Seen, distances: Callable[[int, int], Distances], queries: range | None = None) -> float:
    """Largest difference between the layer's outputs and those of ``distances(head, m)``."""
    queries = range(seen.q.shape[1]) if queries is None else queries
    heads = range(len(seen.q))
    return max(
        float((seen.attended(h, m, distances(h, m)) - seen.out[h, m]).abs().max()) for h in heads for m in queries
    )


def distinct(batch: int, n: int = N) -> Tensor:
    """No token twice in a row: unrotated keys of equal tokens would be equal in the first layer, and choices tie."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([3 + torch.randperm(VOCABULARY - 3, generator=generator)[:n] for _ in range(batch)])


def padded(ids: Tensor, pad: int) -> Tensor:
    """A mask that hides the first tokens of the first row."""
    mask = torch.ones_like(ids)
    mask[0, :pad] = 0
    return mask
