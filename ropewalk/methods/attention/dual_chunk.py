"""Dual Chunk Attention, ChunkLlama (arXiv 2402.17463); in Qwen2.5-1M with a temperature (arXiv 2501.15383)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from ropewalk.attention.regions import Layer, Map, Region
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import AttentionMethod
from ropewalk.methods.base import require_above
from ropewalk.methods.ranges import Range


@dataclass(frozen=True)
class DualChunk(AttentionMethod):
    """Keys always carry n mod c; a query takes one of three positions, by how many chunks of c tokens lie between.

    In one chunk: m mod c. In the chunk before: min(m mod c + c, M), so that the nearest ``local_size`` = M - c
    tokens keep their distance. Further: min(2c - 1, M).

    Attributes:
        chunk_size: M, no position is larger; None means 3 L / 4 (the official code). Qwen's models state it, and the
            local size, in their configuration.
        local_size: M - c in tokens; None means chunk_size / 6 (L / 8 where that is 3 L / 4).
    """

    chunk_size: int | None = None
    local_size: int | None = None

    name: ClassVar[str] = "dca"
    tunable: ClassVar[Mapping[str, Range]] = {
        "chunk_size": Range(9 / 16, 1, of="window", whole=True),
        "local_size": Range(1 / 32, 1 / 2, of="window", whole=True),
    }

    def __post_init__(self) -> None:
        require_above(0, self, "chunk_size", "local_size")

    def regions(self, layer: Layer) -> tuple[Region, ...]:
        c, ceiling = self._sizes(layer)

        def start(chunks_back: int) -> Map:
            return lambda m: ((m // c - chunks_back) * c).clamp_min(0)

        def in_chunk(p: torch.Tensor) -> torch.Tensor:
            return p % c

        same_chunk = Region(lo=start(0), q_pos=in_chunk, k_pos=in_chunk)
        chunk_before = Region(start(1), start(0), lambda m: (m % c + c).clamp_max(ceiling), in_chunk)
        further = Region(hi=start(1), q_pos=lambda m: torch.full_like(m, min(2 * c - 1, ceiling)), k_pos=in_chunk)
        return same_chunk, chunk_before, further

    def check(self, layer: Layer) -> None:
        c, ceiling = self._sizes(layer)
        if c < 1:
            raise UserError(
                f"{self.name}: local_size is {ceiling - c}, expected less than chunk_size = {ceiling}: chunks have "
                "c = chunk_size - local_size tokens"
            )
        if ceiling > layer.window:
            raise UserError(
                f"{self.name}: chunk_size is {ceiling}, which is the largest position; the model was trained on "
                f"{layer.window} tokens",
                f"Choose chunk_size <= {layer.window}.",
            )

    def _sizes(self, layer: Layer) -> tuple[int, int]:
        ceiling = 3 * layer.window // 4 if self.chunk_size is None else self.chunk_size
        local = ceiling // 6 if self.local_size is None else self.local_size
        return ceiling - local, ceiling
