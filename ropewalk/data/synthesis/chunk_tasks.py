"""Tasks over chunks of documents under ids: which holds a quote, which comes first, and in what order they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ropewalk.backends.chat.answering import Engine
from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks, sign
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.synthesis.drawing import END, Draw, Row, Text, drawn
from ropewalk.data.synthesis.information_intensive import QUOTE, in_characters, once, text_of
from ropewalk.data.synthesis.sieve import sieve_of
from ropewalk.data.synthesis.synthesis import Written

CHUNK = 256  # tokens of one at most
LEAST = 2 * QUOTE  # of one
SEVERAL = 4  # quotes, where their order is asked for
TASKS = {
    "find": "\n\nWhich chunk holds this passage? Answer with its id.",
    "first": "\n\nWhich of these passages comes first in the text above? Answer with the id of its chunk.",
    "order": "\n\nIn what order do these passages stand in the text above? Answer with the ids of their chunks.",
}
LABEL, PASSAGE, ASKS, ANSWERS = "\n\n[{id}]\n", "\n\n{number}. ", "\n\nAnswer:", " {answer}"
SUPPORT = "ids stand once in the row, and quotes in their chunks alone"


@dataclass(frozen=True)
class ChunkTasks:
    """Documents in chunks of 256 tokens, each under an id, and a question about quotes of 16 tokens out of some.

    find: the chunk that holds a quote; first: which of four comes first; order: the order of four. The answer is an id
    or several, which nobody knows without the text. The loss is on the answer alone.

    Attributes:
        rows: how many are made.
        least: tokens of a row at least, a quarter of ``length`` by default, or what eight chunks need; lengths are
            uniform from there on.
        draws: at most; by default 4 for every row.
        engine: that answers questions, if rows are dropped by that.
        grounded: drop rows that the engine answers without their context.
        robust: drop rows that it does not answer with their context.
    """

    rows: int
    least: int | None = None
    draws: int | None = None
    engine: Engine | None = None
    grounded: bool = False
    robust: bool = False

    def __post_init__(self) -> None:
        sieve_of(self.engine, self.grounded, self.robust)  # before hours of tokenising

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""
        return self.least or 2 * SEVERAL * CHUNK

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of a row at least and at most.

        Raises:
            UserError: if rows are too short, or ``least`` does not fit them.
        """
        shortest = 2 * SEVERAL * _longest(marks) + _asked(marks)
        least = self.least or max(length // 4, shortest)
        if not shortest <= least <= length:
            raise UserError(
                f"rows of {least:,} to {length:,} tokens, expected {shortest:,} at least",
                "Give a greater --length, or another --least.",
            )
        return least, length

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if rows are short, or the documents fill none.
        """
        begin, asks = len(corpus.manifest.begin), Text.of(ASKS, marks)
        numbered = [Text.of(PASSAGE.format(number=i + 1), marks) for i in range(SEVERAL)]
        tasks = {name: Text.of(text, marks) for name, text in TASKS.items()}
        (least, _), asked = self.bounds(length, begin, marks), _asked(marks)
        total = int(np.maximum(corpus.lengths - begin, 0).sum())
        if total < length:
            raise UserError(f"the texts have {total:,} tokens, and a row {length:,}", "Give more texts.")

        def row(number: int) -> Draw:
            rng = np.random.default_rng([seed, number])
            room = int(rng.integers(least, length + 1)) - begin - asked
            chunks: list[Piece] = []
            labels: list[Text] = []
            ids: list[str] = []
            for piece in _chunks(rng.permutation(len(corpus)).tolist(), corpus, begin):
                ids.append(sign(rng))
                labels.append(Text.of(LABEL.format(id=ids[-1]), marks))
                room -= piece.tokens + labels[-1].tokens
                if room < 0:
                    break
                chunks.append(piece)
            task = str(rng.choice(list(TASKS)))
            count = 1 if task == "find" else SEVERAL
            if len(chunks) < 2 * SEVERAL:
                return "too few chunks"
            places = rng.choice(len(chunks), count, replace=False).tolist()
            quotes = [in_characters(_quote(chunks[place], rng), corpus, marks.decode) for place in places]
            text = text_of(chunks, corpus, marks.decode)
            if not all(once(text, text_of([quote], corpus, marks.decode)) for quote in quotes):
                return "a quote stands twice"
            if len({*ids}) < len(ids) or any(one in text for one in ids):
                return "an id stands twice"
            wanted = {"find": places, "first": [min(places)], "order": sorted(places)}[task]
            listed = ", ".join(ids[place] for place in wanted)
            answer = Text.of(ANSWERS.format(answer=listed), marks, loss=True)
            context = [part for both in zip(labels, chunks, strict=False) for part in both]
            passages = [part for both in zip(numbered, quotes, strict=False) for part in both]
            evidence = [2 * place + 1 for place in sorted(places)]
            asked_by = [tasks[task], *passages, asks]
            asking = range(len(context), len(context) + len(asked_by))
            return [Row([*context, *asked_by, answer], task, evidence, SUPPORT, asking, [listed])]

        def draw(numbers: range) -> Iterator[Draw]:
            yield from map(row, numbers)

        sieve = sieve_of(self.engine, self.grounded, self.robust)
        return drawn(self.rows, self.draws, draw, corpus, length, marks, engine=self.engine, sieve=sieve)


def _longest(marks: Marks) -> int:
    """Tokens of a chunk under its id, at most."""
    return CHUNK + len(marks.encode(LABEL.format(id="W" * 6)))


def _asked(marks: Marks) -> int:
    """Tokens of a question and its answer, at most."""
    task = max(len(marks.encode(text)) for text in TASKS.values()) + len(marks.encode(ASKS)) + END
    return task + SEVERAL * (QUOTE + len(marks.encode(PASSAGE.format(number=1))) + _longest(marks))


def _chunks(order: list[int], corpus: Corpus, begin: int) -> Iterator[Piece]:
    """Documents one after the other, in chunks; what is left of one is a chunk if it has room for a quote."""
    for document in order:
        end = int(corpus.lengths[document])
        for start in range(begin, end, CHUNK):
            piece = Piece(document, start, min(start + CHUNK, end), loss=False)
            if piece.tokens >= LEAST:
                yield piece


def _quote(chunk: Piece, rng: np.random.Generator) -> Piece:
    start = chunk.start + int(rng.integers(chunk.tokens - QUOTE + 1))
    return Piece(chunk.document, start, start + QUOTE, loss=False)
