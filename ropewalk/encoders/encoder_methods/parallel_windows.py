"""Parallel context windows: a text is read in windows, and its vector is their mean (arXiv 2404.12096)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ropewalk.encoders.encoder_method import Reading
from ropewalk.encoders.encoder_methods.separate_chunks import even
from ropewalk.encoders.extended_encoder import of_length_one

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ropewalk.encoders.extended_encoder import ExtendedEncoder


@dataclass(frozen=True)
class ParallelWindows(Reading):
    """The mean of the vectors of windows, before these are made of length 1.

    The paper's code moves the last window to the left until it is full, so that what it shares with the one before
    counts twice; ``balanced`` windows are all of one length, to a token.

    Attributes:
        balanced: share the text out evenly.
        unit: take the mean of vectors of length 1.
    """

    balanced: bool = False
    unit: bool = False
    name: ClassVar[str] = "parallel-windows"

    def vectors(self, encoder: ExtendedEncoder, ids: Sequence[int]) -> NDArray[np.float32]:
        size = encoder.room
        if self.balanced or len(ids) <= size:
            windows = even(ids, size)
        else:
            starts = [*range(0, len(ids) - size, size), len(ids) - size]
            windows = [ids[start : start + size] for start in starts]
        found = encoder.pooled(windows)
        if self.unit:
            return of_length_one(encoder.unit(found).mean(0, keepdims=True))
        return encoder.unit(found.mean(0, keepdims=True))
