"""Late chunking: tokens are pooled by chunk after they have read the whole text (arXiv 2409.04701)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ropewalk.encoders.encoder_method import Reading
from ropewalk.encoders.encoder_methods.separate_chunks import even, refuse_size

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ropewalk.encoders.extended_encoder import ExtendedEncoder


@dataclass(frozen=True)
class PooledChunks(Reading):
    """A vector for each chunk, the mean over its tokens; for models that pool so.

    A text that is longer than what the encoder reads is read in windows that overlap by a quarter.

    Attributes:
        size: tokens of a chunk at most; chunks are of one length, to a token.
    """

    size: int = 128
    name: ClassVar[str] = "late-chunking"

    def vectors(self, encoder: ExtendedEncoder, ids: Sequence[int]) -> NDArray[np.float32]:
        states = encoder.states(ids)
        means = [states[list(chunk)].mean(0) for chunk in even(range(len(ids)), self.size)]
        return encoder.unit(np.asarray(means))

    def check(self, window: int, to: int) -> None:
        refuse_size(self.name, self.size)
