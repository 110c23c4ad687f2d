"""Which heads carry distance in their slow dimensions, and which look far (positional heads, arXiv 2410.08703).

A diagnosis, not a method. The paper's threshold and exact correlation could not be verified; what is computed is stated
at ``Head``, and no head is called positional or not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from ropewalk.attention.recall import Recalled, Text
from ropewalk.checkpoint.inspection import Head
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import SPARSITY, AttentionMethod
from ropewalk.methods.attention.vertical_slash import probabilities

ROWS = 8  # queries whose scores are held at once


@torch.no_grad()
def head_profiles(model: nn.Module, texts: Sequence[Tensor], window: int, queries: int = 64) -> list[Head]:
    """Every head of every layer that rotates and sees the whole text.

    Args:
        model: a live transformers model.
        texts: token ids, [B, tokens] each, without padding.
        window: tokens that the model was trained on; says which pairs are slow.
        queries: how many of the last queries are looked at.

    Raises:
        UserError: if there is no text, or one is shorter than twice the queries.
    """
    short = min((ids.shape[1] for ids in texts), default=0)
    if queries < 1 or short < 2 * queries:
        raise UserError(
            f"the shortest text has {short} tokens, {queries} queries are looked at, expected at least 1 query and "
            "twice as many tokens",
            "Give longer texts.",
        )
    looking = _Looking(slow_below=2 * math.pi / window, queries=queries)
    with looking.on(model):
        for ids in texts:
            model(ids, use_cache=False)
    found = []
    for layer, sums in sorted(looking.found.items()):
        correlation, far = (torch.stack(values).mean(0).tolist() for values in zip(*sums, strict=True))
        for head, (r, share) in enumerate(zip(correlation, far, strict=True)):
            found.append(Head(layer, head, None if math.isnan(r) else r, share))
    return found


def contributions(text: Text, rows: slice) -> Iterator[tuple[Tensor, Tensor]]:
    """What each pair of dimensions adds to the logits of some queries, then what unrotated dimensions add.

    Yields:
        The frequencies concerned, [kv heads or 1] in radians per token (0 for unrotated dimensions), and a part of the
        logits with all keys (also those behind the query), float32 at least, [B, H, rows, K].
    """
    exact = torch.promote_types(text.query.dtype, torch.float32)
    q = text.queries(text.regions[0])[:, :, rows].to(exact).unflatten(1, (text.key.shape[1], -1))
    k = text.keys(text.regions[0]).to(exact)[:, :, None]
    turn, width = text.turn, k.shape[-1]
    assert turn is not None
    half = turn.inv_freq.shape[-1]
    first = 0 if turn.place == "head" else width - 2 * half
    for i in range(half):
        pair = [first + i, first + i + half] if turn.style == "half" else [first + 2 * i, first + 2 * i + 1]
        yield turn.inv_freq[..., i].reshape(-1), (q[..., pair] @ k[..., pair].mT).flatten(1, 2) * text.scale
    rest = [d for d in range(width) if not first <= d < first + 2 * half]
    if rest:
        yield turn.inv_freq.new_zeros(1), (q[..., rest] @ k[..., rest].mT).flatten(1, 2) * text.scale


@dataclass(frozen=True)
class _Looking(AttentionMethod):
    """Changes nothing; notes correlation and far share of every head, [H] each, per layer and text."""

    slow_below: float = 0.0
    queries: int = 64
    found: dict[int, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)

    name: ClassVar[str] = "looking"
    axes: ClassVar[frozenset[str]] = frozenset({SPARSITY})
    by_content: ClassVar[bool] = True

    def recall(self, text: Text) -> Iterator[Recalled]:
        if text.turn is not None and text.layer.sliding is None and text.layer.chunk is None:
            end = text.query.shape[2]
            blocks = range(end - self.queries, end, ROWS)
            parts = [self._look(text, slice(start, min(start + ROWS, end))) for start in blocks]
            correlation, far = (torch.cat(x, -1).mean((0, 2)).cpu() for x in zip(*parts, strict=True))
            self.found.setdefault(text.layer.index, []).append((correlation, far))
        return iter(())

    def _look(self, text: Text, rows: slice) -> tuple[Tensor, Tensor]:
        """Correlation and far share of some queries, [B, H, rows] each."""
        m = text.arange(text.past, text.length)[rows]
        n = text.arange(0, text.length)
        seen = n <= m[:, None]
        whole = slow = torch.zeros((), device=text.key.device)
        for frequency, part in contributions(text, rows):
            is_slow = (frequency > 0) & (frequency < self.slow_below)
            per_head = is_slow.repeat_interleave(part.shape[1] // len(is_slow))[:, None, None]
            whole, slow = whole + part, slow + part * per_head
        far = (probabilities(text, rows) * (n < (m[:, None] + 1) // 2)).sum(-1)
        return _pearson(slow, whole, seen), far


def _pearson(a: Tensor, b: Tensor, seen: Tensor) -> Tensor:
    """Correlation over the last dimension where ``seen``; nan where either is constant."""
    count = seen.sum(-1, keepdim=True)
    a, b = ((x - (x * seen).sum(-1, keepdim=True) / count) * seen for x in (a, b))
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()
