"""Dataset decomposition: documents in pieces of powers of two, each a row of its own (2405.13226)."""

from __future__ import annotations

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Arrangement, Ints

LEAST = 256


def require_powers(length: int, least: int, begin: int = 0) -> None:
    """Refuse pieces that are no powers of two.

    Raises:
        UserError: naming what is none.
    """
    for name, value in (("length", length), ("least", least)):
        if value < 1 or value & (value - 1):
            raise UserError(f"decomposition: {name} is {value}, expected a power of two", "Give 256, 512, 1024, ...")
    if not begin < least <= length:
        raise UserError(
            f"decomposition: pieces of {least} to {length} tokens, where texts begin with {begin}",
            "Say --least, up to --length.",
        )


def decomposition(lengths: Ints, length: int, begin: int = 0, least: int = LEAST, more: int = 0) -> Arrangement:
    """Of each document the largest piece that it has, then of the rest, until less than the least is left.

    No attention crosses documents, nothing is padded; a rest below ``least`` tokens is dropped.

    Args:
        lengths: int64 [n], tokens of each document, what texts begin with included.
        length: tokens of the longest piece, a power of two.
        begin: tokens that texts begin with, which every further piece gets too.
        least: tokens of the shortest piece, a power of two.
        more: tokens that a piece has beyond its power of two; the authors' code takes 1, for the last target.

    Raises:
        UserError: if lengths are no powers of two, or in the wrong order.
    """
    require_powers(length, least, begin)
    parts: list[tuple[Ints, Ints, Ints]] = []
    document, start = np.arange(len(lengths)), np.zeros(len(lengths), np.int64)
    while len(document):
        rest = lengths[document] - start + begin * (start > 0) - more
        keep = rest >= least
        document, start, rest = document[keep], start[keep], rest[keep]
        power = 2 ** np.minimum(np.floor(np.log2(np.maximum(rest, 1))).astype(np.int64), length.bit_length() - 1)
        stop = start + power + more - begin * (start > 0)
        parts.append((document, start, stop))
        start = stop
    document, start, stop = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((start, document))
    document, start, stop = document[order], start[order], stop[order]
    return Arrangement.of(np.arange(len(document)), document, start, stop, apart=True, begun=start > 0)
