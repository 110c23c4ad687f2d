"""Unlimiformer: an encoder-decoder reads any length, and each head of its decoder looks up k states (arXiv 2305.01625).

A head's logit of an encoder state h is q W_k^T h: with the query taken into the space of the states, one store of
states serves every layer and head, and no keys or values are cached. What the head gives is W_v times the mean of the k
states by their shares; a bias of the keys adds the same to all logits of a query, and drops out.

The search is exact. A library of nearest neighbours has nothing to save here: its index would have to hold the states
a second time, and be filled for every text, which costs about as much as the queries of one answer do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ropewalk.common.errors import UserError
from ropewalk.methods.base import require_above
from ropewalk.methods.carriers.carrier_method import CarrierMethod
from ropewalk.rope.live import forward_of

if TYPE_CHECKING:
    from ropewalk.carriers.carrier import Carrier

CROSS = {"EncDecAttention": ("q", "k", "v", "o"), "encoder_attn": ("q_proj", "k_proj", "v_proj", "out_proj")}
TOGETHER = 4096  # tokens of chunks that are encoded at once
SCORES = 2**25  # numbers that exist at once in a search


@dataclass(frozen=True)
class Unlimiformer(CarrierMethod):
    """Chunks of the window are encoded, overlapping, and of each the middle is kept; decoder heads attend to k states.

    A text within the window is read by the plain model, bit for bit.

    Attributes:
        topk: k, states that each head of each query attends to; None means as many as the window has tokens.
        overlap: share of a chunk that its neighbours read too, half of it on each side.
    """

    topk: int | None = None
    overlap: float = 0.5

    name: ClassVar[str] = "unlimiformer"

    def __post_init__(self) -> None:
        require_above(0, self, "topk")
        if not 0 <= self.overlap < 1:
            raise UserError(f"{self.name}: overlap is {self.overlap}, expected a share from 0 to below 1")

    def acting(self, model: nn.Module, carrier: Carrier, to: int) -> Iterator[None]:
        window = self.window(carrier)
        attentions = cross_attentions(model)
        with ExitStack() as stack:
            encoder: Any = model.get_encoder()  # type: ignore[operator]
            stack.enter_context(forward_of(encoder, _Encoding(encoder, window, self.overlap)))
            for attention, names in attentions:
                found = _Lookup(attention, names, window, self.topk or window)
                stack.enter_context(forward_of(attention, found))
            yield


def cross_attentions(model: nn.Module) -> list[tuple[Any, tuple[str, str, str, str]]]:
    """The modules of a decoder that attend to encoder states, and the names of their four projections.

    Raises:
        UserError: if there are none that are known here.
    """
    ends = ((module, name.rpartition(".")[2]) for name, module in model.named_modules())
    found = [(module, CROSS[end]) for module, end in ends if end in CROSS]
    if not found or any(not hasattr(module, name) for module, names in found for name in names):
        raise UserError(
            f"{type(model).__name__} has no cross-attention that is known here, expected modules named "
            f"{' or '.join(CROSS)}",
            "Models of the T5 and the BART family have them.",
        )
    return found


class _Encoding:
    """The forward of an encoder that reads any length, by chunks of the window."""

    def __init__(self, encoder: Any, window: int, overlap: float):
        self.own, self.signature = encoder.forward, signature(encoder.forward)
        self.window, self.overlap = window, overlap

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        given = self.signature.bind(*arguments, **keywords).arguments
        ids = given.get("input_ids")
        if ids is None or ids.shape[1] <= self.window:
            if ids is None and given["inputs_embeds"].shape[1] > self.window:
                raise UserError(
                    f"{given['inputs_embeds'].shape[1]} vectors were given, expected input_ids, or at most "
                    f"{self.window}: chunks are cut from tokens"
                )
            return self.own(*arguments, **keywords)
        more = given | given.get("kwargs", {})
        for name in ("output_attentions", "output_hidden_states", "head_mask"):
            if more.get(name):
                raise UserError(f"{name} was asked for, of a text that is encoded in chunks", "Leave it out.")
        mask = given.get("attention_mask")
        shown = torch.ones_like(ids) if mask is None else mask.to(ids)
        out = self.own(input_ids=ids[:1, : self.window], return_dict=True)
        states = out.last_hidden_state.new_zeros(*ids.shape, out.last_hidden_state.shape[-1])
        for row, visible in zip(range(len(ids)), shown.bool(), strict=True):
            states[row, visible] = self.encoded(ids[row, visible])
        out = type(out)(last_hidden_state=states)
        return out.to_tuple() if more.get("return_dict") is False else out

    def encoded(self, ids: Tensor) -> Tensor:
        """States [n, D] of a text without padding, int64 [n]."""
        cut = segments(len(ids), self.window, self.overlap)
        chunks = torch.stack([ids[start:end] for start, end, _, _ in cut])
        parts = [
            self.own(input_ids=some, attention_mask=torch.ones_like(some), return_dict=True).last_hidden_state
            for some in chunks.split(max(1, TOGETHER // chunks.shape[1]))
        ]
        pairs = zip(torch.cat(parts), cut, strict=True)
        return torch.cat([chunk[keep - start : end - start] for chunk, (start, _, keep, end) in pairs])


def segments(tokens: int, window: int, overlap: float) -> list[tuple[int, int, int, int]]:
    """Chunks of a text, and what is kept of each: (first read, behind the last, first kept, behind the last kept).

    A chunk is kept without half the overlap on each side, but for the two ends of the text. All have the window's size,
    the last one reaching back for it; a text within the window is one chunk.

    Args:
        tokens: of the text, 1 or more.
        window: of a chunk.
        overlap: share of it that is read by a neighbour too.
    """
    if tokens <= window:
        return [(0, tokens, 0, tokens)]
    margin = min(int(window * overlap / 2), (window - 1) // 2)
    found, kept, start = [], 0, 0
    while kept < tokens:
        start = min(start, tokens - window)
        end = start + window
        upto = tokens if end == tokens else end - margin
        found.append((start, end, kept, upto))
        kept, start = upto, start + window - 2 * margin
    return found


class _Lookup:
    """The forward of one cross-attention: as the model has it within the window, else by the k best states."""

    def __init__(self, attention: Any, names: tuple[str, str, str, str], window: int, k: int):
        self.own, self.signature = attention.forward, signature(attention.forward)
        self.q, self.k, self.v, self.o = (getattr(attention, name) for name in names)
        self.heads = int(getattr(attention, "n_heads", 0) or attention.num_heads)
        self.scale = float(getattr(attention, "scaling", None) or 1.0)  # T5 has none
        self.attention, self.window, self.topk = attention, window, k

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        given = dict(self.signature.bind(*arguments, **keywords).arguments)
        name = "key_value_states" if "key_value_states" in given else "encoder_hidden_states"
        states = given[name]
        if states.shape[1] <= self.window:
            return self.own(*arguments, **keywords)
        if self.attention.training and getattr(self.attention, "dropout", 0):
            raise UserError("attention dropout is on, which looked-up states have not", "Call model.eval().")
        mask = given.get("mask", given.get("attention_mask"))
        queries, hidden, count = self.queries(given["hidden_states"]), _hidden(mask, states), states.shape[1]
        seen = [count] * len(states) if hidden is None else (~hidden).sum(1).tolist()
        # A row within the window sees all of it, whatever is beside it.
        ks = [min(max(self.topk, n if n <= self.window else 1), count) for n in seen]
        out = looked_up(queries, states, ks, hidden)
        # The model's own forward, on a single state and without the cache, says what else is returned, in what form.
        held = {key: None for key in ("mask", "attention_mask", "cache", "past_key_values") if key in given}
        more = {key: value for key, value in given.items() if key != "kwargs"} | given.get("kwargs", {})
        rest = self.own(**more | held | {name: states[:, :1]})[1:]
        return self.o(self.values(out)), *rest

    def queries(self, hidden: Tensor) -> Tensor:
        """Scaled queries in the space of encoder states, [B, H, Q, D]: q W_k."""
        q = self.q(hidden).unflatten(-1, (self.heads, -1)).transpose(1, 2) * self.scale
        found: Tensor = q @ self.k.weight.unflatten(0, (self.heads, -1))
        return found

    def values(self, mean: Tensor) -> Tensor:
        """What heads give, [B, Q, H d], for the mean of their states, [B, H, Q, D]."""
        out = (mean @ self.v.weight.unflatten(0, (self.heads, -1)).mT).transpose(1, 2).flatten(2)
        return out if self.v.bias is None else out + self.v.bias


def _hidden(mask: Tensor | None, states: Tensor) -> Tensor | None:
    """Which states are padding, bool [B, n], by a mask of the decoder's, [B, 1, Q, n]."""
    if mask is None:
        return None
    last = mask[:, 0, -1]
    hidden = ~last if last.dtype == torch.bool else last < torch.finfo(states.dtype).min / 2
    return hidden.expand(len(states), -1)


def looked_up(queries: Tensor, states: Tensor, ks: Sequence[int], hidden: Tensor | None = None) -> Tensor:
    """Mean of the k states with the largest logits, by their softmax: [B, H, Q, D].

    Args:
        queries: in the space of the states, scaled, [B, H, Q, D].
        states: [B, n, D].
        ks: k of each row, 1 to n.
        hidden: states that are not seen, bool [B, n].
    """
    size = max(1, SCORES // (queries.shape[1] * max(states.shape[1], max(ks) * states.shape[2])))
    gone = [None] * len(states) if hidden is None else hidden
    rows = [
        torch.cat([_looked_up(some, one, k, left) for some in row.split(size, 1)], 1)
        for row, one, k, left in zip(queries, states, ks, gone, strict=True)
    ]
    return torch.stack(rows)


def _looked_up(queries: Tensor, states: Tensor, k: int, hidden: Tensor | None) -> Tensor:
    """Of one row: queries [H, Q, D], states [n, D]."""
    logits = queries @ states.mT
    if hidden is not None:
        logits = logits.masked_fill(hidden, -torch.inf)
    best, index = logits.topk(k, -1)
    return (best.float().softmax(-1).to(states.dtype)[..., None, :] @ states[index])[..., 0, :]
