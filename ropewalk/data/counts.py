"""What an arrangement costs: what is cut, padded, dropped, and who sees another document."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ropewalk.data.arrangement import Arrangement, Ints


@dataclass(frozen=True)
class Counts:
    """Of one arrangement.

    Attributes:
        documents: of the source.
        unused: of those, in no row.
        rows: that are read.
        tokens: in them.
        learnt: of those, that have a weight: what texts begin with has none.
        marks: of those, that are of no document.
        padding: that rows lack to their length.
        dropped: of the documents, in no row.
        cut: documents of which a row holds a part.
        cut_in_vain: of those, that would have fitted a row.
        crossing: tokens that see one of another document.
    """

    documents: int
    unused: int
    rows: int
    tokens: int
    learnt: int
    marks: int
    padding: int
    dropped: int
    cut: int
    cut_in_vain: int
    crossing: int

    @classmethod
    def of(
        cls, some: Arrangement, lengths: Ints, documents: int, length: int, begin: int, padded: bool = True
    ) -> Counts:
        """Count.

        Args:
            some: the arrangement.
            lengths: int64 [n], of documents and marks.
            documents: how many of those are no marks.
            length: tokens of a row.
            begin: tokens that texts begin with.
            padded: whether rows are padded to that length; else those of one length are read together.
        """
        sizes, tokens = some.stop - some.start, some.sizes(begin)
        real = some.document < documents
        opening = np.where(real & ~some.begun, np.clip(begin - some.start, 0, sizes), 0)
        inside = _read(some, real, documents)
        pairs, own = np.unique(some.document[real] * (some.rows + 1) + some.row[real], return_inverse=True)
        document = pairs // (some.rows + 1)
        part = np.bincount(own, sizes[real], len(pairs)) < lengths[document]
        cut = np.bincount(document[part], minlength=documents) > 0
        return cls(
            documents=documents, unused=int((inside == 0).sum()), rows=some.rows, tokens=int(tokens.sum()),
            learnt=int(((sizes - opening) * some.loss).sum()), marks=int(sizes[~real].sum()),
            padding=int((length - tokens).sum()) if padded else 0, dropped=int((lengths[:documents] - inside).sum()),
            cut=int(cut.sum()), cut_in_vain=int((cut & (lengths[:documents] <= length)).sum()),
            crossing=_crossing(some, real, sizes),
        )  # fmt: skip


def _read(some: Arrangement, real: np.ndarray, documents: int) -> Ints:
    """int64 [documents], tokens of each that are in a row, however often."""
    order = np.lexsort((some.start[real], some.document[real]))
    document, start, stop = (column[real][order] for column in (some.document, some.start, some.stop))
    far = int(stop.max(initial=0)) + 1
    until = np.maximum.accumulate(stop + far * document) - far * document  # where those before it in the document end
    before = np.where(np.diff(document, prepend=-1) == 0, np.roll(until, 1), 0)
    return np.bincount(document, np.maximum(stop - np.maximum(start, before), 0), documents).astype(np.int64)


def _crossing(some: Arrangement, real: np.ndarray, sizes: Ints) -> int:
    """Tokens of documents in whose scope one of another document stands before them."""
    order = np.lexsort((np.arange(len(some.row))[real], some.scope[real], some.row[real]))
    row, scope, document = (column[real][order] for column in (some.row, some.scope, some.document))
    same = (np.diff(row, prepend=-1) == 0) & (np.diff(scope, prepend=-1) == 0)
    changes = np.cumsum(same & (np.diff(document, prepend=-1) != 0))
    began = np.maximum.accumulate(np.where(same, 0, np.arange(len(row))))
    return int(sizes[real][order][changes > changes[began]].sum()) if len(row) else 0
