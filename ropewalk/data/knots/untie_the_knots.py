"""Untie the Knots: documents in chunks, shuffled into one row, each cut tied by a pair of marks (arXiv 2409.04774)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Arrangement, Ints
from ropewalk.data.knots.marks import Marks, sign
from ropewalk.data.knots.row_builder import Piece, RowBuilder

FEWEST = 16  # tokens of a document that are worth a place in a row


@dataclass(frozen=True)
class UntieTheKnots:
    """Long distances out of short documents: chunks of one document lie far apart, and belong together.

    Both sides of a cut bear the same knot. Before each chunk stands the id of its document, and behind a document's
    last chunk the ids of its chunks in their order, so that the model has to trace them back. Rows are one scope:
    documents kept apart would undo it. Marks have no loss.

    Attributes:
        share: of rows that are tied, 0 to 1; the others are plain. The paper's are 0.3 and 0.8.
        chunks: of a document; ours, the paper varies it.
        in_order: whether the chunks of a document keep their order.
    """

    share: float = 0.3
    chunks: int = 3
    in_order: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise UserError(f"share is {self.share}, expected 0 to 1", "Say --share 0.3, or another.")
        if self.chunks < 2:
            raise UserError(
                f"chunks is {self.chunks}, expected 2 at least: one chunk has no cut", "Say --chunks 2, or more."
            )

    def rows(self, lengths: Ints, length: int, begin: int, marks: Marks, seed: int) -> Arrangement:
        """Documents in their order, until each is in a row, cut where one is full.

        Args:
            lengths: int64 [n], tokens of each document, what texts begin with included.
            length: tokens of a row at most.
            begin: tokens that texts begin with, and every row.
            marks: where new ones go.
            seed: of which rows are tied, of cuts, order and ids.

        Raises:
            UserError: if a row is too short for the marks of one document.
        """
        builder = RowBuilder(lengths, length, begin)
        while builder.left:
            rng = np.random.default_rng([seed, builder.row])
            if rng.random() < self.share:
                builder.close(self._tied(builder, marks, rng))
            else:
                builder.close([builder.take(size) for size in builder.plain()])
        return builder.arrangement

    def _tied(self, builder: RowBuilder, marks: Marks, rng: np.random.Generator) -> list[Piece]:
        """Documents until the row is full: chunks with their marks, shuffled."""
        documents: list[tuple[list[list[Piece]], list[Piece]]] = []
        while builder.left and builder.room:
            if builder.ahead < max(FEWEST, self.chunks):
                documents.append(([[builder.take(builder.room)]], []))
                continue
            first, own = marks.first + len(marks.ids), sign(rng)
            names = [sign(rng) for _ in range(self.chunks)]
            knots = [Piece.mark(*marks.add(f"\n<knot {sign(rng)}>\n")) for _ in names[1:]]
            heads = [Piece.mark(*marks.add(f"\n<document {own}, chunk {name}>\n")) for name in names]
            trace = [Piece.mark(*marks.add(f"\n<document {own} is {', '.join(names)}>\n"))]
            overhead = sum(one.tokens for one in (*knots, *knots, *heads, *trace))
            room = builder.room - overhead
            if room < max(FEWEST, self.chunks):
                marks.forget(first)
                if not documents:
                    raise UserError(
                        f"a row of {builder.length} tokens is too short for {self.chunks} chunks, whose marks take "
                        f"{overhead}",
                        "Give a greater --length, or fewer --chunks.",
                    )
                break
            taken = builder.take(room, overhead)
            cuts = np.sort(rng.choice(np.arange(1, taken.tokens), self.chunks - 1, replace=False)).tolist()
            parts = taken.parted(cuts)
            tied = [
                [heads[i], *knots[i - 1 : i], part, *knots[i : i + 1]] if i else [heads[0], part, knots[0]]
                for i, part in enumerate(parts)
            ]
            documents.append((tied, trace))
        return _shuffled(documents, self.in_order, rng)


def _shuffled(
    documents: list[tuple[list[list[Piece]], list[Piece]]], in_order: bool, rng: np.random.Generator
) -> list[Piece]:
    """Chunks of all documents in a random order, each document's trace behind its last one."""
    owners = [i for i, (chunks, _) in enumerate(documents) for _ in chunks]
    left = {
        i: list(range(len(chunks))) if in_order else rng.permutation(len(chunks)).tolist()
        for i, (chunks, _) in enumerate(documents)
    }
    found: list[Piece] = []
    for owner in rng.permutation(owners).tolist():
        chunks, trace = documents[owner]
        found += chunks[left[owner].pop(0)]
        if not left[owner]:
            found += trace
    return found
