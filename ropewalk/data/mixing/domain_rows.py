"""Rows of one domain: documents packed, files of a repository as one, short ones left out, and which rows are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Arrangement, Ints
from ropewalk.data.packing.best_fit import best_fit


def packed(lengths: Ints, length: int, begin: int, least: int = 0, joined: Ints | None = None) -> Arrangement:
    """Documents best-fit; with ``least`` = ``length``, every row is a stretch of one document.

    Documents that are joined are read as one, those behind the first without what texts begin with.

    Args:
        lengths: int64 [n], tokens of each document, what texts begin with included.
        length: tokens of a row.
        begin: tokens that texts begin with.
        least: tokens of a piece at least; shorter documents, and rests of longer ones, are in no row.
        joined: int64 [n], never falling: documents of the same number are one; by default each is its own.

    Raises:
        UserError: if a row has no room for a token behind those.
    """
    unit = np.arange(len(lengths)) if joined is None else np.unique(joined, return_inverse=True)[1]
    first = np.diff(unit, prepend=-1) != 0
    own = lengths - np.where(first, 0, np.minimum(begin, lengths))
    sizes = np.bincount(unit, own, int(unit[-1]) + 1 if len(unit) else 0).astype(np.int64)
    rest = (sizes - length) % max(length - begin, 1)
    sizes = np.where((sizes > length) & (rest > 0) & (rest + begin < least), sizes - rest, sizes)
    return _taken_apart(best_fit(np.where(sizes < least, 0, sizes), length, begin), unit, own, lengths)


def _taken_apart(some: Arrangement, unit: Ints, own: Ints, lengths: Ints) -> Arrangement:
    """An arrangement of units as one of the documents that they are made of, each piece's in one scope.

    Args:
        some: the arrangement.
        unit: int64 [n], which one each document is of.
        own: int64 [n], tokens that it has there: its last ones.
        lengths: int64 [n], tokens that it has.
    """
    ends = np.cumsum(own)
    offset = (ends - own)[np.searchsorted(unit, some.document)]  # of each piece's unit, in all tokens
    start, stop = some.start + offset, some.stop + offset
    first, last = np.searchsorted(ends, start, "right"), np.searchsorted(ends, stop - 1, "right")
    parts = last - first + 1
    piece = np.repeat(np.arange(len(parts)), parts)
    number = np.arange(len(piece)) - np.repeat(np.cumsum(parts) - parts, parts)
    document = first[piece] + number
    skipped = lengths - own - (ends - own)  # from a place in all tokens to the place in the document
    from_, to = np.maximum(start[piece], (ends - own)[document]), np.minimum(stop[piece], ends[document])
    kept = to > from_
    made = Arrangement(
        some.row[piece], document, from_ + skipped[document], to + skipped[document], some.scope[piece],
        some.begun[piece] & (number == 0), some.loss[piece],
    )  # fmt: skip
    return replace(made, **{name: column[kept] for name, column in vars(made).items()})


def repositories(names: Sequence[str], source: str) -> Ints:
    """int64 [n], the repository of each file: the first folder on its way from ``source``; a file there is its own.

    Raises:
        UserError: if documents are no files below that folder.
    """
    found: list[int] = []
    before: tuple[str, ...] | None = None
    for name in names:
        try:
            inside = PurePath(name).relative_to(source).parts
        except ValueError:
            raise UserError(
                f"{name} is no file below {source}, and cannot be joined with others of its repository",
                "Give a folder of repositories, each a folder of files; what is one document already needs no joining.",
            ) from None
        here = inside[:1] if len(inside) > 1 else inside
        found.append(len(found) and found[-1] + (here != before))
        before = here
    return np.array(found, np.int64)


def drawn(sizes: Ints, tokens: float, epochs: int, rng: np.random.Generator) -> Ints:
    """Rows of together as near to ``tokens`` as whole rows come, each epoch all of them in an order of its own.

    Args:
        sizes: int64 [R], tokens of each row.
        tokens: that are wanted; what there is, where that is less.
        epochs: times that a row is read at most.
        rng: of the orders.
    """
    whole = int(sizes.sum())
    needed = min(epochs, int(tokens // whole) + 1)
    order = np.concatenate([rng.permutation(len(sizes)) for _ in range(needed)])
    sums = np.concatenate([[0], np.cumsum(sizes[order])])
    return order[: int(np.argmin(np.abs(sums - tokens)))]
