"""Best-fit packing: no document is cut that would fit (Fewer Truncations Improve Language Modeling, 2404.10830)."""

from __future__ import annotations

from collections import deque

import numpy as np

from ropewalk.data.arrangement import Arrangement, Ints
from ropewalk.data.packing.cutting import cut


def best_fit(lengths: Ints, length: int, begin: int = 0) -> Arrangement:
    """Longest first, each into the fullest row that has room for it, else into a new one; each sees itself alone.

    Documents longer than a row are cut into pieces of a row, the last one shorter.

    Args:
        lengths: int64 [n], tokens of each document, what texts begin with included.
        length: tokens of a row.
        begin: tokens that texts begin with, which every further piece gets too.

    Raises:
        UserError: if a row has no room for a token behind those.
    """
    document, start, stop, begun = cut(lengths, length, begin)
    sizes = stop - start + begin * begun
    order = np.argsort(-sizes, kind="stable")
    rows = np.empty_like(order)
    rows[order] = bins(sizes[order], length)
    return Arrangement.of(rows, document, start, stop, apart=True, begun=begun)


def bins(sizes: Ints, room: int) -> Ints:
    """int64 [n], the bin of each item, of falling sizes from 1 to ``room``; of equal bins, the first to get so full.

    Items of one size go into the bins of one room together: that bin stays the fullest one with room enough until it
    has none, so that it takes as many as fit at once.
    """
    placed = np.empty(len(sizes), np.int64)
    open_bins: list[deque[Ints]] = [deque() for _ in range(room + 1)]  # by room that is left
    there, opened = 0, 0  # bits: which rooms have bins; how many bins there are
    ends = np.flatnonzero(np.diff(sizes, append=0))
    at = 0
    for end in ends.tolist():
        size, at_end = int(sizes[end]), end + 1
        while at < at_end:
            fitting = there >> size
            if fitting:
                left = size + (fitting & -fitting).bit_length() - 1
                some = open_bins[left].popleft()
            else:
                left, needed = room, -(-(at_end - at) // (room // size))
                some = np.arange(opened, opened + needed)
                opened += needed
            each = left // size
            used = min(len(some), -(-(at_end - at) // each))
            if used < len(some):
                open_bins[left].appendleft(some[used:])
                some = some[:used]
            elif fitting and not open_bins[left]:
                there &= ~(1 << left)
            items = min(used * each, at_end - at)
            placed[at : at + items] = np.repeat(some, each)[:items]
            at += items
            last = items - (used - 1) * each  # of the bin that may not be filled
            for part, taken in ((some[:-1], each), (some[-1:], last)):
                rest = left - taken * size
                if len(part) and rest:
                    open_bins[rest].append(part)
                    there |= 1 << rest
    return placed
