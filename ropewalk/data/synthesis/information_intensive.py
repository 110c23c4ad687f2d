"""IN2 / FILM: questions whose evidence stands anywhere in a long context of segments (arXiv 2404.16811)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Ints
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece, arranged_pieces
from ropewalk.data.synthesis.synthesis import ENDED, Provenance, Written

SEGMENT = 128  # tokens of a piece of evidence, and of what stands around it
QUOTE, ANSWER = 16, 24  # tokens that are shown of a segment, and asked for
KINDS = {
    "forward": "\n\nWhat comes right after this passage in the text above?\n",
    "backward": "\n\nWhat comes right before this passage in the text above?\n",
    "both": "\n\nWhat stands right before and right after this passage in the text above?\n",
}
TEXTS = {**KINDS, "asks": "\nAnswer: ", "parts": "\n"}
SHARES = {"single": 0.71, "several": 0.19, "short": 0.10}  # the paper's 63, 17 and 9 %, without its general questions
SEVERAL = 3  # segments of evidence at most
TRIES = 50
BROKEN, CHARACTER = "\ufffd", 4  # what a part of a character reads as, and tokens of one at most


@dataclass(frozen=True)
class InformationIntensive:
    """Segments of 128 tokens of random documents, and a question that only one of them answers, or a few.

    The paper has an engine write questions. Here they ask for what stands after, before, or on both sides of a quote
    (the three directions of its probing), so that an answer is the text itself: a piece of the same document, exact to
    the token, and nobody has to judge it. The loss is on answers alone, and on what ends them.

    Attributes:
        rows: how many are made.
        least: tokens of a context at least, a quarter of ``length`` by default; lengths are uniform from there on.
    """

    rows: int
    least: int | None = None

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UserError(f"rows is {self.rows}, expected 1 at least", "Say --rows 1, or more.")

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""
        return self.least or 4 * SEVERAL * SEGMENT

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of a context at least and at most, in rows of ``length`` tokens that begin with ``begin``.

        Raises:
            UserError: if rows are too short, or ``least`` does not fit them.
        """
        end = 0 if marks.end is None else 1
        furniture = (
            sum(len(marks.encode(text)) for text in TEXTS.values()) + end + SEVERAL * (QUOTE + 2 * ANSWER) + begin
        )
        least, most = self.least or length // 4, length - furniture
        if not SEVERAL * SEGMENT <= least <= most:
            raise UserError(
                f"contexts of {least:,} to {most:,} tokens, expected {SEVERAL * SEGMENT} at least: a row of {length:,} "
                f"tokens has {furniture} of question and answer",
                f"Give a greater --length, such as {4 * max(SEVERAL * SEGMENT, furniture):,}, or another --least.",
            )
        return least, most

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if the documents have too few segments, or all that are tried occur twice in a row.
        """
        begin = len(corpus.manifest.begin)
        least, most = self.bounds(length, begin, marks)
        texts = {name: Piece.mark(*marks.add(text)) for name, text in TEXTS.items()}
        end = [] if marks.end is None else [replace(Piece.mark(*marks.put(marks.end[0], [marks.end[1]])), loss=True)]
        segments = segments_of(corpus.lengths, begin)
        needed = most // SEGMENT
        if len(segments) < needed:
            raise UserError(
                f"the texts have {len(segments):,} segments of {SEGMENT} tokens, and a row takes {needed:,}",
                "Give more texts, or a smaller --length.",
            )
        made: list[list[Piece]] = []
        told: list[Provenance] = []
        for row in range(self.rows):
            pieces, provenance = self._row(corpus, segments, least, most, texts, marks.decode, [seed, row])
            made.append([*pieces, *end])
            told.append(provenance)
        return Written(arranged_pieces(made, len(corpus)), told, {ENDED: len(made) * len(end)})

    def _row(
        self,
        corpus: Corpus,
        segments: Ints,
        least: int,
        most: int,
        texts: dict[str, Piece],
        decode: Callable[[Sequence[int]], str],
        seed: list[int],
    ) -> tuple[list[Piece], Provenance]:
        rng, begin = np.random.default_rng(seed), len(corpus.manifest.begin)
        for _ in range(TRIES):
            kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
            tokens = int(rng.integers(least, most + 1)) if kind != "short" else 4 * SEGMENT
            count = max(min(tokens, most) // SEGMENT, SEVERAL)
            several = int(rng.integers(2, SEVERAL + 1)) if kind == "several" else 1
            chosen = segments[rng.choice(len(segments), min(count, len(segments)), replace=False)]
            context = [Piece(int(d), int(s), int(s) + SEGMENT, loss=False) for d, s in chosen]
            evidence = sorted(rng.choice(len(context), several, replace=False).tolist())
            direction = str(rng.choice(list(KINDS)))
            questions, answers = [], []
            for i in evidence:
                quote, parts = asked_of(context[i], direction, rng, corpus, decode)
                questions.append(quote)
                answers.append(parts)
            shown = text_of(context, corpus, decode)
            if all(once(shown, text_of([quote], corpus, decode)) for quote in questions):
                break
        else:
            raise UserError(
                f"{TRIES} rows in turn have a quote of {QUOTE} tokens that occurs twice",
                "Give texts that repeat themselves less.",
            )
        asked = [texts[direction], *_joined(questions, texts["parts"]), texts["asks"]]
        answered = _joined([part for parts in answers for part in parts], texts["parts"])
        where = [
            {"document": corpus.name(one.document), "start": one.start, "stop": one.stop, "at": begin + i * SEGMENT}
            for i, one in enumerate(context)
            if i in evidence
        ]
        ids = np.concatenate([corpus.tokens(one.document, one.start, one.stop) for one in questions])
        question = f"{KINDS[direction].strip()}\n{decode(ids.tolist())}{TEXTS['asks']}".strip()
        told = Provenance(f"{kind}, {direction}", where, evidence, "is the text", question)
        return [*context, *asked, *answered], told


def segments_of(lengths: Ints, begin: int) -> Ints:
    """Document and first token of all segments, side by side, behind what texts begin with; int64 [S, 2]."""
    counts = np.maximum((lengths - begin) // SEGMENT, 0)
    document = np.repeat(np.arange(len(lengths)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([document, begin + number * SEGMENT], 1)


def asked_of(
    segment: Piece, direction: str, rng: np.random.Generator, corpus: Corpus, decode: Callable[[Sequence[int]], str]
) -> tuple[Piece, list[Piece]]:
    """A quote out of a segment, and the answer: what stands beside it, inside of the segment; whole characters all."""
    first = ANSWER if direction != "forward" else 0
    last = SEGMENT - QUOTE - (ANSWER if direction != "backward" else 0)
    start = segment.start + int(rng.integers(first, last + 1))

    def piece(start: int, stop: int, loss: bool = True) -> Piece:
        return in_characters(Piece(segment.document, start, stop, loss), corpus, decode)

    quote = piece(start, start + QUOTE, loss=False)
    before = [] if direction == "forward" else [piece(quote.start - ANSWER, quote.start)]
    after = [] if direction == "backward" else [piece(quote.stop, quote.stop + ANSWER)]
    return quote, [*before, *after]


def in_characters(piece: Piece, corpus: Corpus, decode: Callable[[Sequence[int]], str]) -> Piece:
    """A piece without the parts of characters at its edges, which some tokenizers cut into up to four tokens."""
    ids = corpus.tokens(piece.document, piece.start, piece.stop).tolist()
    first = next((k for k in range(CHARACTER) if not decode(ids[k : k + CHARACTER]).startswith(BROKEN)), 0)
    last = next((k for k in range(CHARACTER) if not decode(ids[-k - CHARACTER : len(ids) - k]).endswith(BROKEN)), 0)
    return replace(piece, start=piece.start + first, stop=piece.stop - last)


def text_of(pieces: Sequence[Piece], corpus: Corpus, decode: Callable[[Sequence[int]], str]) -> str:
    """Of pieces behind each other, as it is read."""
    ids = [corpus.tokens(one.document, one.start, one.stop) for one in pieces]
    return decode(np.concatenate(ids).tolist())


def once(text: str, quote: str) -> bool:
    """Whether a quote stands once in a text, whatever tokens it is read in; blanks around it say nothing."""
    quote = quote.strip()
    first = text.find(quote)
    return bool(quote) and first >= 0 and text.find(quote, first + 1) < 0


def _joined(pieces: list[Piece], between: Piece) -> list[Piece]:
    found: list[Any] = []
    for piece in pieces:
        found += [between, piece] if found else [piece]
    return found
