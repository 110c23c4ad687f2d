"""Questions about tables that stand among texts, answered by SQL (arXiv 2406.00605, 2512.12967)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ropewalk.backends.chat.answering import Engine
from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.synthesis.drawing import END, LONGER, Draw, Row, Text, drawn, texts_of
from ropewalk.data.synthesis.file_tables import FileTable, asked_of_files, tables_of
from ropewalk.data.synthesis.information_intensive import SEGMENT, segments_of
from ropewalk.data.synthesis.replies import holds
from ropewalk.data.synthesis.sieve import sieve_of
from ropewalk.data.synthesis.synthesis import Written
from ropewalk.data.synthesis.tables import FORMS, Table, invented

ASKS, ANSWERS = "\n\nQuestion: {question}\nAnswer:", " {answer}"
TABLES = 3072  # tokens that tables, question and answer may have
SHORTEST = TABLES + SEGMENT  # row


@dataclass(frozen=True)
class TableQuestions:
    """Tables of invented people, or of files, among segments of random documents, and a question that SQL answers.

    Beside the table that is asked about, and for a join the second one, stand two others with the same columns. The
    answer is what sqlite gives from the table as it is read back out of the row's own tokens. A row is kept if the
    answer stands nowhere in the rest of it, and the other tables give another. The loss is on the answer alone.

    Attributes:
        rows: how many are made.
        least: tokens of a row at least, a quarter of ``length`` by default, or what tables need; lengths are uniform
            from there on.
        draws: at most; by default 4 for every row.
        tables: file or folder of tables that are asked about, a few rows and columns at a time; None invents some.
        engine: that answers questions, if rows are dropped by that.
        grounded: drop rows that the engine answers without their context.
        robust: drop rows that it does not answer with their context.
    """

    rows: int
    least: int | None = None
    draws: int | None = None
    tables: str | None = None
    engine: Engine | None = None
    grounded: bool = False
    robust: bool = False

    def __post_init__(self) -> None:
        _ = self._files, sieve_of(self.engine, self.grounded, self.robust)  # before hours of tokenising

    @cached_property
    def _files(self) -> list[FileTable]:
        return tables_of(self.tables) if self.tables else []

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
            asked = asked_of_files(rng, self._files) if self._files else invented(rng)
            if isinstance(asked, str):
                return asked
            query, everyone = asked.query, [*asked.needed, *asked.others]
            written = [Text.of(one.written(str(rng.choice(FORMS))), marks) for one in everyone]
            try:
                seen = [Table.read(marks.decode(one.ids)) for one in written]
            except (ValueError, KeyError):  # a cell with a line's end in it
                seen = []
            if seen != everyone:
                return "a table is not read back"
            found = query.answer(seen[: query.needs])
            if found is None:
                return "no single answer"
            titles = [one.title for one in asked.needed]
            question = Text.of(ASKS.format(question=query.words.format(*titles)), marks)
            answer = Text.of(ANSWERS.format(answer=found), marks, loss=True)
            tokens = int(rng.integers(least, length + 1)) - begin - END
            tokens -= sum(one.tokens for one in (*written, question, answer))
            if tokens < SEGMENT:
                return LONGER
            chosen = segments[rng.choice(len(segments), tokens // SEGMENT, replace=False)]
            parts: list[Piece | Text] = [Piece(int(d), int(s), int(s) + SEGMENT, loss=False) for d, s in chosen]
            alike = [one for one in asked.others if one.columns == seen[0].columns]
            if any(query.answer([one, *seen[1 : query.needs]]) == found for one in alike):
                return "another table gives the same answer"
            slots = np.sort(rng.integers(0, len(chosen) + 1, len(written)))[::-1]
            for slot, k in zip(slots.tolist(), rng.permutation(len(written)).tolist(), strict=True):
                parts.insert(slot, written[k])
            needed = [one.text for one in written[: query.needs]]
            others = [text for text in texts_of(parts, corpus, marks) if text not in needed]
            if any(holds(text, str(found)) for text in (*others, question.text)):
                return "the answer stands elsewhere too"
            evidence = [parts.index(one) for one in written[: query.needs]]
            of = f", of {asked.file}" if asked.file else ""
            support = f"sqlite: {query.sql} {list(query.given)}{of}"
            return [Row([*parts, question, answer], query.kind, evidence, support, [len(parts)], [str(found)])]

        def draw(numbers: range) -> Iterator[Draw]:
            yield from map(row, numbers)

        sieve = sieve_of(self.engine, self.grounded, self.robust)
        return drawn(self.rows, self.draws, draw, corpus, length, marks, engine=self.engine, sieve=sieve)
