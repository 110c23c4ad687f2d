"""Attendre in T5's encoder: a bounded memory of keys, and queries that wait until more of the text is known.

arXiv 2401.04881. A query waits for D tokens in a memory of its own, and attends when it leaves that: to what the memory
of keys then holds, which is from before and from behind it. So a layer that never holds more than M keys and D queries
attends both ways, and a text of any length is encoded in memory that does not grow. Which keys leave is decided as in
``methods.memory.attendre``; distances are the true ones, of which T5's buckets know every length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.methods.base import require_above
from ropewalk.methods.carriers.carrier_method import CarrierMethod
from ropewalk.methods.memory.attendre import Held, Policy
from ropewalk.rope.live import forward_of

if TYPE_CHECKING:
    from ropewalk.carriers.carrier import Carrier


@dataclass(frozen=True)
class WaitingQueries(CarrierMethod):
    """Per layer and chunk of c tokens: keys come in, queries that have waited for D tokens attend, M keys stay.

    A query attends to its k largest logits, bias and all, among the M keys and the latest chunk. With a memory of the
    whole text and a delay as long, the encoder is the plain one; with no delay it looks back only.

    Attributes:
        memory: M; None means the window.
        delay: D in tokens, a multiple of the chunk; None means half the memory.
        chunk: c in tokens; None means an eighth of the window.
        topk: k; None means the memory.
        policy: which keys leave: the least recently attended (lra), the least frequently attended (lfa), or the oldest
            (fifo).
    """

    memory: int | None = None
    delay: int | None = None
    chunk: int | None = None
    topk: int | None = None
    policy: Policy = "lra"

    name: ClassVar[str] = "attendre"

    def __post_init__(self) -> None:
        require_above(0, self, "memory", "chunk", "topk")
        require_above(-1, self, "delay")

    def sizes(self, window: int) -> tuple[int, int, int, int]:
        """M, D, c and k.

        Raises:
            UserError: if the delay is no multiple of the chunk.
        """
        memory = window if self.memory is None else self.memory
        chunk = max(1, window // 8) if self.chunk is None else self.chunk
        delay = memory // 2 // chunk * chunk if self.delay is None else self.delay
        if delay % chunk:
            raise UserError(f"{self.name}: delay is {delay}, expected a multiple of chunk = {chunk}")
        return memory, delay, chunk, memory + chunk if self.topk is None else self.topk

    def acting(self, model: nn.Module, carrier: Carrier, to: int) -> Iterator[None]:
        sizes = self.sizes(self.window(carrier))
        blocks = model.get_encoder().block  # type: ignore[operator]
        first = blocks[0].layer[0].SelfAttention
        with ExitStack() as stack:
            for block in blocks:
                attention = block.layer[0].SelfAttention
                biased = attention if attention.has_relative_attention_bias else first
                stack.enter_context(_attending(attention, biased, sizes, self.policy))
            yield

    def why_not_saved(self) -> str:
        return "no key of a configuration says a memory"


@contextmanager
def _attending(attention: Any, biased: Any, sizes: tuple[int, int, int, int], policy: Policy) -> Iterator[None]:
    """Another forward of one self-attention of T5's encoder, for a while."""
    own, asked = attention.forward, signature(attention.forward)

    def forward(*arguments: Any, **keywords: Any) -> Any:
        given = dict(asked.bind(*arguments, **keywords).arguments)
        more = {key: value for key, value in given.items() if key != "kwargs"} | given.get("kwargs", {})
        states: Tensor = more["hidden_states"]
        if attention.training and attention.dropout:
            raise UserError("attention dropout is on, which a memory does not have", "Call model.eval().")
        mask = more.get("mask", more.get("attention_mask"))
        if mask is not None and not bool((mask if mask.dtype == torch.bool else mask == 0).all()):
            raise UserError("a row is padded, and a memory counts the tokens of its text", "Read texts one at a time.")
        q, k, v = (
            projection(states).unflatten(-1, (attention.n_heads, -1)).transpose(1, 2)
            for projection in (attention.q, attention.k, attention.v)
        )
        out = waited(q, k, v, lambda distance: _bias(biased, distance), *sizes, policy)
        one = {name: None for name in ("mask", "attention_mask", "position_bias") if name in more}
        rest = own(**more | one | {"hidden_states": states[:, :1]})[1:]  # what else is returned, in what form
        return attention.o(out.transpose(1, 2).flatten(2)), *rest

    with forward_of(attention, forward):
        yield


def _bias(attention: Any, distance: Tensor) -> Tensor:
    """T5's bias of logits, [B, H, Q, K], for keys minus queries, int64 of the same shape."""
    kinds = {"bidirectional": True, "num_buckets": attention.relative_attention_num_buckets,
             "max_distance": attention.relative_attention_max_distance}  # fmt: skip
    try:
        bucket = attention._relative_position_bucket(distance, **kinds)
    except TypeError:  # UMT5 asks the module
        bucket = attention._relative_position_bucket(distance)
    heads = torch.arange(distance.shape[1], device=distance.device)[:, None, None]
    found: Tensor = attention.relative_attention_bias.weight[bucket, heads]
    return found


def waited(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Callable[[Tensor], Tensor],
    memory: int,
    delay: int,
    chunk: int,
    k: int,
    policy: Policy,
) -> Tensor:
    """Attention of one layer over a whole text, [B, H, n, D], as if it came chunk by chunk.

    Args:
        query: [B, H, n, D].
        key: the same.
        value: [B, H, n, Dv].
        bias: distances, keys minus queries, int64 [B, H, Q, K] -> what is added to logits.
        memory: M keys stay at the end of a chunk.
        delay: D, a multiple of ``chunk``, that queries wait.
        chunk: c in tokens.
        k: keys that a query attends to at most.
        policy: which keys leave.
    """
    n = query.shape[2]
    empty = torch.zeros(*query.shape[:2], 0, dtype=torch.long, device=query.device)
    held, parts = Held(empty, empty), []
    for start in range(0, n + delay, chunk):
        if start < n:
            new = torch.arange(start, min(start + chunk, n), device=query.device)
            held = held.without_the_least(memory).with_new(new, new if policy != "lfa" else torch.zeros_like(new))
        if start < delay:
            continue
        m = torch.arange(start - delay, min(start - delay + chunk, n), device=query.device)
        keys, values = (x.gather(2, held.index[..., None].expand(-1, -1, -1, x.shape[-1])) for x in (key, value))
        distance = held.index[:, :, None] - m[:, None]
        logits = query[:, :, m] @ keys.mT + bias(distance)
        seen = torch.ones_like(logits, dtype=torch.bool)
        if delay == 0:  # as in a decoder
            seen &= distance <= 0
        logits = logits.masked_fill(~seen, -torch.inf)
        if k < held.size:
            best = logits.topk(k, -1).indices
            seen &= torch.zeros_like(seen).scatter(-1, best, True)
        held = held.attended(seen, torch.full_like(m, start), policy)  # not when they were asked
        parts.append(logits.masked_fill(~seen, -torch.inf).float().softmax(-1).to(values.dtype) @ values)
    return torch.cat(parts, 2)
