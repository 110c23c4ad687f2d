"""ReAttention, first published as LongCache: recall spans by position-free products, then plain attention.

arXiv 2407.15176.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ropewalk.attention.recall import Recalled, Text, members
from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import POSITIONS, VISIBILITY, AttentionMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.methods.ranges import Range
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SPANS = 64  # what ``recalled`` is at most where it is not stated


@dataclass(frozen=True)
class LongCache(AttentionMethod):
    """A block of queries attends to one short list: first tokens, recalled spans, the latest tokens, in text order.

    Positions are counted in this list, so they stay inside the window. Each query of each head votes for the middle
    keys with the largest unrotated product; the keys with the most votes (the earlier one among equals) are recalled
    with their neighbours, for all heads. The official code also rounds the local part; here its length is exact.

    Queries of one block vote together, so results depend on how a text is cut. Even with ``block=1`` rounding decides
    between equal keys, and before rotation the first layer's keys of a repeated token are equal.

    Attributes:
        sinks: first tokens that are always in the list.
        local: latest tokens that the first query of a block sees, itself among them; None means half of the window.
        span: tokens that are recalled around a key.
        recalled: keys that are recalled at most; None means what fits into the window, at most 64.
        votes: keys that each query of each head votes for.
        block: queries that vote together; None means 512, or an eighth of the window where that is less.
    """

    sinks: int = 32
    local: int | None = None
    span: int = 32
    recalled: int | None = None
    votes: int = 4
    block: int | None = None

    name: ClassVar[str] = "longcache"
    tunable: ClassVar[Mapping[str, Range]] = {
        "local": Range(1 / 4, 3 / 4, of="window", whole=True),
    }
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY})
    by_content: ClassVar[bool] = True
    cache_exact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_above(0, self, "local", "span", "votes", "block")
        require_above(-1, self, "sinks", "recalled")

    @property
    def causal(self) -> bool:  # type: ignore[override]
        return self.block == 1

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        return (cls(sinks=w // 16, local=w // 4, span=w // 16, recalled=3, block=w // 16),)

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        local, _, block = self._sizes(layer)

        def first(m: Tensor) -> Tensor:
            """The first local token; before there is a middle, the list is the whole text."""
            start = m // block * block - local + 1
            return torch.where(start <= self.sinks, 0, start)

        return (Region(lo=first),)

    def recall(self, text: Text) -> Iterator[Recalled]:
        local, recalled, block = self._sizes(self.seen_as(text.layer))
        room = self.sinks + recalled * self.span
        for rows in text.blocks(block):
            m = text.arange(text.past + rows.start, text.past + rows.stop)
            end = int(m[0]) // block * block - local + 1  # of the middle
            if end <= self.sinks:
                continue
            chosen = text.key.new_ones(text.key.shape[0], end, dtype=torch.bool)
            chosen[:, self.sinks :] = self._spans(_votes(text, rows, self.sinks, end, self.votes), recalled)
            index = members(chosen)[:, None]
            n = index.shape[-1]
            yield Recalled(rows, index, (m - end + room, text.arange(room - n, room)))

    def check(self, layer: Layer) -> None:
        local, recalled, block = self._sizes(layer)
        longest = self.sinks + recalled * self.span + local + block - 1
        if longest > layer.window:
            raise UserError(
                f"{self.name}: sinks + recalled * span + local + block - 1 = {self.sinks} + {recalled} * {self.span} + "
                f"{local} + {block} - 1 = {longest}, expected at most the {layer.window} trained tokens"
            )

    def _sizes(self, layer: Layer) -> tuple[int, int, int]:
        local = layer.window // 2 if self.local is None else self.local
        block = max(1, min(512, layer.window // 8)) if self.block is None else self.block
        left = layer.window - self.sinks - local - block + 1
        return local, max(0, min(SPANS, left // self.span)) if self.recalled is None else self.recalled, block

    def _spans(self, votes: Tensor, recalled: int) -> Tensor:
        """The keys with the most votes, with their neighbours: int64 [B, K] -> bool [B, K]."""
        ranked = votes.sort(stable=True, dim=-1, descending=True)
        centres = ranked.indices[:, :recalled, None]
        near = centres + torch.arange(self.span, device=votes.device) - self.span // 2
        wanted = (ranked.values[:, :recalled, None] > 0) & (near >= 0) & (near < votes.shape[-1])
        chosen = torch.zeros_like(votes)
        chosen.scatter_add_(-1, (near * wanted).flatten(1), wanted.flatten(1).long())
        return chosen > 0


def _votes(text: Text, rows: slice, start: int, end: int, each: int) -> Tensor:
    """How many queries of all heads have key start .. end - 1 among their best, int64 [B, end - start]."""
    votes = torch.zeros(text.key.shape[0], end - start, dtype=torch.int64, device=text.key.device)
    group = text.query.shape[1] // text.key.shape[1]
    for head in range(text.query.shape[1]):  # one head at a time: rows times text is much
        score = text.query[:, head, rows] @ text.key[:, head // group, start:end].mT
        best = score.topk(min(each, end - start)).indices.flatten(1)
        votes.scatter_add_(-1, best, torch.ones_like(best))
    return votes
