"""Attendre's bounded memory of keys: what is attended to stays, by recency or frequency (arXiv 2401.04881).

The paper's other half, queries that wait in a memory of their own and attend when they leave it, lets them see what
comes behind them. That is sound where a text is encoded, not where it is continued: here no query waits. Of T5's
encoder there is the whole: ``methods.carriers.waiting_queries``.

The paper's models bias logits by distance; a rope has to be told where a key of the memory stands. Here the memory and
what follows it are counted anew, as in StreamingLLM, so that no distance is beyond the window.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ropewalk.attention.kernels import per_query_head
from ropewalk.attention.recall import Recalled, Text, gathered
from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import POSITIONS, VISIBILITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig
    from transformers.cache_utils import Cache

Policy = Literal["lra", "lfa", "fifo"]
NOTE = "attendre"  # among what is remembered of a text


@dataclass(frozen=True, eq=False)
class Held:
    """Keys of the memory, the latest chunk's among them, in the order of the text.

    Attributes:
        index: where they are among the keys of the text, int64 [B, Hkv, n], rising.
        worth: what eviction goes by, the lowest first, int64 [B, Hkv, n].
        seen: tokens of the text so far.
    """

    index: Tensor
    worth: Tensor
    seen: int = 0

    @property
    def size(self) -> int:
        return self.index.shape[-1]

    def rows(self, rows: Tensor) -> Held:
        """Of some rows."""
        return Held(self.index[rows], self.worth[rows], self.seen)

    def without_the_least(self, memory: int) -> Held:
        """The ``memory`` keys that are worth most; of equals, the latest."""
        if self.size <= memory:
            return self
        stays = self.worth.argsort(dim=-1, stable=True)[..., self.size - memory :].sort(-1).values
        return Held(self.index.gather(-1, stays), self.worth.gather(-1, stays), self.seen)

    def with_new(self, index: Tensor, worth: Tensor) -> Held:
        """With keys behind them, both int64 [n]."""
        shape = *self.index.shape[:2], -1
        places = torch.cat([self.index, index.expand(shape)], -1)
        return Held(places, torch.cat([self.worth, worth.expand(shape)], -1), self.seen + len(index))

    def attended(self, chosen: Tensor, m: Tensor, policy: Policy) -> Held:
        """After queries at ``m``, int64 [Q], attended to the keys of ``chosen``, bool [B, H, Q, n]."""
        if policy == "fifo":
            return self
        by_group = chosen.unflatten(1, (self.index.shape[1], -1))  # [B, Hkv, queries per key, Q, n]
        if policy == "lfa":
            return replace(self, worth=self.worth + by_group.sum((2, 3)))
        last = torch.where(by_group.any(2), m[:, None], -1).amax(2)
        return replace(self, worth=torch.maximum(self.worth, last))


@dataclass(frozen=True)
class Attendre(AttentionMethod):
    """A head holds M keys and those of the chunk that is read; of these, each of its queries attends to k.

    The k are those of the largest logits. At the end of every chunk of c tokens the memory goes back to M keys: the
    least recently attended leave (lra), the least frequently attended (lfa), or the oldest (fifo). Heads that share
    keys count together. Keys stand at places 0 .. M + c - 1 in the order of the text, whatever lay between them.

    Attributes:
        memory: M; None means the window without a chunk.
        chunk: c in tokens; None means an eighth of the window.
        topk: k; None means a quarter of the memory.
        policy: which keys leave.
    """

    memory: int | None = None
    chunk: int | None = None
    topk: int | None = None
    policy: Policy = "lra"

    name: ClassVar[str] = "attendre"
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY})
    by_content: ClassVar[bool] = True
    retains: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_above(0, self, "memory", "chunk", "topk")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        recent = cls(memory=w // 2, chunk=w // 8, topk=w // 3)
        return recent, replace(recent, policy="lfa"), replace(recent, policy="fifo", topk=w)

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        memory, _, k = self._sizes(layer)
        whole = min(memory, k)  # so many tokens are all seen
        return (Region(hi=lambda m: torch.where(m < whole, m + 1, 0)),)

    def recall(self, text: Text) -> Iterator[Recalled]:
        memory, chunk, k = self._sizes(self.seen_as(text.layer))
        if text.layer.sliding is not None or text.layer.chunk is not None:
            raise UserError(
                f"{self.name}: layer {text.layer.index} sees a window of its own, which is all that it remembers",
                "Choose a method of positions, such as self-extend.",
            )
        held = self._held(text)
        queries = text.so_far("queries", text.query) if text.retain is None else text.query
        before = text.length - queries.shape[2]  # tokens whose queries are not known any more
        start = held.seen
        while start < text.length:
            if start % chunk == 0:
                held = held.without_the_least(memory)
            end = min((start // chunk + 1) * chunk, text.length)
            m = text.arange(start, end)
            held = held.with_new(m - text.evicted, m if self.policy != "lfa" else torch.zeros_like(m))
            k_at = text.arange(0, held.size)
            q_at = k_at[-len(m) :]
            sees = self._sees(text, queries[:, :, start - before : end - before], held, q_at, k_at, k)
            held = held.attended(sees, m, self.policy)
            first = max(start, text.past, min(memory, k))
            if first < end:
                rows = slice(first - text.past, end - text.past)
                yield Recalled(rows, held.index, (q_at[first - start :], k_at), sees[:, :, first - start :])
            start = end
        if text.retain is None:
            text.memory[NOTE] = held
        else:
            text.retain(held.index)
            text.memory[NOTE] = replace(held, index=text.arange(0, held.size).expand_as(held.index))

    def check(self, layer: Layer) -> None:
        memory, chunk, _ = self._sizes(layer)
        if memory < 1 or memory + chunk > layer.window:
            raise UserError(
                f"{self.name}: memory + chunk = {memory} + {chunk}, expected at most the {layer.window} trained "
                "tokens, at least one of them in the memory"
            )

    def cache(self, model: nn.Module) -> Cache:
        """A cache of M keys and a chunk for each head; memory stays constant however long the text becomes.

        Give it to ``model(..., cache=...)`` or ``model.generate`` while the method is on (``past_key_values`` before
        transformers 5.24). With any other cache the results are the same, and all keys stay.
        """
        from ropewalk.attention.memory_cache import memory_cache

        config: Any = model.config
        return memory_cache(config.get_text_config(decoder=True))

    def _sizes(self, layer: Layer) -> tuple[int, int, int]:
        chunk = max(1, layer.window // 8) if self.chunk is None else self.chunk
        memory = layer.window - chunk if self.memory is None else self.memory
        return memory, chunk, max(1, memory // 4) if self.topk is None else self.topk

    def _held(self, text: Text) -> Held:
        """The memory before this forward pass, or an empty one where it has to be read anew.

        Raises:
            UserError: if the cache has dropped keys, and not what the method told it to.
        """
        empty = text.key.new_zeros(text.key.shape[0], text.key.shape[1], 0, dtype=torch.long)
        held: Held = text.memory.get(NOTE, Held(empty, empty))
        if held.seen == text.past:
            return held
        if text.retain is not None:
            raise UserError(
                f"the cache holds {text.past} tokens, of which the memory has seen {held.seen}: it was filled in "
                "another way",
                "Read the text with this cache from its first token on, while the method is on.",
            )
        return Held(empty, empty)  # cropped, or taken over from another order of rows

    def _sees(self, text: Text, query: Tensor, held: Held, q_at: Tensor, k_at: Tensor, k: int) -> Tensor:
        """Which keys of the memory each query attends to, bool [B, H, Q, n]."""
        exact = torch.promote_types(query.dtype, torch.float32)
        key = per_query_head(text.turned(gathered(text.key, held.index), k_at), query)
        logits = text.turned(query, q_at).to(exact) @ key.to(exact).mT
        behind = k_at > q_at[:, None]
        if k >= held.size:
            return (~behind).expand_as(logits)
        chosen = logits.masked_fill(behind, -torch.inf).topk(k).indices
        return torch.zeros_like(logits, dtype=torch.bool).scatter(-1, chosen, True) & ~behind
