"""Chunk interleaving: several documents, each in chunks, dealt in turn (LongSkywork, arXiv 2406.00605)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Arrangement, Ints
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece, RowBuilder


@dataclass(frozen=True)
class Interleaving:
    """The first chunk of every document of a row, then the second one of each, and so on; a row is one scope.

    Attributes:
        chunks: of a document; 2 did best in the comparison of Untie the Knots.
    """

    chunks: int = 2

    def __post_init__(self) -> None:
        if self.chunks < 1:
            raise UserError(f"chunks is {self.chunks}, expected 1 at least", "Say --chunks 1, or more.")

    def rows(self, lengths: Ints, length: int, begin: int, marks: Marks, seed: int) -> Arrangement:
        """Documents in their order; nothing is random here, and nothing is marked.

        Args:
            lengths: int64 [n], tokens of each document, what texts begin with included.
            length: tokens of a row.
            begin: tokens that texts begin with, and every row.
            marks: not used.
            seed: not used.
        """
        builder = RowBuilder(lengths, length, begin)
        while builder.left:
            taken = [builder.take(size) for size in builder.plain()]
            builder.close(self.dealt(taken))
        return builder.arrangement

    def dealt(self, documents: list[Piece]) -> list[Piece]:
        """Chunks of equal lengths, to a token, in turn."""
        parts = [
            one.parted(np.linspace(0, one.tokens, self.chunks + 1).round().astype(int)[1:-1].tolist())
            for one in documents
        ]
        return [chunks[k] for k in range(self.chunks) for chunks in parts if chunks[k].tokens]
