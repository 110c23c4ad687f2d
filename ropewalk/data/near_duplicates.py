"""Which documents say nearly the same: sketches of their token n-grams, candidates by bands, checked exactly.

One hash per n-gram, of which each of K bins keeps the smallest: one-permutation MinHash (arXiv 1208.1259), whose empty
bins borrow from one drawn for them (arXiv 1703.04664). An n-gram's second occurrence is another n-gram, so that lengths
matter. Sketches find candidates; whether a document is a near duplicate, the n-grams themselves decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.progress import Progress
from ropewalk.data.arrangement import Ints

GRAM = 5  # tokens
BINS, BANDS = 256, 32  # of a sketch; a pair of resemblance 0.8 is missed three times in 1,000, one of 0.3 seen twice
ALIKE = 0.8  # Jaccard resemblance of n-grams
NEAR = 0.2  # below that, sketches that agree so much less are not looked at further
TRIED = 50  # documents of one bucket that a further one is compared with
HELD = 64  # documents whose n-grams are kept in memory
TOLD = 1024  # documents between two words about how far it is
ODD = np.uint64(0x9E3779B97F4A7C15)

Hashes = NDArray[np.uint64]
Sketches = NDArray[np.uint16]


def near_duplicates(
    documents: Sequence[Ints], alike: float = ALIKE, heard: Callable[[Progress], None] = lambda _: None
) -> Ints:
    """int64 [n], for each document the first one that is kept and that it resembles; itself if it is kept.

    Documents are gone through in their order, and one is kept unless it resembles one that is kept already.

    Args:
        documents: token ids.
        alike: resemblance, 0 to 1, from which on one is left out.
        heard: told how far it is.
    """
    first = np.arange(len(documents))
    sketches = np.zeros((len(documents), BINS), np.uint16)
    for i, one in enumerate(documents):
        sketches[i] = sketch_of(one)
        if i and i % TOLD == 0:
            heard(Progress(i, len(documents), "near duplicates: sketches"))
    grams = lru_cache(HELD)(lambda i: _grams(documents[i]))
    buckets = _buckets(sketches)
    kept: dict[int, list[int]] = {}  # the first documents of each bucket that are
    candidates = np.flatnonzero((buckets >= 0).any(1)).tolist()
    for number, i in enumerate(candidates):
        if number and number % TOLD == 0:
            heard(Progress(number, len(candidates), "near duplicates: texts that share a part of a sketch"))
        mine = [kept.setdefault(bucket, []) for bucket in buckets[i][buckets[i] >= 0].tolist()]
        others = np.array(sorted({j for some in mine for j in some}), np.int64)
        close = others[(sketches[others] == sketches[i]).mean(1) >= alike - NEAR].tolist()
        first[i] = next((j for j in close if _shared(grams(j), grams(i)) >= alike), i)
        if first[i] == i:
            for some in mine:
                some.extend([i] * (len(some) < TRIED))
    return first


def sketch_of(document: Ints) -> Sketches:
    """uint16 [K], of the n-grams of a document."""
    return _sketch(_grams(document))


def resemblance(one: Ints, other: Ints) -> float:
    """Jaccard resemblance of the multisets of n-grams of two documents; those without any are alike if equal."""
    return _shared(_grams(one), _grams(other))


def _shared(one: Hashes, other: Hashes) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _grams(ids: Ints) -> Hashes:
    """A hash of every n-gram and of how many like it stand before it, sorted; a document shorter than one is one."""
    ids = np.asarray(ids, np.uint64)
    size = min(GRAM, max(len(ids), 1))
    found = np.full(max(len(ids) - size + 1, 1), (min(size, len(ids)) + 1) * int(ODD) % 2**64, np.uint64)
    for i in range(min(size, len(ids))):
        found = (found ^ ids[i : i + len(found)]) * ODD
        found ^= found >> np.uint64(29)
    found = np.sort(found * ODD)
    place = np.arange(len(found), dtype=np.uint64)
    new = np.concatenate([[True], found[1:] != found[:-1]])
    if new.all():
        return found
    before = place - np.maximum.accumulate(np.where(new, place, np.uint64(0)))
    again = found ^ before * ODD
    return np.unique(np.where(new, found, (again ^ again >> np.uint64(29)) * ODD))


def _sketch(grams: Hashes) -> Sketches:
    """uint16 [K], some bits of the smallest hash of each bin."""
    bins = (grams >> np.uint64(64 - BINS.bit_length() + 1)).astype(np.int64)
    place = np.searchsorted(bins, np.arange(BINS + 1))
    filled = place[1:] > place[:-1]
    empty = np.flatnonzero(~filled)
    borrowed = place[:-1].copy()
    borrowed[empty] = place[LENDERS[empty, np.argmax(filled[LENDERS[empty]], axis=1)]]
    return (grams[borrowed] * ODD >> np.uint64(48)).astype(np.uint16)


LENDERS = np.random.default_rng(0).permuted(np.tile(np.arange(BINS), (BINS, 1)), axis=1)  # of each bin, in turn


def _buckets(sketches: Sketches) -> Ints:
    """int64 [n, B], a number for each band, the same where bands are equal; -1 if no other document has it."""
    buckets = np.full((len(sketches), BANDS), -1, np.int64)
    for i, band in enumerate(np.split(sketches, BANDS, axis=1)):
        keys = np.ascontiguousarray(band).view([("", np.uint64)] * (band.shape[1] // 4)).ravel()
        _, bucket, count = np.unique(keys, return_inverse=True, return_counts=True)
        shared = count[bucket] > 1
        buckets[shared, i] = BANDS * bucket[shared] + i
    return buckets
