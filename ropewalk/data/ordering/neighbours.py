"""The most similar vectors of each: exactly where they are few, else in the cells of a coarse grid that lie nearest.

One thread to a block of vectors, and blocks of one size, so that the same neighbours come out on any number of cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.extras import extra
from ropewalk.common.progress import Progress
from ropewalk.data.arrangement import Ints

EXACT = 20_000  # vectors, up to which each is compared with all others
CELLS = 4  # times the root of their number
PROBED = 16  # cells that are looked into
SAMPLE, ROUNDS = 40, 10  # vectors a cell that k-means is run on, and its rounds
BLOCK = 1024  # vectors that are looked up together

Floats = NDArray[np.float32]


def neighbours(
    vectors: Floats,
    count: int,
    seed: int = 0,
    exact: int = EXACT,
    heard: Callable[[Progress], None] = lambda _: None,
) -> tuple[Ints, Floats]:
    """Number and similarity of the nearest ones of each vector, nearest first; int64 and float32 [n, count + 1].

    A vector is mostly its own nearest one. Where fewer are found, the number is -1.

    Args:
        vectors: float32 [n, e], of length 1 or 0.
        count: how many neighbours are asked for.
        seed: of the sample that cells are made of.
        exact: so many are compared each with all; beyond that, a few neighbours in a hundred may be missed.
        heard: told how far it is.

    Raises:
        UserError: if the library is not installed.
    """
    faiss = extra("faiss", "neighbours of texts", "order")
    limits = extra("threadpoolctl", "neighbours of texts", "order")
    faiss.omp_set_num_threads(1)
    with limits.threadpool_limits(1):
        index = faiss.IndexFlatIP(vectors.shape[1])
        if len(vectors) > exact:
            cells = int(CELLS * len(vectors) ** 0.5)
            index = faiss.IndexIVFFlat(index, vectors.shape[1], cells, faiss.METRIC_INNER_PRODUCT)
            index.cp.seed, index.cp.niter = seed % 2**31, ROUNDS
            index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, SAMPLE
            index.nprobe = PROBED
            heard(Progress(0, 0, f"{cells:,} cells, in which neighbours are looked for"))
            index.train(vectors)
        index.add(vectors)
        blocks = [vectors[i : i + BLOCK] for i in range(0, len(vectors), BLOCK)]
        search: Callable[[Floats], Any] = lambda block: index.search(block, min(count + 1, len(vectors)))  # noqa: E731
        with ThreadPoolExecutor(os.cpu_count(), initializer=faiss.omp_set_num_threads, initargs=(1,)) as pool:
            found = []
            for done, one in enumerate(pool.map(search, blocks)):
                if done:
                    heard(Progress(BLOCK * done, len(vectors), "neighbours of texts"))
                found.append(one)
    return np.concatenate([which for _, which in found]), np.concatenate([likeness for likeness, _ in found])
