"""Training-free context-adaptive attention: a few core tokens of every block, by calibrated budgets (2512.09238)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ropewalk.attention.recall import Recalled, Text, members
from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import VISIBILITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

Bounds = tuple[float, ...]  # of redundancy, falling: a block above the first keeps 1 token, above the second 2, 4, ..


@dataclass(frozen=True)
class TCA(AttentionMethod):
    """Of every block of b tokens, each key head keeps 1, 2, 4, .. or b: fewer, the more redundant the block is.

    From the paper: budgets are powers of two; a head's budgets have a distribution p_k ~ exp(-(log2 k - mu)^2 /
    2 sigma^2) over its blocks; candidates for (mu, sigma) are drawn; each head takes the cheapest one whose error in
    one calibration pass is tolerable; it serves prompts and decoding alike.

    Ours, because no source could be verified: a key is as redundant as its cosine with the mean of its block's
    unrotated keys, a block as the mean over its keys, and the least redundant keys are kept; budgets go by bounds
    measured in calibration instead of ranks, so that a block's choice needs no other block and results do not depend
    on how a text is cut; the error is the relative change of the head's outputs; the first block and the latest tokens
    stay whole. What is dropped is not read, but stays in the cache.

    Attributes:
        block: b, a power of two.
        local: latest tokens that stay whole, a multiple of b; up to b - 1 more do.
        plan: bounds for every layer and key head, as ``ropewalk fit`` measures them.
    """

    block: int = 64
    local: int = 512
    plan: tuple[tuple[Bounds, ...], ...] = ()

    name: ClassVar[str] = "tca"
    axes: ClassVar[frozenset[str]] = frozenset({VISIBILITY})
    measured: ClassVar[tuple[str, ...]] = ("plan",)
    target_free: ClassVar[bool] = True
    by_content: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_above(0, self, "block")
        require_above(-1, self, "local")
        if self.block & (self.block - 1):
            raise UserError(f"{self.name}: block is {self.block}, expected a power of two")
        if self.local % self.block:
            raise UserError(f"{self.name}: local is {self.local}, expected a multiple of block = {self.block}")
        if any(len(bounds) != len(self.budgets) - 1 for heads in self.plan for bounds in heads):
            raise UserError(f"{self.name}: the plan is for another block size, expected {len(self.budgets) - 1} bounds")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        block = 2 ** (w // 8).bit_length() // 2
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        falling = tuple(0.5 * 0.7**i for i in range(block.bit_length() - 1))
        return (cls(block, 2 * block, plan=((falling,) * heads,) * config.num_hidden_layers),)

    @property
    def budgets(self) -> tuple[int, ...]:
        """1, 2, 4, .., b."""
        return tuple(2**i for i in range(self.block.bit_length()))

    def check(self, layer: Layer) -> None:
        if layer.index >= len(self.plan) or len(self.plan[layer.index]) != layer.kv_heads:
            raise UserError(
                f"{self.name}: the plan has no {layer.kv_heads} key heads for layer {layer.index}",
                "Fit it on this model, with ropewalk fit.",
            )

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        return Region(lo=self.first_local), Region(hi=lambda m: self.first_local(m).clamp_max(self.block))

    def recall(self, text: Text) -> Iterator[Recalled]:
        kept = self._kept(text)
        for rows in text.blocks(self.block):
            end = (text.past + rows.start) // self.block * self.block - self.local
            if end > self.block:
                chosen = kept[:, :, self.block : end]
                index = members(chosen)
                yield Recalled(rows, torch.where(index < 0, index, index + self.block), text.regions[0])

    def first_local(self, m: Tensor) -> Tensor:
        """The first of the latest tokens that queries at ``m`` see whole."""
        return (m // self.block * self.block - self.local).clamp_min(0)

    def _kept(self, text: Text) -> Tensor:
        """Whether each key of the complete blocks is kept, bool [B, Hkv, keys]."""
        known = text.memory.get("kept", torch.zeros(*text.key.shape[:2], 0, dtype=torch.bool, device=text.key.device))
        known = known[:, :, : text.past // self.block * self.block]
        fresh = redundancy(text.key[:, :, known.shape[2] :], self.block)
        bounds = torch.tensor(self.plan[text.layer.index], device=fresh.device)
        text.memory["kept"] = torch.cat([known, self.core(fresh, bounds)], 2)
        kept: Tensor = text.memory["kept"]
        return kept

    def core(self, redundant: Tensor, bounds: Tensor) -> Tensor:
        """Which keys are kept: redundancy [B, Hkv, blocks, b], bounds [Hkv, budgets - 1] -> bool [B, Hkv, keys]."""
        level = (redundant.mean(-1, keepdim=True) <= bounds[:, None]).sum(-1, keepdim=True)
        rank = redundant.sort(dim=-1, stable=True).indices.argsort(-1)
        return (rank < 2**level).flatten(2)


def redundancy(keys: Tensor, block: int) -> Tensor:
    """Cosine of every key with the mean of its block: unrotated [B, Hkv, K, D] -> [B, Hkv, complete blocks, block]."""
    complete = keys[:, :, : keys.shape[2] // block * block].unflatten(2, (-1, block))
    complete = complete.to(torch.promote_types(keys.dtype, torch.float32))
    return F.cosine_similarity(complete, complete.mean(3, keepdim=True), dim=-1)
