"""Rows drawn one after the other until there are as many as wanted; what is not supported is dropped, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from ropewalk.backends.chat.answering import Engine
from ropewalk.backends.chat.ledger import listed, tally
from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece, arranged_pieces
from ropewalk.data.synthesis.information_intensive import text_of
from ropewalk.data.synthesis.synthesis import ENDED, WANTED, Provenance, Written

if TYPE_CHECKING:
    from ropewalk.data.synthesis.sieve import Sieve

FIRST, MORE = 32, 1024  # that are drawn together, before there is a row and behind it
FRUITLESS = 64  # draws that give no row, after which none is expected
LONGER = "longer than a row"  # why a draw gives none, where that tells what would help
DRAWS = 4  # for every row that is wanted, unless it is said
END = 1  # tokens behind an answer that end it


@dataclass(frozen=True)
class Text:
    """Something that stands in a row and is of no document.

    Attributes:
        text: as it is read.
        ids: of that.
        loss: whether it is learnt.
    """

    text: str
    ids: tuple[int, ...]
    loss: bool = False

    @classmethod
    def of(cls, text: str, marks: Marks, loss: bool = False) -> Text:
        return cls(text, tuple(marks.encode(text)), loss)

    @classmethod
    def end(cls, marks: Marks) -> list[Text]:
        """What ends an answer, and is learnt, as a model that does not learn to end goes on; none without a token."""
        return [] if marks.end is None else [cls(marks.end[0], (marks.end[1],), loss=True)]

    @property
    def tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        parts: in their order; those of documents begin behind what texts begin with. What ends the answer comes behind
            them.
        kind: of its question.
        evidence: numbers of the parts that the answer needs.
        support: by what the answer was seen to be supported.
        asks: numbers of the parts that are the question, one behind the other.
        answers: what a right answer says, word for word; empty where that cannot be told.
    """

    parts: Sequence[Piece | Text]
    kind: str
    evidence: Sequence[int]
    support: str
    asks: Sequence[int]
    answers: Sequence[str] = ()

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)


Draw = list[Row] | str  # the rows of one draw, or why it gives none


def drawn(
    rows: int,
    draws: int | None,
    draw: Callable[[range], Iterable[Draw]],
    corpus: Corpus,
    length: int,
    marks: Marks,
    per_draw: int = 1,
    engine: Engine | None = None,
    sieve: Sieve | None = None,
) -> Written:
    """As many rows as wanted, unless draws are used up before.

    Args:
        rows: that are wanted.
        draws: at most; 4 for every row by default.
        draw: from numbers of draws to what each gives, whatever was drawn before.
        corpus: the documents.
        length: tokens of a row at most.
        marks: takes texts of rows.
        per_draw: rows of one draw.
        engine: that is asked on the way.
        sieve: drops rows that it finds of no use.

    Raises:
        UserError: if no draw gives a row.
    """
    most, end = draws or DRAWS * rows, Text.end(marks)
    around = len(corpus.manifest.begin) + len(end)
    made: list[Row] = []
    dropped: dict[str, int] = {}
    count = 0

    def fitting(one: Draw) -> Draw:
        return LONGER if not isinstance(one, str) and any(around + row.tokens > length for row in one) else one

    while len(made) < rows and count < most and (made or count < FRUITLESS):
        wave = min(-(-(rows - len(made)) // per_draw), most - count, MORE if made else FIRST)
        fit: Iterable[Draw] = map(fitting, draw(range(count, count + wave)))
        if sieve is not None:
            fit = sieve.sieved(
                list(fit), lambda row: asked_by(row, corpus, marks), lambda row: before(row, corpus, marks)
            )
        for one in fit:
            if isinstance(one, str):
                tally(dropped, one)
            else:
                made += one
        count += wave
    reasons = {f"dropped: {reason}": n for reason, n in sorted(dropped.items(), key=lambda one: (-one[1], one[0]))}
    if not made:
        asked = f"; {engine.name}: {engine.ledger.brief}" if engine else ""
        raise UserError(
            f"none of {count:,} draws gives a row: {listed(dropped)}{asked}",
            _mend(dropped, engine),
        )
    told: dict[str, float] = {WANTED: rows, ENDED: len(made) * len(end), "draws": count, **reasons}
    return _written(made, corpus, marks, end, told)


def asked_by(row: Row, corpus: Corpus, marks: Marks) -> str:
    """The text of a row's question."""
    return _text([row.parts[number] for number in row.asks], corpus, marks)


def before(row: Row, corpus: Corpus, marks: Marks) -> str:
    """The text of a row before its question."""
    return _text(row.parts[: row.asks[0]], corpus, marks)


def texts_of(parts: Iterable[Piece | Text], corpus: Corpus, marks: Marks) -> list[str]:
    """As they are read: pieces behind each other are one text, since a word may begin in one and end in the next."""
    found: list[str] = []
    for _, run in groupby(parts, lambda part: isinstance(part, Text)):
        some = [*run]
        pieces = [one for one in some if isinstance(one, Piece)]
        found += [one.text for one in some if isinstance(one, Text)]
        found += [text_of(pieces, corpus, marks.decode)] if pieces else []
    return found


def _text(parts: Sequence[Piece | Text], corpus: Corpus, marks: Marks) -> str:
    return "".join(texts_of(parts, corpus, marks)).strip()


def _mend(dropped: Mapping[str, int], engine: Engine | None) -> str:
    """What helps where no draw gives a row: by what became of the prompts, if few were answered, or of the draws."""
    if engine is not None and engine.ledger.given_up >= engine.ledger.answered:
        return engine.mend(engine.ledger.failed, engine.ledger.nonsense)
    if max(dropped, key=lambda reason: dropped[reason]) == LONGER:
        return "Give a greater --length."
    return f"{'Give' if engine is None else 'Ask another engine, give'} other texts, or more --draws."


def _written(made: Sequence[Row], corpus: Corpus, marks: Marks, end: Sequence[Text], told: dict[str, float]) -> Written:
    """Rows as pieces, ``end`` behind each, and each text a mark that is there once."""
    known: dict[str, tuple[int, int]] = {}
    rows, provenance = [], []
    for row in made:
        pieces: list[Piece] = []
        at, places = len(corpus.manifest.begin), {}
        for number, part in enumerate([*row.parts, *end]):
            name = part.text if isinstance(part, Text) else corpus.name(part.document)
            if isinstance(part, Text):
                if part.text not in known:
                    known[part.text] = marks.put(part.text, list(part.ids))
                document, tokens = known[part.text]
                part = Piece(document, 0, tokens, part.loss)
            if number in row.evidence:
                places[number] = {"document": name, "start": part.start, "stop": part.stop, "at": at}
            pieces.append(part)
            at += part.tokens
        rows.append(pieces)
        where = [places[number] for number in row.evidence]
        question = asked_by(row, corpus, marks)
        provenance.append(Provenance(row.kind, where, list(row.evidence), row.support, question))
    return Written(arranged_pieces(rows, marks.first), provenance, told)
