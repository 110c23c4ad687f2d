"""Landmark attention: a token behind every block says how much the block counts, and finds it (arXiv 2305.16300).

Landmarks stand where the reader puts them, and text alone goes in and comes out. Not as in the official code: what a
landmark's own place would predict has no loss, and where more blocks are found than there is room before the latest
ones, these move up, so that no two have one place.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ropewalk.attention.kernels import backend_for, per_query_head
from ropewalk.common.errors import UserError
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.memory.memory_method import MemoryMethod
from ropewalk.methods.memory.reader import Reader
from ropewalk.methods.memory.trained_memory import TrainedMemory
from ropewalk.methods.memory.unrotated import attending_by, turns
from ropewalk.rope import config as rope_config
from ropewalk.rope.live import decoder
from ropewalk.rope.rotation import Turn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

AT_ONCE = 1024  # tokens whose activations are held at once, where there are no gradients
TIE = 1e-5  # of a score: of blocks that are as good, the latest are taken
HELD = 2**21  # logits that are held at once


@dataclass(frozen=True)
class Landmark(TrainedMemory, MemoryMethod):
    """Softmax over the tokens of a query's own block and the landmarks of the blocks before it.

    A landmark's weight is shared out among the tokens of its block, by a softmax of their own. In training all blocks
    are seen where they stand. Else each query and head sees the ``topk`` blocks whose landmarks it weighs most: the
    latest ``topk`` keep their places, older ones stand before them, so that no distance exceeds ``topk + 2`` blocks.

    Attributes:
        block: tokens before each landmark.
        topk: blocks that a query sees beside its own, where it is not trained.
    """

    block: int = 50
    topk: int = 5

    name: ClassVar[str] = "landmark"
    chosen: ClassVar[tuple[str, ...]] = ("topk",)
    cache_exact: ClassVar[bool] = True
    by_content: ClassVar[bool] = True
    target_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require_above(0, self, "block", "topk")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        return (cls(block=w // 8, topk=2).begun(),)

    def costs(self, model: nn.Module) -> str:
        return f"a landmark is read behind every {self.block} tokens, and all of them are scored for each token"

    def added(self, model: PreTrainedModel) -> nn.Module:
        return Landmarks(model.get_input_embeddings().weight)  # type: ignore[arg-type]

    def learns(self, name: str) -> bool:
        return True

    def reader(self, model: nn.Module, to: int) -> Reader:
        window, farthest = rope_config.trained_window(model.config), (self.topk + 2) * (self.block + 1)  # type: ignore[arg-type]
        if farthest > window:
            raise UserError(
                f"{self.name}: topk = {self.topk} blocks of {self.block} tokens and a landmark come to distances of "
                f"(topk + 2) (block + 1) = {farthest}, expected at most the {window} trained tokens",
                f"Say topk={max(1, window // (self.block + 1) - 2)}, or a smaller block.",
            )
        return LandmarkReader(model, self.block, self.topk)


class Landmarks(nn.Module):
    """The embedding of the landmark token, [D]; at first the mean of all others."""

    def __init__(self, embeddings: Tensor):
        super().__init__()
        self.landmark = nn.Parameter(embeddings.detach().float().mean(0).to(embeddings.dtype))


@dataclass(eq=False)
class Kept:
    """What was read of some texts.

    Attributes:
        tokens: of each text.
        keys: of every layer, turned by their place in their block, [B, Hkv, places, D].
        values: of every layer, [B, Hkv, places, Dv].
    """

    tokens: int = 0
    keys: dict[int, Tensor] = field(default_factory=dict)
    values: dict[int, Tensor] = field(default_factory=dict)


class LandmarkReader(Reader):
    """Puts landmarks into a text, and lets layers attend by them.

    Args:
        model: which carries the landmark's embedding.
        block: tokens before each landmark.
        topk: blocks that a query sees beside its own, where the model is not in training.
    """

    def __init__(self, model: nn.Module, block: int, topk: int):
        self.model: Any = model
        self.body: Any = decoder(model)
        self.block, self.topk, self.turns = block, topk, turns(model)
        self.past, self.kept = 0, Kept()  # of the forward pass that is going on: places before it

    def attached(self) -> AbstractContextManager[None]:
        return attending_by(self.model, self.attend, Landmark.name)

    def begin(self, rows: int) -> Kept:
        return Kept()

    def read(self, ids: Tensor, state: Kept) -> Tensor:
        if not torch.is_grad_enabled():
            return torch.cat([self._read(some, state) for some in ids.split(AT_ONCE, 1)], 1)
        if not self.body.training:
            raise UserError(
                "landmark: keys are picked by content, which has no gradient, where the model is not in training",
                "Use torch.no_grad(), or model.train().",
            )
        return self._read(ids, state)

    def _read(self, ids: Tensor, state: Kept) -> Tensor:
        n, places = ids.shape[1], self._places(state.tokens + ids.shape[1])
        self.past, self.kept = self._places(state.tokens), state
        at = torch.arange(self.past, places, device=ids.device)
        is_text = (at + 1) % (self.block + 1) != 0
        embeds = self.model.get_input_embeddings()(ids)
        landmark = self.model.ropewalk_memory.landmark.to(embeds.dtype)
        whole = landmark.expand(len(ids), len(at), -1).clone()
        whole[:, is_text] = embeds
        hidden: Tensor = self.body(inputs_embeds=whole, position_ids=at[None], use_cache=False)[0]
        state.tokens += n
        return hidden[:, is_text]

    def _places(self, tokens: int) -> int:
        """Places of so many tokens with their landmarks."""
        return tokens + tokens // self.block

    def attend(self, index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """A layer's attention of new places to all, [B, H, N, Dv]; queries and keys come unrotated."""
        turn, size, past = self.turns[index], self.block + 1, self.past
        at = torch.arange(past, past + query.shape[2], device=query.device)
        keys = self._grown(self.kept.keys, index, turned(turn, key, at % size), past)
        values = self._grown(self.kept.values, index, value, past)
        found, start = [], past
        while start < past + query.shape[2]:
            end = min((start // size + 1) * size, past + query.shape[2])
            rows = query[:, :, start - past : end - past]
            topk = None if self.body.training else self.topk
            found.append(grouped(rows, keys[:, :, :end], values[:, :, :end], size, start, scale, turn, topk))
            start = end
        return torch.cat(found, 2).to(query.dtype)

    @staticmethod
    def _grown(kept: dict[int, Tensor], index: int, new: Tensor, past: int) -> Tensor:
        """All so far; told twice of the same places, as where activations are computed again, it keeps them once."""
        whole = new if past == 0 else torch.cat([kept[index][:, :, :past], new], 2)
        kept[index] = whole.detach()
        return whole


def turned(turn: Turn | None, x: Tensor, at: Tensor) -> Tensor:
    """Queries or keys [B, heads, P, D] turned to places [P]."""
    return x if turn is None else turn.by(x, turn.tables(at[None]))


def grouped(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    size: int,
    start: int,
    scale: float,
    turn: Turn | None,
    topk: int | None,
) -> Tensor:
    """Grouped softmax of queries that stand in one block, [B, H, Q, Dv].

    The weight of token j of an earlier block is its share of the block times the weight of the block's landmark, which
    is of one softmax with the tokens of the queries' own block; a landmark's own value counts nothing behind its block.

    Args:
        query: unrotated, [B, H, Q, D], at places ``start`` and following.
        keys: up to the last query, turned by their place in their block, [B, Hkv, K, D].
        values: [B, Hkv, K, Dv].
        size: places of a block, its landmark last.
        start: place of the first query.
        scale: of the logits.
        turn: how the layer rotates.
        topk: blocks that a query sees; None: all, each where it stands.
    """
    own, first = start // size, start % size
    at = torch.arange(first, first + query.shape[2], device=query.device)
    out, lse = _within(turned(turn, query, at), keys[:, :, own * size :], values[:, :, own * size :], first, scale)
    if own == 0:
        return out
    k, v = (x[:, :, : own * size].unflatten(2, (own, size)) for x in (keys, values))
    if topk is None or own <= topk:
        far = torch.stack([turned(turn, query, (own - b) * size + at) for b in range(own)], 3)  # [B, H, Q, b, D]
        logit, inner = _of_blocks(far, per_query_head(k, query), per_query_head(v, query), scale)
        return _joined(out, lse, logit, inner)
    return _retrieved(query, k, v, at, out, lse, scale, turn, topk)


def _within(query: Tensor, keys: Tensor, values: Tensor, first: int, scale: float) -> tuple[Tensor, Tensor]:
    """Attention inside the own block, and its log-sum-exp, float32 at least."""
    if first == 0 and not torch.is_grad_enabled():
        return backend_for(query, None).forward(query, keys, values, True, scale)
    keys, values = per_query_head(keys, query), per_query_head(values, query)
    logits = (_exact(query) @ _exact(keys).mT) * scale
    q, k = logits.shape[-2:]
    ahead = torch.arange(k, device=query.device) > torch.arange(first, first + q, device=query.device)[:, None]
    logits = logits.masked_fill(ahead, -torch.inf)
    return (logits.softmax(-1) @ _exact(values)), logits.logsumexp(-1)


def _of_blocks(far: Tensor, keys: Tensor, values: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Logits of landmarks [B, H, Q, b], and what each block gives by its own softmax, [B, H, Q, b, Dv].

    Args:
        far: queries turned for each block, [B, H, Q, b, D].
        keys: [B, H, b, size, D].
        values: [B, H, b, size, Dv].
        scale: of the logits.
    """
    logits = torch.einsum("bhqnd,bhnsd->bhqns", _exact(far), _exact(keys)) * scale
    inner = logits[..., :-1].softmax(-1)
    return logits[..., -1], torch.einsum("bhqns,bhnsd->bhqnd", inner, _exact(values)[..., :-1, :])


def _joined(out: Tensor, lse: Tensor, logit: Tensor, inner: Tensor) -> Tensor:
    """One softmax over the own block (its output and log-sum-exp) and landmarks."""
    weight = torch.cat([lse[..., None].to(logit.dtype), logit], -1).softmax(-1)
    both = torch.cat([out[..., None, :].to(inner.dtype), inner], -2)
    return (weight[..., None] * both).sum(-2)


def _retrieved(
    query: Tensor, keys: Tensor, values: Tensor, at: Tensor, out: Tensor, lse: Tensor, scale: float,
    turn: Turn | None, topk: int,
) -> Tensor:  # fmt: skip
    """As ``grouped``, over the blocks that each query and head picks.

    Queries stand in slot ``topk + 1``, the latest ``topk`` blocks in those before it, and all older ones, while they
    are scored, in slot 0.
    """
    own, size = keys.shape[2], keys.shape[3]
    slots = topk + 1
    far = torch.stack([turned(turn, query, distance * size + at) for distance in range(1, slots + 1)], 3)
    landmarks = per_query_head(_exact(keys[:, :, :, -1]), query)  # [B, H, own, D]
    late = torch.einsum("bhqnd,bhnd->bhqn", _exact(far[..., :topk, :]).flip(3), landmarks[:, :, own - topk :])
    early = _exact(far[..., topk, :]) @ landmarks[:, :, : own - topk].mT
    sizes = query.to(landmarks.dtype).norm(dim=-1)[..., None] * landmarks.norm(dim=-1)[:, :, None]
    latest = TIE * torch.arange(own, device=query.device) * sizes  # in the first layer all landmarks are the same
    picked = (torch.cat([early, late], -1) + latest).topk(topk).indices.sort(-1).values  # [B, H, Q, topk], rising
    stands = (picked - (own - topk) + 1).clamp_min(0)
    for j in range(1, topk):
        stands[..., j] = torch.maximum(stands[..., j], stands[..., j - 1] + 1)
    distance = slots - stands  # 1 .. slots
    rows = query.shape[2]
    while rows > 1 and query.shape[0] * query.shape[1] * rows * slots * min(own, rows * topk) * size > HELD:
        rows = -(-rows // 2)
    parts = (x.split(rows, 2) for x in (far, picked, distance, out, lse))
    return torch.cat([_of_picked(keys, values, scale, *some) for some in zip(*parts, strict=True)], 2)


def _of_picked(
    keys: Tensor, values: Tensor, scale: float, far: Tensor, picked: Tensor, distance: Tensor, out: Tensor, lse: Tensor
) -> Tensor:
    """What queries get of their own block and of those that each picked, [B, H, Q, Dv].

    All queries are held against every block that one of them picked, at every distance: that is less work than to copy
    each query's blocks.

    Args:
        keys: [B, Hkv, b, size, D].
        values: [B, Hkv, b, size, Dv].
        scale: of the logits.
        far: queries turned for the distances from 1 on, [B, H, Q, slots, D].
        picked: blocks of each query, [B, H, Q, topk].
        distance: in blocks, of the places in which they are met, [B, H, Q, topk].
        out: of the own block, [B, H, Q, Dv].
        lse: of the own block, [B, H, Q].
    """
    every = picked.unique()
    chosen = picked[..., None] == every  # [B, H, Q, topk, U]
    at = ((distance[..., None] - 1) * chosen).sum(-2)
    k, v = (per_query_head(_exact(x[:, :, every]), far) for x in (keys, values))
    logits = (_exact(far).flatten(2, 3) @ k.flatten(2, 3).mT * scale).unflatten(3, k.shape[2:4])
    logits = logits.unflatten(2, far.shape[2:4])  # [B, H, Q, slots, U, size]
    size = logits.shape[-1]
    logits = logits.gather(3, at[:, :, :, None, :, None].expand(-1, -1, -1, 1, -1, size))[:, :, :, 0]
    whole = logits[..., -1].masked_fill(~chosen.any(-2), -torch.inf)
    weight = torch.cat([lse[..., None].to(whole.dtype), whole], -1).softmax(-1)
    shares = weight[..., 1:, None] * logits[..., :-1].softmax(-1)
    return weight[..., :1] * out + shares.flatten(3) @ v[..., :-1, :].flatten(2, 3)


def _exact(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
