"""Long inputs of a model with a short window: it reads them chunk by chunk, and answers from its notes (2412.18860)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ropewalk.backends.chat.answering import Engine
from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Ints
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.synthesis.drawing import Draw, Row, Text, drawn
from ropewalk.data.synthesis.replies import instruction_about, ungrounded
from ropewalk.data.synthesis.similarity import Similarity
from ropewalk.data.synthesis.synthesis import Written

INSTRUCTION = """Text:
{chunk}

Write one instruction that somebody might give who wants to learn from many documents about the subject of this text: a question, a comparison, a list to be made, a summary under one aspect. It must make sense to somebody who has never seen the text.

Reply with the instruction alone."""  # noqa: E501
NOTE = """Text:
{chunk}

Somebody works on this instruction: {instruction}

Note what the text says that helps with it, in a few sentences, with names and numbers as they stand there. Reply with the one word NOTHING if it says nothing of use."""  # noqa: E501
ANSWER = """Notes, which were taken from long documents:
{notes}

Follow this instruction: {instruction}

Use the notes alone, and do not speak of them. Reply with the answer alone."""
NOTHING = "nothing"
BETWEEN, ASKS, ANSWERS = "\n\n", "\n\nInstruction: {instruction}\nAnswer:", " {answer}"
BRIEF, ROOM = 128, 512  # tokens of an instruction and of a note, and of an answer
POOL = 50_000  # documents that are searched
SMALLEST = 64  # tokens of a document that is cut, and of a chunk that there are notes on, unless it is the only one
SUPPORT = "names and numbers, and most of its words, stand in the documents"


@dataclass(frozen=True)
class InstructedDocuments:
    """An instruction about a random chunk, the documents that are most like it, and an answer out of notes on them.

    The engine never sees more than ``chunk`` tokens of documents, or the notes on them: so it may be the model whose
    window is to grow. Notes are in no row. All of a row is learnt, as in the paper.

    Attributes:
        engine: that writes.
        rows: how many are made.
        chunk: tokens that it reads at once.
        least: tokens of documents at least, a quarter of the longest by default; they are uniform from there on.
        draws: at most; by default 4 for every row.
    """

    engine: Engine
    rows: int
    chunk: int = 4096
    least: int | None = None
    draws: int | None = None

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""
        return (self.least or 1) + 2 * (BRIEF + ROOM)

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of a context at least and at most, in rows of ``length`` tokens that begin with ``begin``.

        Raises:
            UserError: if rows are too short, or ``least`` does not fit them.
        """
        most = length - begin - 2 * (BRIEF + ROOM)
        least = self.least or max(most // 4, 1)
        if not 0 < least <= most:
            raise UserError(
                f"documents of together {least:,} to {most:,} tokens: a row of {length:,} tokens has up to "
                f"{2 * (BRIEF + ROOM):,} of instruction and answer",
                "Give a greater --length, or another --least.",
            )
        return least, most

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if the documents are too short, or the engine writes nothing of use.
        """
        begin = len(corpus.manifest.begin)
        least, most = self.bounds(length, begin, marks)
        rng = np.random.default_rng([seed, POOL])
        pool = np.flatnonzero(corpus.lengths > begin)
        pool = pool if len(pool) <= POOL else np.sort(rng.choice(pool, POOL, replace=False))
        if int(corpus.lengths[pool].sum()) < most:
            raise UserError(
                f"the texts have {int(corpus.lengths[pool].sum()):,} tokens, and a row takes {most:,}",
                "Give more texts, or a smaller --length.",
            )

        library = _Library(corpus, marks, begin, pool)
        between = Text.of(BETWEEN, marks, loss=True)

        def draw(numbers: range) -> Iterator[Draw]:
            chances = [np.random.default_rng([seed, number]) for number in numbers]
            sources = [library.chunk(self.chunk, rng) for rng in chances]
            rooms = [int(rng.integers(least, most + 1)) for rng in chances]
            chunks = list(map(library.text, sources))
            prompts = [INSTRUCTION.format(chunk=one) for one in chunks]
            instructions = self.engine.answers(prompts, BRIEF, list(map(instruction_about, chunks)))
            shown = [
                [] if one is None else library.like(one, source, room, between.tokens)
                for one, source, room in zip(instructions, sources, rooms, strict=True)
            ]
            notes = self._notes(instructions, shown, library)
            answers = self._answers(instructions, notes)
            for rng, instruction, answer, pieces, noted in zip(
                chances, instructions, answers, shown, notes, strict=True
            ):
                if instruction is None:
                    yield "no instruction"
                elif any(None in some for some in noted):
                    yield "a chunk without a note"
                elif not any(map(_useful, noted)):
                    yield "no document helps"
                elif answer is None:
                    yield "no answer"
                elif ungrounded(answer, " ".join(map(library.text, pieces))):
                    yield "the answer is not in the documents"
                else:
                    useful = [bool(_useful(some)) for some in noted]
                    yield [_row(instruction, answer, pieces, useful, between, marks, rng)]

        return drawn(self.rows, self.draws, draw, corpus, length, marks, engine=self.engine)

    def _notes(
        self, instructions: Sequence[str | None], shown: Sequence[Sequence[Piece]], library: _Library
    ) -> list[list[list[str | None]]]:
        """What the engine notes of each chunk of each document of each row."""
        chunks = [[_parts(piece, self.chunk) for piece in pieces] for pieces in shown]
        prompts = [
            NOTE.format(instruction=instruction, chunk=library.text(part))
            for instruction, documents in zip(instructions, chunks, strict=True)
            for parts in documents
            for part in parts
        ]
        told = iter(self.engine.answers(prompts, BRIEF, str))
        return [[[next(told) for _ in parts] for parts in documents] for documents in chunks]

    def _answers(
        self, instructions: Sequence[str | None], notes: Sequence[Sequence[Sequence[str | None]]]
    ) -> list[str | None]:
        """An answer out of the notes of each row that has any of use."""
        useful = ["\n".join(f"- {note}" for some in noted for note in _useful(some)) for noted in notes]
        asked = [i for i, some in enumerate(useful) if some]
        prompts = [ANSWER.format(instruction=instructions[i], notes=useful[i]) for i in asked]
        found = dict(zip(asked, self.engine.answers(prompts, ROOM, str), strict=True))
        return [found.get(i) for i in range(len(notes))]


class _Library:
    """Documents that are searched."""

    def __init__(self, corpus: Corpus, marks: Marks, begin: int, documents: Ints):
        self.corpus, self.marks, self.documents = corpus, marks, documents
        self.whole = [Piece(int(d), begin, int(corpus.lengths[d])) for d in documents]
        self.similar = Similarity([self.text(piece) for piece in self.whole])

    def text(self, piece: Piece) -> str:
        return self.marks.decode(self.corpus.tokens(piece.document, piece.start, piece.stop).tolist())

    def chunk(self, size: int, rng: np.random.Generator) -> Piece:
        """A random chunk of a random document, the longer the likelier."""
        sizes = np.array([piece.tokens for piece in self.whole])
        whole = self.whole[int(rng.choice(len(sizes), p=sizes / sizes.sum()))]
        start = whole.start + int(rng.integers(max(whole.tokens - size, 0) + 1))
        return replace(whole, start=start, stop=min(start + size, whole.stop))

    def like(self, instruction: str, source: Piece, room: int, between: int) -> list[Piece]:
        """The source's document from there on, and those most like the instruction, as far as there is room."""
        ranked = [self.whole[i] for i in self.similar.ranked(instruction)[0]]
        (own,) = [piece for piece in ranked if piece.document == source.document]
        start = min(source.start, max(own.start, own.stop - room))
        found = [replace(own, start=start, stop=min(own.stop, start + room))]
        left = room - found[0].tokens - between
        for piece in ranked:
            if left >= min(piece.tokens, SMALLEST) and piece.document != source.document:
                found.append(replace(piece, stop=min(piece.stop, piece.start + left)))
                left -= found[-1].tokens + between
        return found


def _parts(piece: Piece, size: int) -> list[Piece]:
    """A document in chunks, without a short rest, which says nothing and asks for as many calls."""
    parts = piece.parted(range(size, piece.tokens, size))
    return [part for part in parts if part.tokens >= SMALLEST] or parts


def _row(
    instruction: str,
    answer: str,
    pieces: Sequence[Piece],
    useful: Sequence[bool],
    between: Text,
    marks: Marks,
    rng: np.random.Generator,
) -> Row:
    parts: list[Piece | Text] = []
    places = []
    for i in rng.permutation(len(pieces)).tolist():
        parts += [between] if parts else []
        if useful[i]:
            places.append(len(parts))
        parts.append(pieces[i])
    asks = Text.of(ASKS.format(instruction=instruction), marks, loss=True)
    return Row(
        [*parts, asks, Text.of(ANSWERS.format(answer=answer), marks, loss=True)],
        f"{len(pieces)} documents, {len(places)} of use", places, SUPPORT, [len(parts)],
    )  # fmt: skip


def _useful(notes: Sequence[str | None]) -> list[str]:
    """Those that say something."""
    return [note for note in notes if note and note.strip(" .*\"'").casefold() != NOTHING]
