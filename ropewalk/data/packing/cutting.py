"""Documents that are longer than a row, in pieces that each fit one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Ints


def cut(lengths: Ints, length: int, begin: int) -> tuple[Ints, Ints, Ints, NDArray[np.bool_]]:
    """Document, start, stop and ``begun`` of pieces of ``length`` tokens, of each document the last one shorter.

    Args:
        lengths: int64 [n], tokens of each document, what texts begin with included.
        length: tokens of a piece, with what is put before it.
        begin: tokens that are put before every piece but a document's first, which has them.

    Raises:
        UserError: if a piece has no room for a token behind those.
    """
    room = length - begin
    if room < 1:
        raise UserError(
            f"rows of {length} tokens, where texts begin with {begin}: expected {begin + 1} at least",
            "Give a greater --length.",
        )
    pieces = np.where(lengths > 0, 1 + np.maximum(-(-(lengths - length) // room), 0), 0)
    document = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    start = np.where(number, length + (number - 1) * room, 0)
    stop = np.minimum(length + number * room, lengths[document])
    return document, start, stop, number > 0
