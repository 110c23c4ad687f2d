"""In-context pretraining: documents in an order in which similar ones follow each other (arXiv 2310.10638)."""

from __future__ import annotations

import numpy as np

from ropewalk.data.arrangement import Ints
from ropewalk.data.ordering.neighbours import Floats


def similar_path(which: Ints, likeness: Floats) -> Ints:
    """int64 [n], every document once: a greedy path through the graph of nearest neighbours.

    It starts at the document of smallest degree, and goes on to the most similar neighbour that it was not at. Where
    there is none, it starts again. (The paper's pseudo code says arg min there, and means the nearest.) Of equals, the
    document of the smallest number is taken.

    Args:
        which: int64 [n, k], neighbours of each document; -1, and a document itself, are none.
        likeness: float32 [n, k], how similar they are; what is not above 0 is no neighbour.
    """
    firsts, ends = _graph(which, likeness)
    path, seen = [], bytearray(len(which))
    bounds, targets = firsts.tolist(), ends.data
    for start in np.argsort(np.diff(firsts), kind="stable").tolist():
        at = start
        while at >= 0 and not seen[at]:
            seen[at] = 1
            path.append(at)
            at = next((one for one in targets[bounds[at] : bounds[at + 1]] if not seen[one]), -1)
    return np.array(path, np.int64)


def _graph(which: Ints, likeness: Floats) -> tuple[Ints, Ints]:
    """Two documents are joined where one is a neighbour of the other.

    Returns:
        int64 [n + 1] and [E]: from where on the neighbours of each stand, and those, most similar first.
    """
    count, k = which.shape
    one, other, alike = np.repeat(np.arange(count), k), which.ravel(), likeness.ravel()
    good = (other >= 0) & (other != one) & (alike > 0)
    one, other, alike = one[good], other[good], alike[good]
    low, high = np.minimum(one, other), np.maximum(one, other)
    order = np.lexsort((-alike, high, low))  # found from both sides, and there rounded otherwise
    low, high, alike = low[order], high[order], alike[order]
    new = (np.diff(low, prepend=-1) != 0) | (np.diff(high, prepend=-1) != 0)
    low, high, alike = low[new], high[new], alike[new]
    one, other, alike = np.concatenate([low, high]), np.concatenate([high, low]), np.concatenate([alike, alike])
    order = np.lexsort((other, -alike, one))
    return np.searchsorted(one[order], np.arange(count + 1)), other[order]
