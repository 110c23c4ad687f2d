"""InfLLM: first tokens, a window, and blocks of the past that are retrieved (arXiv 2402.04617).

Weights of keys are the paper's, by the W queries that follow a key. The official code adds up shares of attention, from
the key's own query on, so that the last of the W is another one; and a block that has just left the window can be
chosen one token later than here. Until then all of it is seen, here and there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import Tensor

from ropewalk.attention.kernels import per_query_head
from ropewalk.attention.recall import Recalled, Text
from ropewalk.attention.regions import Layer, Region, zero
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import POSITIONS, VISIBILITY, BlockwiseMethod
from ropewalk.methods.base import Method, require_above
from ropewalk.rope import config as rope_config

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_Count = TypeVar("_Count", int, Tensor)


@dataclass(frozen=True)
class InfLLM(BlockwiseMethod):
    """Keys less than W away keep their distance; all others that a query sees are met at distance W - 1.

    What left the window is cut into blocks. A key's weight is its mean rotated dot product with the W queries that
    follow it; a block is represented by the average of its heaviest keys. A run of queries averages its vectors at
    position W - 1, sees the ``topk`` blocks whose representatives give the largest product (summed over heads), the
    first tokens, and what is no complete block yet. Every query head has representatives of its own, also where heads
    share keys.

    Queries of one run choose together, so results depend on how a text is cut; with ``execution_block=1`` they do not.

    Attributes:
        window: W in tokens; None means the trained window.
        sinks: how many of the first tokens stay visible.
        block_size: tokens per block.
        topk: blocks retrieved per run of queries.
        representatives: keys that represent a block.
        execution_block: queries that choose together; None means 512, or W where that is less.
    """

    window: int | None = None
    sinks: int = 128
    block_size: int = 128
    topk: int = 16
    representatives: int = 4
    execution_block: int | None = None

    name: ClassVar[str] = "infllm"
    axes: ClassVar[frozenset[str]] = frozenset({POSITIONS, VISIBILITY})

    def __post_init__(self) -> None:
        require_above(0, self, "window", "block_size", "topk", "representatives", "execution_block")
        require_above(-1, self, "sinks")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        w = rope_config.trained_window(config)
        together = cls(window=w // 2, sinks=w // 16, block_size=w // 8, topk=2, execution_block=w // 8)
        return replace(together, execution_block=1), together

    @property
    def together(self) -> int | None:
        return self.execution_block

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        w, run = self._sizes(layer)

        def at_last(m: Tensor) -> Tensor:
            return torch.full_like(m, w - 1)

        def first_loose(m: Tensor) -> Tensor:
            """The first key behind the complete blocks."""
            return self.sinks + self._complete(m // run * run + 1, w) * self.block_size

        near = Region(lo=lambda m: m - w + 1)
        first = Region(hi=lambda m: (m - w + 1).clamp(0, self.sinks), q_pos=at_last, k_pos=zero)
        loose = Region(first_loose, lambda m: torch.maximum(m - w + 1, first_loose(m)), at_last, zero)
        return near, first, loose

    def recall(self, text: Text) -> Iterator[Recalled]:
        w, run = self._sizes(self.seen_as(text.layer))
        far = text.regions[1]
        represented = self._representatives(text, w)
        query = text.queries(far).to(represented.dtype)
        for rows in text.blocks(run):
            known = self._complete((text.past + rows.start) // run * run + 1, w)
            if known == 0:
                continue
            score = torch.einsum("bhd,bhnd->bn", query[:, :, rows].mean(2), represented[:, :, :known])
            best = score.topk(min(self.topk, known)).indices.sort().values
            keys = best[..., None] * self.block_size + text.arange(0, self.block_size) + self.sinks
            yield Recalled(rows, keys.flatten(1)[:, None], far)

    def check(self, layer: Layer) -> None:
        w, run = self._sizes(layer)
        if w > layer.window:
            raise UserError(f"{self.name}: window is {w}, expected at most the {layer.window} trained tokens")
        if run > w:
            raise UserError(
                f"{self.name}: execution_block is {run}, expected at most window = {w}: queries that choose together "
                "must see each other"
            )
        if self.representatives > self.block_size:
            raise UserError(
                f"{self.name}: representatives is {self.representatives}, expected at most block_size = "
                f"{self.block_size}"
            )

    def _sizes(self, layer: Layer) -> tuple[int, int]:
        w = layer.window if self.window is None else self.window
        return w, min(512, w) if self.execution_block is None else self.execution_block

    def _complete(self, tokens: _Count, w: int) -> _Count:
        """Blocks that have left the window of the last of so many tokens."""
        blocks = (tokens - w - self.sinks) // self.block_size
        return blocks.clamp_min(0) if isinstance(blocks, Tensor) else max(0, blocks)

    def _representatives(self, text: Text, w: int) -> Tensor:
        """The average heaviest keys of every complete block, float32 at least, [B, H, blocks, D]."""
        near = text.regions[0]
        queries = text.so_far("queries", text.queries(near))
        keys = text.keys(near)
        exact = torch.promote_types(text.key.dtype, torch.float32)
        known = text.memory.get("representatives", queries[:, :, :0].to(exact))
        known = known[:, :, : self._complete(text.past, w)]
        found = [known]
        for block in range(known.shape[2], self._complete(text.length, w)):
            start = self.sinks + block * self.block_size
            end = start + self.block_size
            sums = queries[:, :, start + 1 : end + w].to(known.dtype).cumsum(2)  # of queries start + 1 .. end + w - 1
            before = torch.nn.functional.pad(sums[:, :, : self.block_size - 1], (0, 0, 1, 0))
            weight = ((sums[:, :, w - 1 :] - before) * per_query_head(keys[:, :, start:end], queries)).sum(-1)
            heaviest = weight.topk(self.representatives).indices[..., None].expand(-1, -1, -1, keys.shape[-1])
            unrotated = per_query_head(text.key[:, :, start:end], queries)
            found.append(unrotated.gather(2, heaviest).to(known.dtype).mean(2, keepdim=True))
        text.memory["representatives"] = torch.cat(found, 2)
        represented: Tensor = text.memory["representatives"]
        return represented
