"""From the visible range of every query to a few rectangles and triangles that stock kernels compute without a mask.

Visible ranges of all our methods move in one of two ways from query to query: they stand still, or they move on by one.
So a run of queries sees a rectangle, a causal triangle at its right end, a mirrored one at its left end, or a band.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

IRREGULAR, UNSEEN = -1, 4  # beside the steps of both bounds, 2 * lo + hi
RAGGED_ROWS = 256  # queries per tile where ranges jump about and a mask is needed after all


@dataclass(frozen=True, slots=True)
class Tile:
    """Queries [q0, q1) against keys [k0, k1).

    Kinds: "full"; "causal", a square in which row i sees its columns j <= i; "mirrored", a square in which it sees
    j >= i; "ragged", in which row i sees the range ``bounds[:, i]`` of key indices.
    """

    q0: int
    q1: int
    k0: int
    k1: int
    kind: Literal["full", "causal", "mirrored", "ragged"] = "full"
    bounds: NDArray[np.int64] | None = None


def tiles(lo: NDArray[np.int64], hi: NDArray[np.int64]) -> list[Tile]:
    """Disjoint tiles that cover exactly the keys lo[i] <= j < hi[i] of every query i; each of their rows sees a key.

    Args:
        lo: first visible key of each query, [Q].
        hi: behind the last one, [Q]; a query with hi <= lo sees nothing.
    """
    seen = hi > lo
    if len(lo) == 1:  # one token at a time
        return [Tile(0, 1, int(lo[0]), int(hi[0]))] if seen[0] else []
    runs = list(_runs(lo, hi, seen))
    if len(runs) > 16 + len(lo) // 8:
        return _ragged(lo, hi, seen)
    return [tile for run in runs if seen[run[0]] for tile in _run(lo, hi, *run)]


def _runs(lo: NDArray[np.int64], hi: NDArray[np.int64], seen: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """Stretches [first, end) of queries over which both bounds move by one and the same step, 0 or 1."""
    step_lo, step_hi = np.diff(lo), np.diff(hi)
    step = np.where((step_lo >> 1 == 0) & (step_hi >> 1 == 0), 2 * step_lo + step_hi, IRREGULAR)
    step[seen[1:] != seen[:-1]] = IRREGULAR
    step[~seen[1:] & ~seen[:-1]] = UNSEEN
    ends = iter([*(np.flatnonzero(step[1:] != step[:-1]) + 1).tolist(), len(step)])
    first, end = 0, next(ends)  # the steps first .. end - 1 are alike
    while first < len(lo):
        while end <= first and end < len(step):
            end = next(ends)
        last = end if first < len(step) and step[first] != IRREGULAR else first
        yield first, last + 1
        first = last + 1


def _run(lows: NDArray[np.int64], highs: NDArray[np.int64], q: int, end: int) -> list[Tile]:
    """Tiles of the queries [q, end), whose ranges start like the first one's and move on evenly."""
    n, lo, hi = end - q, int(lows[q]), int(highs[q])
    slopes = (int(lows[q + 1]) - lo, int(highs[q + 1]) - hi) if n > 1 else (0, 0)
    if slopes == (0, 0):
        return [Tile(q, q + n, lo, hi)]
    if slopes == (0, 1):
        return [*_if_any(q, n, lo, hi - 1), Tile(q, q + n, hi - 1, hi - 1 + n, "causal")]
    if slopes == (1, 0):
        return [Tile(q, q + n, lo, lo + n, "mirrored"), *_if_any(q, n, lo + n, hi)]
    width, found = hi - lo, []
    for i in range(0, n, width):
        rows, a, b = min(width, n - i), lo + i, hi + i
        if rows > 1:
            found.append(Tile(q + i, q + i + rows - 1, a, a + rows - 1, "mirrored"))
        found += _if_any(q + i, rows, a + rows - 1, b - 1)
        found.append(Tile(q + i, q + i + rows, b - 1, b - 1 + rows, "causal"))
    return found


def _if_any(q: int, n: int, k0: int, k1: int) -> list[Tile]:
    return [Tile(q, q + n, k0, k1)] if k1 > k0 else []


def _ragged(lo: NDArray[np.int64], hi: NDArray[np.int64], seen: NDArray[np.bool_]) -> list[Tile]:
    found = []
    for start in range(0, len(lo), RAGGED_ROWS):
        rows = slice(start, start + RAGGED_ROWS)
        for part in np.split(np.arange(len(lo))[rows], np.flatnonzero(np.diff(seen[rows])) + 1):
            if seen[part[0]]:
                a, b = lo[part], hi[part]
                q0, q1 = int(part[0]), int(part[-1]) + 1
                found.append(Tile(q0, q1, int(a.min()), int(b.max()), "ragged", np.stack([a, b])))
    return found
