"""Long inputs of a model with a short window: it reads them chunk by chunk, and answers from its notes (2412.18860)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ropewalk.backends.chat.answering import Engine, Nonsense
from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.synthesis.drawing import Draw, Row, Text, drawn
from ropewalk.data.synthesis.replies import ungrounded
from ropewalk.data.synthesis.similarity import Similarity
from ropewalk.data.synthesis.synthesis import Written

INSTRUCTION = """Read the text, and write one instruction that somebody might give who wants to learn from many documents about the same subject: a question, a comparison, a list to be made, a summary under one aspect.

It must make sense to somebody who has never seen the text. Reply with the instruction alone.

Text:
{chunk}"""  # noqa: E501
NOTE = """Somebody works on this instruction: {instruction}

Note what the text says that helps with it, in a few sentences, with names and numbers as they stand there. Reply with the one word NOTHING if it says nothing of use.

Text:
{chunk}"""  # noqa: E501
ANSWER = """Follow this instruction: {instruction}

Use these notes alone, which were taken from long documents, and do not speak of notes. Reply with the answer alone.

{notes}"""
NOTHING = "nothing"
BETWEEN, ASKS, ANSWERS = "\n\n", "\n\nInstruction: {instruction}\nAnswer:", " {answer}"
BRIEF, ROOM = 128, 512  # tokens of an instruction and of a note, and of an answer
POOL = 50_000  # documents that are searched
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

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if the documents are too short, or the engine writes nothing of use.
        """
        begin = len(corpus.manifest.begin)
        most = length - begin - 2 * (BRIEF + ROOM)
        least = self.least or max(most // 4, 1)
        if not 0 < least <= most:
            raise UserError(
                f"documents of together {least:,} to {most:,} tokens: a row of {length:,} tokens has up to "
                f"{2 * (BRIEF + ROOM):,} of instruction and answer",
                "Give a greater --length, or another --least.",
            )
        rng = np.random.default_rng([seed, POOL])
        pool = np.flatnonzero(corpus.lengths > begin)
        pool = pool if len(pool) <= POOL else np.sort(rng.choice(pool, POOL, replace=False))
        if int(corpus.lengths[pool].sum()) < most:
            raise UserError(
                f"the texts have {int(corpus.lengths[pool].sum()):,} tokens, and a row takes {most:,}",
                "Give more texts, or a smaller --length.",
            )

        def text(piece: Piece) -> str:
            return marks.decode(corpus.tokens(piece.document, piece.start, piece.stop).tolist())

        similar = Similarity([text(Piece(int(d), begin, int(corpus.lengths[d]))) for d in pool])

        def documents(instruction: str, first: Piece, room: int) -> list[Piece]:
            """The chunk's own document and those most like the instruction, as far as there is room."""
            found: list[Piece] = []
            left = room
            for d in (first.document, *(int(pool[i]) for i in similar.ranked(instruction)[0])):
                if left <= 0 or any(one.document == d for one in found):
                    continue
                whole = Piece(d, begin, int(corpus.lengths[d]))
                start = min(first.start, max(begin, whole.stop - left)) if d == first.document else begin
                found.append(Piece(d, start, min(whole.stop, start + left)))
                left -= found[-1].tokens + between.tokens
            return found

        between = Text.of(BETWEEN, marks, loss=True)

        def draw(numbers: range) -> Iterator[Draw]:
            chances = [np.random.default_rng([seed, number]) for number in numbers]
            sources = [self._source(corpus, pool, begin, rng) for rng in chances]
            rooms = [int(rng.integers(least, most + 1)) for rng in chances]
            instructions = self.engine.answers(
                [INSTRUCTION.format(chunk=text(one)) for one in sources], BRIEF, _instruction
            )
            shown = [
                [] if one is None else documents(one, source, room)
                for one, source, room in zip(instructions, sources, rooms, strict=True)
            ]
            chunks = [[part for piece in some for part in self._chunks(piece)] for some in shown]
            flat = [
                NOTE.format(instruction=instruction, chunk=text(part))
                for instruction, parts in zip(instructions, chunks, strict=True)
                for part in parts
            ]
            told = iter(self.engine.answers(flat, BRIEF, str))
            notes = [[next(told) for _ in parts] for parts in chunks]
            useful = [[note for note in some if note and not _nothing(note)] for some in notes]
            asked = [i for i, some in enumerate(useful) if some]
            prompts = [ANSWER.format(instruction=instructions[i], notes=_listed(useful[i])) for i in asked]
            answers = dict(zip(asked, self.engine.answers(prompts, ROOM, str), strict=True))
            for i, (instruction, rng) in enumerate(zip(instructions, chances, strict=True)):
                answer = answers.get(i)
                if instruction is None:
                    yield "no instruction"
                elif None in notes[i]:
                    yield "a chunk without a note"
                elif not useful[i]:
                    yield "no document helps"
                elif answer is None:
                    yield "no answer"
                elif ungrounded(answer, " ".join(map(text, shown[i]))):
                    yield "the answer is not in the documents"
                else:
                    evidence = {
                        number
                        for number, piece in enumerate(shown[i])
                        for part, note in zip(chunks[i], notes[i], strict=True)
                        if part.document == piece.document and note and not _nothing(note)
                    }
                    yield [_row(instruction, answer, shown[i], evidence, between, marks, rng)]

        return drawn(self.rows, self.draws, draw, corpus, length, marks, engine=self.engine)

    def _source(self, corpus: Corpus, pool: np.ndarray, begin: int, rng: np.random.Generator) -> Piece:
        """A random chunk of a random document, the longer the likelier."""
        sizes = corpus.lengths[pool] - begin
        document = int(rng.choice(pool, p=sizes / sizes.sum()))
        size = min(self.chunk, int(corpus.lengths[document]) - begin)
        start = begin + int(rng.integers(int(corpus.lengths[document]) - begin - size + 1))
        return Piece(document, start, start + size)

    def _chunks(self, piece: Piece) -> list[Piece]:
        """A piece in parts that the engine reads at once."""
        return piece.parted(range(self.chunk, piece.tokens, self.chunk))


def _row(
    instruction: str,
    answer: str,
    pieces: Sequence[Piece],
    evidence: set[int],
    between: Text,
    marks: Marks,
    rng: np.random.Generator,
) -> Row:
    parts: list[Piece | Text] = []
    places = []
    for i in rng.permutation(len(pieces)).tolist():
        parts += [between] if parts else []
        if i in evidence:
            places.append(len(parts))
        parts.append(pieces[i])
    asks = Text.of(ASKS.format(instruction=instruction), marks, loss=True)
    return Row(
        [*parts, asks, Text.of(ANSWERS.format(answer=answer), marks, loss=True)],
        f"{len(pieces)} documents, {len(places)} of use", places, SUPPORT,
    )  # fmt: skip


def _instruction(text: str) -> str:
    """One line.

    Raises:
        Nonsense: if it is none.
    """
    text = text.removeprefix("Instruction:").strip()
    if "\n" in text or len(text.split()) < 3:
        raise Nonsense("no instruction")
    return text


def _nothing(note: str) -> bool:
    return note.strip(" .*\"'").casefold() == NOTHING


def _listed(notes: Sequence[str]) -> str:
    return "\n".join(f"- {note}" for note in notes)
