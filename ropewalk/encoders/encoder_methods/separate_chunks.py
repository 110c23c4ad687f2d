"""Chunks that are read by themselves: what people do with a long text today."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder_method import Reading

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ropewalk.encoders.extended_encoder import ExtendedEncoder


@dataclass(frozen=True)
class SeparateChunks(Reading):
    """A vector for each chunk; a text is as near to a question as the nearest of its chunks.

    Attributes:
        size: tokens of a chunk at most, without what stands around it; chunks are of one length, to a token.
    """

    size: int = 128
    name: ClassVar[str] = "chunks"

    def vectors(self, encoder: ExtendedEncoder, ids: Sequence[int]) -> NDArray[np.float32]:
        return encoder.unit(encoder.pooled(even(ids, min(self.size, encoder.room))))

    def check(self, window: int, to: int) -> None:
        refuse_size(self.name, self.size)


def refuse_size(name: str, size: int) -> None:
    """Refuse a size of chunks.

    Raises:
        UserError: unless it is a whole number from 1 on.
    """
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UserError(f"{name}: size is {size!r}, expected a number of tokens from 1 on")


def even(ids: Sequence[int], most: int) -> list[Sequence[int]]:
    """Chunks of at most so many tokens, of one length to a token; one chunk of an empty text."""
    n = max(1, -(-len(ids) // most))
    return [ids[len(ids) * i // n : len(ids) * (i + 1) // n] for i in range(n)]
