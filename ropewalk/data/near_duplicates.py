"""Which documents say nearly the same: sketches of their token n-grams, candidates by bands, checked exactly.

One hash per n-gram, of which each of K bins keeps the smallest: one-permutation MinHash (arXiv 1208.1259), whose empty
bins borrow from the next one (arXiv 1406.4784). Sketches find candidates; whether two documents are near duplicates,
the n-grams themselves decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from ropewalk.data.arrangement import Ints

GRAM = 5  # tokens
BINS, BANDS = 64, 16  # of a sketch; a pair of resemblance 0.8 is missed once in 5,000
ALIKE = 0.8  # Jaccard resemblance of n-grams
TRIED = 50  # documents of one bucket that are compared with each other
ODD = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]


def near_duplicates(documents: Sequence[Ints], alike: float = ALIKE) -> Ints:
    """int64 [n], for each document the first one that it is a near duplicate of, by whatever steps; mostly itself.

    Args:
        documents: token ids.
        alike: resemblance of n-grams, 0 to 1, from which on two are.
    """
    first = np.arange(len(documents))

    def root(i: int) -> int:
        while first[i] != i:
            first[i] = first[first[i]]
            i = int(first[i])
        return i

    sketches = [_sketch(_grams(one)) for one in documents]
    for a, b in _candidates(np.stack(sketches)) if sketches else ():
        one, other = root(a), root(b)
        if one != other and resemblance(documents[a], documents[b]) >= alike:
            first[max(one, other)] = min(one, other)
    return np.array([root(i) for i in range(len(first))], np.int64)


def resemblance(one: Ints, other: Ints) -> float:
    """Jaccard resemblance of the n-grams of two documents; those without any are alike if they are equal."""
    a, b = _grams(one), _grams(other)
    common = len(np.intersect1d(a, b, assume_unique=True))
    return common / (len(a) + len(b) - common)


def _grams(ids: Ints) -> Hashes:
    """A hash of every n-gram, sorted, each once; a document shorter than one is one."""
    ids = np.asarray(ids, np.uint64)
    size = min(GRAM, max(len(ids), 1))
    found = np.full(max(len(ids) - size + 1, 1), (min(size, len(ids)) + 1) * int(ODD) % 2**64, np.uint64)
    for i in range(min(size, len(ids))):
        found = (found ^ ids[i : i + len(found)]) * ODD
        found ^= found >> np.uint64(29)
    return np.unique(found * ODD)


def _sketch(grams: Hashes) -> Hashes:
    """uint64 [K], the smallest hash of each bin."""
    shift = np.uint64(64 - BINS.bit_length() + 1)
    edges = np.arange(BINS, dtype=np.uint64) << shift
    place = np.searchsorted(grams, edges)
    there = grams[np.minimum(place, len(grams) - 1)] >> shift == edges >> shift
    filled = np.flatnonzero(there & (place < len(grams)))
    ahead = np.searchsorted(filled, np.arange(BINS)) % len(filled)
    return grams[place[filled[ahead]]]


def _candidates(sketches: Hashes) -> Iterable[tuple[int, int]]:
    """Pairs that agree in a whole band; of many alike, each with the first ones."""
    for band in np.split(sketches, BANDS, axis=1):
        _, bucket = np.unique(band, axis=0, return_inverse=True)
        order = np.argsort(bucket, kind="stable")
        for some in np.split(order, np.flatnonzero(np.diff(bucket.ravel()[order])) + 1):
            yield from ((int(a), int(b)) for a, b in combinations(some[:TRIED].tolist(), 2))
            yield from ((int(some[0]), int(b)) for b in some[TRIED:].tolist())
