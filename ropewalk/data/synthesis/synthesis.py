"""What a synthesis gives: rows, and for each where its answer comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from ropewalk.data.arrangement import Arrangement
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks

WANTED = "rows wanted"  # a number that is told where fewer may have come
ENDED = "answers that end"  # with the tokenizer's token for that; 0 where it has none


@dataclass(frozen=True)
class Provenance:
    """Of one row.

    Attributes:
        kind: of its question.
        evidence: document, first token, the one behind the last, and the position in the row, of each piece that the
            answer needs.
        pieces: their numbers in the row.
        support: by what the answer was seen to be supported.
        question: the text that asks, with what comes before the answer; empty where nothing does.
    """

    kind: str
    evidence: Sequence[Mapping[str, Any]]
    pieces: Sequence[int]
    support: str
    question: str = ""


PLAIN = Provenance("plain", [], [], "nothing is asked")  # of a row that asks nothing, beside others that do


@dataclass(frozen=True, eq=False)
class Written:
    """Rows with questions and answers.

    Attributes:
        arrangement: the rows.
        provenance: of each.
        told: numbers that were found on the way, by name.
    """

    arrangement: Arrangement
    provenance: Sequence[Provenance]
    told: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Synthesis(Protocol):
    """A way to make rows out of documents."""

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens; texts that are in no document go to ``marks``."""


@runtime_checkable
class Questions(Synthesis, Protocol):
    """A synthesis whose rows are of some length at least."""

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of what a row is made of at least and at most, whatever the documents are.

        Args:
            length: tokens of a row at most.
            begin: tokens that texts begin with.
            marks: of the tokenizer; nothing is put there.

        Raises:
            UserError: if there are no such rows.
        """
