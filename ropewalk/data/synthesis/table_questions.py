"""Questions about tables that stand among texts, answered by SQL (arXiv 2406.00605, 2512.12967)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.synthesis.drawing import END, LONGER, Draw, Row, Text, drawn
from ropewalk.data.synthesis.information_intensive import SEGMENT, segments_of
from ropewalk.data.synthesis.replies import holds
from ropewalk.data.synthesis.synthesis import Written
from ropewalk.data.synthesis.tables import FORMS, WHAT, Table, beside, query_of, table_of

ASKS, ANSWERS = "\n\nQuestion: {question}\nAnswer:", " {answer}"
OTHERS = 2  # tables with the same columns that are not asked about
TABLES = 3072  # tokens that tables, question and answer may have
SHORTEST = TABLES + SEGMENT  # row


@dataclass(frozen=True)
class TableQuestions:
    """Tables of invented people among segments of random documents, and a question that SQL answers.

    Beside the table that is asked about, and for a join the second one, stand two others with the same columns. The
    answer is what sqlite gives from the table as it is read back out of the row's own tokens. A row is kept if the
    answer stands nowhere in the rest of it, and the other tables give another. The loss is on the answer alone.

    Attributes:
        rows: how many are made.
        least: tokens of a row at least, a quarter of ``length`` by default, or what tables need; lengths are uniform
            from there on.
        draws: at most; by default 4 for every row.
    """

    rows: int
    least: int | None = None
    draws: int | None = None

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""
        return SHORTEST

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of a row at least and at most.

        Raises:
            UserError: if rows are too short, or ``least`` does not fit them.
        """
        least = self.least or max(length // 4, SHORTEST)
        if length < SHORTEST:
            raise UserError(
                f"rows of {length:,} tokens, expected {SHORTEST:,} at least: tables take up to {TABLES:,} of them",
                f"Give a greater --length, {SHORTEST:,} at least.",
            )
        if not SHORTEST <= least <= length:
            raise UserError(
                f"rows of {least:,} to {length:,} tokens; tables take up to {TABLES:,} of them",
                f"Give a --least of {SHORTEST:,} to {length:,}, or leave it out.",
            )
        return least, length

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if rows are short, or the documents have too few segments.
        """
        begin = len(corpus.manifest.begin)
        (least, _), segments = self.bounds(length, begin, marks), segments_of(corpus.lengths, begin)
        if len(segments) < length // SEGMENT:
            most = len(segments) * SEGMENT
            smaller = f", or a smaller --length: {most:,} at most" if most >= (self.least or SHORTEST) else ""
            raise UserError(
                f"the texts have {len(segments):,} segments of {SEGMENT} tokens, and a row takes {length // SEGMENT:,}",
                f"Give more texts{smaller}.",
            )

        def row(number: int) -> Draw:
            rng = np.random.default_rng([seed, number])
            what = WHAT[int(rng.integers(len(WHAT)))]
            table, *others = (table_of(rng, what) for _ in range(1 + OTHERS))
            query = query_of(rng, table)
            needed = [table, beside(rng, table)][: query.needs]
            everyone = [*needed, *others]
            written = [Text.of(one.written(str(rng.choice(FORMS))), marks) for one in everyone]
            seen = [Table.read(marks.decode(one.ids)) for one in written]
            if seen != everyone:
                return "a table is not read back"
            found = query.answer(seen[: query.needs])
            if found is None:
                return "no single answer"
            question = Text.of(ASKS.format(question=query.words.format(*(one.title for one in needed))), marks)
            answer = Text.of(ANSWERS.format(answer=found), marks, loss=True)
            tokens = int(rng.integers(least, length + 1)) - begin - END
            tokens -= sum(one.tokens for one in (*written, question, answer))
            if tokens < SEGMENT:
                return LONGER
            chosen = segments[rng.choice(len(segments), tokens // SEGMENT, replace=False)]
            parts: list[Piece | Text] = [Piece(int(d), int(s), int(s) + SEGMENT, loss=False) for d, s in chosen]
            texts = [marks.decode(corpus.tokens(one.document, one.start, one.stop).tolist()) for one in parts]  # type: ignore[union-attr]
            unasked = [one.text for one in written[query.needs :]]
            if any(holds(text, str(found)) for text in (*texts, *unasked, question.text)):
                return "the answer stands elsewhere too"
            if any(query.answer([other, *seen[1 : query.needs]]) == found for other in others):
                return "another table gives the same answer"
            slots = np.sort(rng.integers(0, len(chosen) + 1, len(written)))[::-1]
            for slot, k in zip(slots.tolist(), rng.permutation(len(written)).tolist(), strict=True):
                parts.insert(slot, written[k])
            evidence = [parts.index(one) for one in written[: query.needs]]
            return [Row([*parts, question, answer], query.kind, evidence, f"sqlite: {query.sql} {list(query.given)}")]

        def draw(numbers: range) -> Iterator[Draw]:
            yield from map(row, numbers)

        return drawn(self.rows, self.draws, draw, corpus, length, marks)
