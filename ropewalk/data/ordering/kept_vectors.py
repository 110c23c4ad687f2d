"""Vectors of all documents of a corpus, kept block by block: a kill loses the block that is being made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.common.whole import make
from ropewalk.data.corpus import Corpus
from ropewalk.data.ordering.neighbours import Floats

BLOCK = 1024  # documents


class Embedder(Protocol):
    """A way to make vectors out of documents."""

    @property
    def name(self) -> str:
        """What it is called."""

    @property
    def digest(self) -> str:
        """All that decides the vectors of a corpus."""

    def over(self, corpus: Corpus) -> Callable[[Sequence[int]], Floats]:
        """What gives float32 [m, e], the vectors of documents, by their numbers."""


def kept_vectors(corpus: Corpus, embedder: Embedder, folder: Path, block: int = BLOCK) -> Floats:
    """float32 [n, e], of length 1, or 0 where a document has none.

    Args:
        corpus: the documents.
        embedder: by which they become vectors.
        folder: where blocks that are done lie.
        block: documents of one.

    Raises:
        UserError: if a vector is not finite, or a file is not what was written.
    """
    key = hashlib.sha256(f"{corpus.digest} {embedder.digest} {block}".encode()).hexdigest()[:16]
    embed: Callable[[Sequence[int]], Floats] | None = None
    found: list[Floats] = []
    for number, first in enumerate(range(0, len(corpus), block)):
        documents = range(first, min(first + block, len(corpus)))
        file = folder / f"{number:05d}.{key}.npy"
        if not file.is_file():
            embed = embed or embedder.over(corpus)
            make(file, _writer(_unit(embed(documents), embedder.name, corpus, first)))
        try:
            vectors = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read: {error}", "Remove it, and run the same again.") from None
        if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(documents):
            raise UserError(
                f"{file} holds {vectors.dtype} {list(vectors.shape)}, expected float32 [{len(documents)}, e]",
                "Remove it, and run the same again.",
            )
        found.append(vectors)
    return np.concatenate(found)


def _writer(vectors: Floats) -> Callable[[Path], None]:
    return lambda file: np.save(file, vectors, allow_pickle=False)


def _unit(vectors: Floats, name: str, corpus: Corpus, first: int) -> Floats:
    """Of length 1, but for what is 0."""
    broken = ~np.isfinite(vectors).all(1)
    if broken.any():
        raise UserError(f"{name} gives {corpus.name(first + int(np.argmax(broken)))} a vector that is not finite")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
