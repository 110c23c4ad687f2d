"""The chunks that are most like the question, and the question behind them (arXiv 2310.03025, 2410.05983)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.data.synthesis.retrieved_passages import best_at_both_ends
from ropewalk.workflows.chunks import Chunk, chunks
from ropewalk.workflows.selection import BETWEEN, fitting
from ropewalk.workflows.strategy import PARTS, WHOLE, Model, Reading, Strategy, answered, room_left

CHUNK = 400  # tokens, about 300 words; of a small window, a quarter


@dataclass(frozen=True)
class Retrieval(Strategy):
    """One call, and before it a search by words (BM25) or by vectors of an embedding model.

    Attributes:
        k: chunks at most; no more than the window holds.
        chunk: tokens of each at most; 0: 400, or a quarter of the window if that is less.
        by: ``words`` or ``vectors``.
        order: ``ends``: ranks 1, 3, 5, ..., 6, 4, 2; ``document``: as in the text; ``rank``: the best first;
            ``reverse``: the best last.
    """

    name: ClassVar[str] = "rag"
    k: int = 10
    chunk: int = 0
    by: Literal["words", "vectors"] = "words"
    order: Literal["ends", "document", "rank", "reverse"] = "ends"

    def __post_init__(self) -> None:
        if self.k < 1 or self.chunk < 0:
            key, value, least = ("k", self.k, 1) if self.k < 1 else ("chunk", self.chunk, 0)
            raise UserError(f"{key} is {value}, expected {least} or more")

    async def read(self, model: Model, reading: Reading) -> str:
        left = room_left(model, reading.last("", PARTS), reading.room, "the last call")
        size = min(self.chunk or min(CHUNK, model.window // 4), left)
        spans = model.spans(reading.text)
        if len(spans) <= left:
            return await answered(model, reading, reading.text, WHOLE)
        parts = _distinct(chunks(reading.text, spans, size))
        scores = await likeness(model, [part.text for part in parts], reading.question, self.by)
        ranked = [parts[i] for i in np.argsort(-scores, kind="stable")]
        kept = ordered(fitting(ranked[: self.k], left), self.order)
        return await answered(model, reading, BETWEEN.join(part.text.strip() for part in kept), PARTS)


async def likeness(model: Model, texts: Sequence[str], question: str, by: Literal["words", "vectors"]) -> np.ndarray:
    """How like the question each text is, float32 [texts]; a search by words that finds none is noted."""
    if by == "vectors":
        vectors = await model.embed([question, *texts])
        return np.asarray(vectors[1:] @ vectors[0])
    scores = bm25(texts, question)
    if not scores.any():
        model.note("no part of the text has a word of the question: parts were taken from its beginning on")
    return scores


def bm25(texts: Sequence[str], question: str) -> np.ndarray:
    """How much each text has of the question's words, the rarer the heavier: float32 [texts]."""
    import bm25s

    tokens = bm25s.tokenize([*texts, question], stopwords="en", show_progress=False, return_ids=False)
    if not any(tokens[:-1]) or not tokens[-1]:
        return np.zeros(len(texts), np.float32)
    index = bm25s.BM25()
    index.index(tokens[:-1], show_progress=False)
    return np.asarray(index.get_scores(tokens[-1]), np.float32)


def ordered(ranked: Sequence[Chunk], order: str) -> list[Chunk]:
    """The same chunks, of which the best comes first, in another order."""
    if order == "document":
        return sorted(ranked, key=lambda part: part.start)
    if order == "ends":
        return best_at_both_ends(ranked)
    return list(reversed(ranked)) if order == "reverse" else list(ranked)


def _distinct(parts: Sequence[Chunk]) -> list[Chunk]:
    """The first of each that differ in more than white space."""
    found: dict[str, Chunk] = {}
    for part in parts:
        found.setdefault(" ".join(part.text.split()), part)
    return list(found.values())
