"""Rows that are filled one after the other with documents in their order, whatever is done to those inside a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np

from ropewalk.data.arrangement import Arrangement, Ints


@dataclass(frozen=True)
class Piece:
    """A part of a document, or a mark.

    Attributes:
        document: its number.
        start: its first token.
        stop: the one behind its last.
        loss: whether it is learnt.
    """

    document: int
    start: int
    stop: int
    loss: bool = True

    @classmethod
    def mark(cls, number: int, tokens: int) -> Piece:
        return cls(number, 0, tokens, loss=False)

    @property
    def tokens(self) -> int:
        return self.stop - self.start

    def parted(self, cuts: Sequence[int]) -> list[Piece]:
        """Parts that end after so many of its tokens, and the rest."""
        edges = [self.start, *(self.start + cut for cut in cuts), self.stop]
        return [replace(self, start=a, stop=b) for a, b in pairwise(edges)]


@dataclass
class RowBuilder:
    """Takes documents in their order, each to its end; one that a row has no room for goes on in the next.

    Attributes:
        lengths: int64 [n], tokens of each document.
        length: tokens of a row at most.
        begin: tokens that texts begin with, and every row, whether or not a document begins there.
        row: the number of the row that is being filled.
        room: tokens that are left in it.
        pieces: of all rows before it.
    """

    lengths: Ints
    length: int
    begin: int = 0
    row: int = 0
    room: int = field(init=False)
    pieces: list[tuple[int, Piece]] = field(default_factory=list)
    _document: int = 0
    _start: int = 0

    def __post_init__(self) -> None:
        self.room = self.length - self.begin
        self._skip()

    def _skip(self) -> None:
        while self._document < len(self.lengths) and self._start >= self.lengths[self._document]:
            self._document, self._start = self._document + 1, 0

    @property
    def left(self) -> bool:
        """Whether there are documents left."""
        return self._document < len(self.lengths)

    @property
    def ahead(self) -> int:
        """Tokens that are left of the next document."""
        return int(self.lengths[self._document]) - self._start

    def plain(self) -> Iterator[int]:
        """Room of the row, until that or the documents are used up."""
        while self.left and self.room:
            yield self.room

    def take(self, most: int, beside: int = 0) -> Piece:
        """The next document, or what is left of it, up to ``most`` tokens; ``beside`` go into the row with it."""
        stop = min(self._start + most, int(self.lengths[self._document]))
        piece = Piece(self._document, self._start, stop)
        self.room -= piece.tokens + beside
        self._start = stop
        self._skip()
        return piece

    def close(self, pieces: Sequence[Piece]) -> None:
        """End the row with these pieces, in their order."""
        self.pieces += [(self.row, piece) for piece in pieces]
        self.row, self.room = self.row + 1, self.length - self.begin

    @property
    def arrangement(self) -> Arrangement:
        """Of all rows that are closed; each is one scope."""
        rows: list[list[Piece]] = [[] for _ in range(self.row)]
        for row, piece in self.pieces:
            rows[row].append(piece)
        return arranged_pieces(rows, len(self.lengths))


def arranged_pieces(rows: Sequence[Sequence[Piece]], documents: int) -> Arrangement:
    """Rows of pieces, each one scope, begun as texts are.

    Args:
        rows: pieces of each, in their order.
        documents: how many there are; what follows them are marks.
    """
    columns = [(row, one.document, one.start, one.stop, one.loss) for row, some in enumerate(rows) for one in some]
    row, document, start, stop, loss = (np.array(column, np.int64) for column in zip(*columns, strict=True))
    first = np.diff(row, prepend=-1) != 0
    begun = first & ((start > 0) | (document >= documents))
    return Arrangement.of(row, document, start, stop, apart=False, begun=begun, loss=loss.astype(bool))
