"""Concatenation: all documents in a row, cut every so many tokens; the baseline that others are held against."""

from __future__ import annotations

import numpy as np

from ropewalk.data.arrangement import Arrangement, Ints


def concatenation(lengths: Ints, length: int, begin: int = 0) -> Arrangement:
    """Documents in their order, cut wherever a row is full; what is left of the last row is dropped.

    A row is one scope: what a document is, the model learns from its begin alone, as it is usually done.

    Args:
        lengths: int64 [n], tokens of each document, what texts begin with included.
        length: tokens of a row.
        begin: changes nothing here: a cut piece goes on without a new begin.
    """
    ends = np.cumsum(lengths)
    total = int(ends[-1]) // length * length if len(ends) else 0
    edges = np.unique(np.concatenate([np.arange(0, total + 1, length), ends[ends < total]]))
    first, last = edges[:-1], edges[1:]
    document = np.searchsorted(ends, first, "right")
    start = first - (ends - lengths)[document]
    return Arrangement.of(first // length, document, start, start + last - first, apart=False)
