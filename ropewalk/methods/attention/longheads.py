"""LongHeads: every head attends to the chunks of the text that it chooses, at positions in range (arXiv 2402.10685).

Not copied from the official code: beyond the first k chunks of a prompt a query does not see its own key there (keys
are counted up to its position, which is left out). Here it does, in a prompt as in decoding. Heads that share keys are
read as if each had its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from ropewalk.attention.kernels import per_query_head
from ropewalk.attention.recall import Recalled, Text
from ropewalk.attention.regions import Layer, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import POSITIONS, VISIBILITY, BlockwiseMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class LongHeads(BlockwiseMethod):
    """Of the chunks of l tokens, each head of a query sees k: the first, the last two, and k - 3 that it chooses.

    Chosen chunks lie next to each other in text order, at positions 0 .. k l - 1; a query with at most k chunks reads
    as the plain model. A chunk is represented as the official code does it: bidirectional attention inside the chunk,
    its mean as a query that attends to the chunk's keys once more, with keys in the place of values. The unrotated
    query chooses the largest products.

    Attributes:
        chunk: l in tokens; None means a sixteenth of the window.
        attended: k l, tokens that a query attends to at most; None means the window.
        block: queries that choose together, by the sum of their products. 1 as in the paper, and independent of how
            a text is cut; prompts are read much faster with more.
    """

    chunk: int | None = None
    attended: int | None = None
    block: int = 1

    name: ClassVar[str] = "longheads"
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY})

    def __post_init__(self) -> None:
        require_above(0, self, "chunk", "attended", "block")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        alone = cls(chunk=w // 8, attended=w // 2)
        return alone, replace(alone, block=w // 8)

    @property
    def together(self) -> int | None:
        return self.block

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        size, k = self._sizes(layer)
        near = Region(lo=lambda m: torch.where(m < k * size, 0, (m // size - 1) * size))
        first = Region(hi=lambda m: torch.where(m < k * size, 0, size), q_pos=lambda m: (k - 1) * size + m % size)
        return near, first

    def recall(self, text: Text) -> Iterator[Recalled]:
        size, k = self._sizes(self.seen_as(text.layer))
        represented = self._representations(text, size)
        met_at = text.arange(size, (k - 2) * size)
        inside = text.arange(0, size)
        for rows in text.blocks(self.block):
            m = text.arange(text.past + rows.start, text.past + rows.stop)
            own = int(m[0]) // size
            if own < k or k == 3:
                continue
            query = text.query[:, :, rows].to(represented.dtype).sum(2, keepdim=True)
            score = (query @ represented[:, :, 1 : own - 1].mT)[:, :, 0]
            chunks = 1 + score.topk(k - 3).indices.sort().values
            index = (chunks[..., None] * size + inside).flatten(2)
            yield Recalled(rows, index, ((k - 1) * size + m % size, met_at))

    def check(self, layer: Layer) -> None:
        size, k = self._sizes(layer)
        attended = layer.window if self.attended is None else self.attended
        if attended > layer.window:
            raise UserError(f"{self.name}: attended is {attended}, expected at most the {layer.window} trained tokens")
        if k < 3 or k * size != attended:
            raise UserError(
                f"{self.name}: attended is {attended}, chunk is {size}, expected attended = k * chunk with k at least "
                "3: the first chunk and the last two are always seen"
            )
        if size % self.block:
            raise UserError(
                f"{self.name}: block is {self.block}, expected a divisor of chunk = {size}: queries that choose "
                "together are in one chunk"
            )

    def _sizes(self, layer: Layer) -> tuple[int, int]:
        size = max(1, layer.window // 16) if self.chunk is None else self.chunk
        return size, (layer.window if self.attended is None else self.attended) // size

    def _representations(self, text: Text, size: int) -> Tensor:
        """One vector per complete chunk and query head, float32 at least, [B, H, chunks, D]."""
        queries = text.so_far("queries", text.query)
        if text.value.shape[-1] != text.key.shape[-1]:
            raise UserError(
                f"{self.name}: values of {text.value.shape[-1]} dimensions cannot query keys of {text.key.shape[-1]}"
            )
        exact = torch.promote_types(text.key.dtype, torch.float32)
        known = text.memory.get("representations", queries[:, :, :0].to(exact))
        found = [known[:, :, : text.past // size]]
        inside = text.arange(0, size)
        for chunk in range(found[0].shape[2], text.length // size):
            tokens = slice(chunk * size, (chunk + 1) * size)
            query = text.turned(queries[:, :, tokens].to(exact), inside)
            key = per_query_head(text.turned(text.key[:, :, tokens].to(exact), inside), query)
            value = per_query_head(text.value[:, :, tokens].to(exact), query)
            mean = (((query @ key.mT) * text.scale).softmax(-1) @ value).mean(2, keepdim=True)
            found.append(((mean @ key.mT) * text.scale).softmax(-1) @ key)
        text.memory["representations"] = represented = torch.cat(found, 2)
        return represented
