"""The ways to order documents, and rows that hold them in that order, each the whole of its scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.common.cluster import Each
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.progress import Progress
from ropewalk.data.arrangement import Arrangement, Ints
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import RowBuilder
from ropewalk.data.near_duplicates import near_duplicates
from ropewalk.data.ordering.kept_vectors import Embedder, kept_vectors
from ropewalk.data.ordering.neighbours import Floats, neighbours
from ropewalk.data.ordering.similar_path import similar_path
from ropewalk.data.ordering.smooth_path import require_few, smooth_path
from ropewalk.data.synthesis.synthesis import Written

ORDERS = {
    "icp": "similar documents follow each other (2310.10638)",
    "smooth-path": "demonstrations, as few turns as possible from one to the next",
    "length": "the shortest first",
    "random": "what the others are held against",
}


def ordered(
    kind: str,
    vectors: Floats,
    lengths: Ints,
    count: int = 10,
    seed: int = 0,
    heard: Callable[[Progress], None] = lambda _: None,
) -> Ints:
    """int64 [n], the order of documents.

    Args:
        kind: of ``ORDERS``.
        vectors: float32 [n, e], of length 1 or 0.
        lengths: int64 [n], tokens of each.
        count: neighbours of each, of icp.
        seed: of all that is drawn.
        heard: told how far it is.

    Raises:
        UserError: if there is no such order, or there are too many documents for it.
    """
    if kind not in ORDERS:
        raise UserError(f"no order {kind!r}{did_you_mean(kind, ORDERS)}", f"There are {', '.join(ORDERS)}.")
    if kind == "icp":
        return similar_path(*neighbours(vectors, count, seed, heard=heard))
    if kind == "smooth-path":
        return smooth_path(vectors, lengths)
    if kind == "length":
        return np.argsort(lengths, kind="stable")
    return np.random.default_rng([seed, 0x0DE5]).permutation(len(lengths))


def adjacent(vectors: Floats, order: Ints) -> float:
    """Mean cosine of documents that follow each other, of which there are two at least."""
    return float(np.mean([float(vectors[a] @ vectors[b]) for a, b in pairwise(order.tolist())]))


@dataclass(frozen=True)
class Ordering:
    """Documents in an order, one behind the other, cut where a row is full; a row is one scope.

    Near duplicates are left out but for the first of them: beside each other, they would teach to copy.

    Attributes:
        kind: of ``ORDERS``.
        embedder: what makes them vectors.
        kept: folder where vectors lie until rows are written.
        neighbours: of each document, of icp.
        parts: so many runs of documents are ordered each by itself.
        keep_duplicates: leave nothing out.
        each: makes blocks of vectors, and orders parts.
        heard: told how far it is.
    """

    kind: str
    embedder: Embedder
    kept: Path
    neighbours: int = 10
    parts: int = 1
    keep_duplicates: bool = False
    each: Each = map
    heard: Callable[[Progress], None] = lambda _: None

    @property
    def options(self) -> dict[str, Any]:
        """In plain values."""
        told = {"neighbours": self.neighbours} if self.kind == "icp" else {}
        return {"vectors": self.embedder.name, **told, "parts": self.parts, "keep_duplicates": self.keep_duplicates}

    def require(self, documents: int) -> None:
        """Refuse parts without a document.

        Raises:
            UserError: if there are more of them than documents.
        """
        if self.parts > documents:
            raise UserError(f"{self.parts} parts of {documents} texts", f"Say --parts {documents}, or less.")

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if there are more parts than documents, or too many documents for the order.
        """
        numbers = np.arange(len(corpus))
        kept = numbers if self.keep_duplicates else numbers[near_duplicates(corpus, heard=self.heard) == numbers]
        self.require(len(kept))
        if self.kind == "smooth-path":
            require_few(-(-len(kept) // self.parts))  # before vectors are made
        vectors = kept_vectors(corpus, self.embedder, self.kept, self.each, self.heard)[kept]
        order = np.concatenate([*self._parts(vectors, corpus.lengths[kept], seed)])
        told: dict[str, float] = {
            "near duplicates": len(corpus) - len(kept),
            "without a vector": int((~vectors.any(1)).sum()),
        }
        if len(kept) > 1:
            told["similarity"] = round(adjacent(vectors, order), 6)
            told["similarity before"] = round(adjacent(vectors, np.arange(len(kept))), 6)
        return Written(_in_turn(corpus.lengths, kept[order], length, len(corpus.manifest.begin)), (), told)

    def _parts(self, vectors: Floats, lengths: Ints, seed: int) -> Iterator[Ints]:
        """The order of each part, in numbers of all documents."""
        edges = np.linspace(0, len(vectors), self.parts + 1).round().astype(int).tolist()
        work = partial(_ordered, kind=self.kind, count=self.neighbours, seed=seed)
        if self.each is map:  # what shows it stays on this machine
            work = partial(work, heard=self.heard)
        parts = ((vectors[first:last], lengths[first:last]) for first, last in pairwise(edges))
        for number, order in enumerate(self.each(work, parts)):
            if number + 1 < self.parts:
                self.heard(Progress(number + 1, self.parts, "parts in order"))
            yield edges[number] + order


def _ordered(
    part: tuple[Floats, Ints], kind: str, count: int, seed: int, heard: Callable[[Progress], None] = lambda _: None
) -> Ints:
    return ordered(kind, *part, count, seed, heard)


def _in_turn(lengths: Ints, order: Ints, length: int, begin: int) -> Arrangement:
    """Documents of that order; one that a row has no room for goes on in the next."""
    builder = RowBuilder(lengths[order], length, begin)
    while builder.left:
        builder.close([builder.take(size) for size in builder.plain()])
    made = builder.arrangement
    return replace(made, document=order[made.document])
