"""Rows of training as pieces of documents: packing, ordering, knots and synthesis all say no more than this.

What they put between documents (a knot, a question) is a document too, whose pieces have no loss. So an arrangement is
a table of numbers, can be undone, and its tokens lie on the disk once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError

Ints = NDArray[np.int64]
COLUMNS = "row", "document", "start", "stop", "scope", "begun", "loss"


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Pieces of documents, in the order in which they are read; P of them in R rows.

    Attributes:
        row: int64 [P], never falling, from 0 on without gaps.
        document: int64 [P], by number.
        start: int64 [P], the first token of the document that is in the piece.
        stop: int64 [P], the one behind its last.
        scope: int64 [P]; tokens of a row see each other where this is equal.
        begun: bool [P], whether what texts begin with (BOS) is put before it: a piece out of the middle of a document
            that stands alone. Documents have it themselves.
        loss: bool [P], whether its tokens are learnt.
    """

    row: Ints
    document: Ints
    start: Ints
    stop: Ints
    scope: Ints
    begun: NDArray[np.bool_]
    loss: NDArray[np.bool_]

    @classmethod
    def of(
        cls,
        row: Ints,
        document: Ints,
        start: Ints,
        stop: Ints,
        apart: bool,
        begun: NDArray[np.bool_] | None = None,
        loss: NDArray[np.bool_] | None = None,
    ) -> Arrangement:
        """Pieces in any order of their rows, whose numbers may have gaps.

        Args:
            row: as of the class, like the others.
            document: as of the class.
            start: as of the class.
            stop: as of the class.
            apart: whether each piece sees itself alone; else a row is one scope.
            begun: by default never.
            loss: by default always.
        """
        order = np.argsort(row, kind="stable")
        row = np.cumsum(np.diff(row[order], prepend=row[order[:1]]) != 0)
        number = np.arange(len(row)) - np.searchsorted(row, np.arange(len(row) and row[-1] + 1))[row]
        none = np.zeros(len(row), bool)
        return cls(
            row, document[order], start[order], stop[order], number if apart else np.zeros_like(row),
            none if begun is None else begun[order], ~none if loss is None else loss[order],
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: Sequence[Arrangement]) -> Arrangement:
        """Rows of several arrangements of the same documents, one behind the other."""
        firsts = np.cumsum([0, *(part.rows for part in parts)])
        moved = [replace(part, row=part.row + first) for part, first in zip(parts, firsts, strict=False)]
        return cls(*(np.concatenate([getattr(part, name) for part in moved]) for name in COLUMNS))

    def taken(self, rows: Ints) -> Arrangement:
        """These of its rows, in this order, as often as they come.

        Args:
            rows: int64 [n], by number.
        """
        counts = np.diff(self.firsts)[rows]
        row = np.repeat(np.arange(len(rows)), counts)
        piece = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts - self.firsts[rows], counts)
        return Arrangement(row, *(getattr(self, name)[piece] for name in COLUMNS[1:]))

    @property
    def rows(self) -> int:
        """How many there are."""
        return int(self.row[-1]) + 1 if len(self.row) else 0

    @cached_property
    def firsts(self) -> Ints:
        """int64 [R + 1], the first piece of each row, and the number of all pieces."""
        return np.searchsorted(self.row, np.arange(self.rows + 1))

    def sizes(self, begin: int) -> Ints:
        """int64 [R], tokens of each row, where texts begin with ``begin`` tokens."""
        return np.bincount(self.row, self.stop - self.start + begin * self.begun, self.rows).astype(np.int64)

    def shuffled(self, seed: int) -> Arrangement:
        """The same rows in a random order; bins come out sorted by length, which would be a curriculum by accident."""
        place = np.random.default_rng([seed, 0x5EED]).permutation(self.rows)
        order = np.argsort(place[self.row], kind="stable")
        moved = {name: getattr(self, name)[order] for name in COLUMNS[1:]}
        return Arrangement(row=place[self.row][order], **moved)

    def check(self, lengths: Ints) -> None:
        """Refuse an arrangement that is none of documents of these lengths.

        Raises:
            UserError: naming the column, and the first piece that is wrong.
        """
        sizes = {len(getattr(self, name)) for name in COLUMNS}
        if len(sizes) != 1:
            raise UserError(f"columns of {sorted(sizes)} pieces, expected one number for all")
        known = (self.document >= 0) & (self.document < len(lengths))
        until = lengths[np.where(known, self.document, 0)] if len(lengths) else np.zeros_like(self.document)
        wrong = {
            "row": np.diff(self.row, prepend=-1 if len(self.row) and self.row[0] == 0 else -2) > 1,
            "document": ~known,
            "start": (self.start < 0) | (self.start > self.stop),
            "stop": self.stop > until,
            "scope": self.scope < 0,
        }
        wrong["row"] |= np.diff(self.row, prepend=0) < 0
        for name, where in wrong.items():
            if where.any():
                piece = int(np.argmax(where))
                seen = {one: getattr(self, one)[piece].item() for one in COLUMNS}
                raise UserError(f"piece {piece:,} of an arrangement has a {name} that cannot be: {seen}")
