"""Documents as vectors without a model: TF-IDF of their token n-grams, reduced to the directions in which they differ.

It reads what lies on the disk, in every language alike, and needs no tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.extras import extra
from ropewalk.data.arrangement import Ints
from ropewalk.data.corpus import Corpus
from ropewalk.data.ordering.neighbours import Floats

GRAM = 2  # tokens of an n-gram at most
BITS = 16  # of the hash that an n-gram is counted under
SIZE = 256  # numbers of a vector
SAMPLE = 10_000  # documents, spread over all, whose frequencies and directions are taken
ODD = np.uint64(0x9E3779B97F4A7C15)
WHAT = "vectors of texts"


@dataclass(frozen=True)
class TokenVectors:
    """TF-IDF over hashed token n-grams, and a truncated singular value decomposition of it (latent semantic analysis).

    Attributes:
        seed: of the decomposition.
    """

    seed: int = 0

    @property
    def name(self) -> str:
        return "tf-idf"

    @property
    def digest(self) -> str:
        """All that decides the vectors of a corpus."""
        return f"{self.name} {GRAM} {BITS} {SIZE} {SAMPLE} {self.seed}"

    def over(self, corpus: Corpus) -> Callable[[Sequence[Ints]], Floats]:
        """What gives float32 [m, e], the vectors of m documents, without what texts begin with.

        Raises:
            UserError: if scikit-learn is not installed.
        """
        text = extra("sklearn.feature_extraction.text", WHAT, "order")
        decomposition, limits = extra("sklearn.decomposition", WHAT, "order"), extra("threadpoolctl", WHAT, "order")
        sample = np.unique(np.linspace(0, len(corpus) - 1, min(SAMPLE, len(corpus))).round().astype(int))
        weigh = text.TfidfTransformer(sublinear_tf=True)
        reduce = decomposition.TruncatedSVD(min(SIZE, len(sample)), random_state=self.seed % 2**32)
        with limits.threadpool_limits(1), np.errstate(invalid="ignore", divide="ignore"):  # of its shares, unused
            some = [corpus.tokens(one, len(corpus.manifest.begin)) for one in sample.tolist()]
            reduce.fit(weigh.fit_transform(_counts(some)))

        def vectors(documents: Sequence[Ints]) -> Floats:
            with limits.threadpool_limits(1):
                found: Floats = reduce.transform(weigh.transform(_counts(documents)))
            return found

        return vectors


def _counts(documents: Sequence[Ints]) -> Any:
    """float32 [m, 2^BITS], sparse: how often each n-gram is in each document."""
    sparse = extra("scipy.sparse", WHAT, "order")
    found = [np.unique(_grams(one), return_counts=True) for one in documents]
    ends = np.cumsum([0, *(len(which) for which, _ in found)])
    which, times = (np.concatenate(column) for column in zip(*found, strict=True))
    return sparse.csr_matrix((times.astype(np.float32), which, ends), (len(documents), 2**BITS))


def _grams(ids: Ints) -> NDArray[np.int32]:
    """The hash of every n-gram, from single tokens on."""
    rest, found, hashes = np.asarray(ids, np.uint64), np.zeros(len(ids), np.uint64), []
    for i in range(min(GRAM, len(rest))):
        found = (found[: len(rest) - i] ^ rest[i:]) * ODD
        found ^= found >> np.uint64(29)
        hashes.append((found * ODD) >> np.uint64(64 - BITS))
    return np.concatenate([np.zeros(0, np.uint64), *hashes]).astype(np.int32)
