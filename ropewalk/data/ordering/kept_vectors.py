"""Vectors of all documents of a corpus, kept block by block: a kill loses the block that is being made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from ropewalk.common.cluster import Each
from ropewalk.common.errors import UserError
from ropewalk.common.progress import Progress
from ropewalk.common.whole import make
from ropewalk.data.arrangement import Ints
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

    def over(self, corpus: Corpus) -> Callable[[Sequence[Ints]], Floats]:
        """What gives float32 [m, e], the vectors of m documents, without what texts begin with; on any machine."""


def kept_vectors(
    corpus: Corpus,
    embedder: Embedder,
    folder: Path,
    each: Each = map,
    heard: Callable[[Progress], None] = lambda _: None,
    block: int = BLOCK,
) -> Floats:
    """float32 [n, e], of length 1, or 0 where a document has none.

    Args:
        corpus: the documents.
        embedder: by which they become vectors.
        folder: where blocks that are done lie.
        each: makes the vectors of each block.
        heard: told how far it is.
        block: documents of one.

    Raises:
        UserError: if a vector is not finite, or a file is not what was written.
    """
    key = hashlib.sha256(f"{corpus.digest} {embedder.digest} {block}".encode()).hexdigest()[:16]
    blocks = [range(first, min(first + block, len(corpus))) for first in range(0, len(corpus), block)]
    files = [folder / f"{number:05d}.{key}.npy" for number in range(len(blocks))]
    missing = [number for number, file in enumerate(files) if not file.is_file()]
    begin = len(corpus.manifest.begin)
    said = f"vectors of texts, by {embedder.name}"
    if len(missing) > 1:
        heard(Progress(blocks[missing[0]].start, len(corpus), said))
    if missing:
        texts = ([corpus.tokens(one, begin) for one in blocks[number]] for number in missing)
        for done, (number, vectors) in enumerate(zip(missing, each(embedder.over(corpus), texts), strict=True)):
            if done:
                heard(Progress(blocks[number].start, len(corpus), said))
            make(files[number], partial(_write, _unit(vectors, embedder.name, corpus, blocks[number].start)))
    found: list[Floats] = []
    for file, documents in zip(files, blocks, strict=True):
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


def _write(vectors: Floats, file: Path) -> None:
    np.save(file, vectors, allow_pickle=False)


def _unit(vectors: Floats, name: str, corpus: Corpus, first: int) -> Floats:
    """Of length 1, but for what is 0."""
    broken = ~np.isfinite(vectors).all(1)
    if broken.any():
        raise UserError(
            f"{name} gives {corpus.name(first + int(np.argmax(broken)))} a vector that is not finite",
            "Leave the text out, or take another --model.",
        )
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)
