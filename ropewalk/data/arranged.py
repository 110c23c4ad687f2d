"""An arrangement beside the documents that it arranges: a folder that is trained on, shown and arranged anew."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.common.outside import read_json
from ropewalk.data.arrangement import COLUMNS, Arrangement, Ints
from ropewalk.data.corpus import MEND, Corpus
from ropewalk.data.counts import Counts
from ropewalk.data.mixing.domain import Domain, domain_of_rows, domains_in
from ropewalk.data.synthesis.synthesis import Provenance
from ropewalk.texts.rows import Row, read

ABOUT, PIECES, PROVENANCE = "arrangement.json", "pieces.npy", "provenance.jsonl"
FORMAT = 2
PAIRED = "longpo"  # the one whose rows are pairs of answers
DECOMPOSE = "decompose"  # the one whose rows are of many lengths


@dataclass(frozen=True)
class About:
    """How documents were arranged.

    Attributes:
        how: the name of a packing, an order, a knot or a synthesis.
        options: of that.
        length: tokens of a row at most.
        apart: whether documents of a row see themselves alone.
        seed: of all that was drawn.
        source: of the texts, as it was given.
        documents: of the source; what follows them in the corpus are marks.
        corpus: sha256 of the corpus.
        pieces: sha256 of the arrangement.
        told: numbers that were found on the way, by name.
        asks: whether rows are questions, so that documents are in them in part and again.
    """

    how: str
    options: Mapping[str, Any]
    length: int
    apart: bool
    seed: int
    source: str
    documents: int
    corpus: str = ""
    pieces: str = ""
    told: Mapping[str, float] = field(default_factory=dict)
    asks: bool = False

    @property
    def even(self) -> bool:
        """Whether rows are of one length, but for what is padded."""
        return self.how != DECOMPOSE

    @property
    def paired(self) -> bool:
        """Whether rows are pairs of answers, of which one is preferred."""
        return self.how == PAIRED

    def check(self) -> None:
        """Refuse values that no run of ours writes.

        Raises:
            UserError: naming one.
        """
        right = {
            "how": isinstance(self.how, str), "options": isinstance(self.options, dict),
            "length": type(self.length) is int and 0 < self.length < 2**40, "apart": isinstance(self.apart, bool),
            "seed": type(self.seed) is int, "source": isinstance(self.source, str),
            "documents": type(self.documents) is int and self.documents > 0, "corpus": isinstance(self.corpus, str),
            "pieces": isinstance(self.pieces, str), "asks": isinstance(self.asks, bool),
            "told": isinstance(self.told, dict) and all(
                type(one) is int or (type(one) is float and math.isfinite(one)) for one in self.told.values()
            ),
        }  # fmt: skip
        for name, good in right.items():
            if not good:
                raise UserError(f"{ABOUT}: {name} is {getattr(self, name)!r}", MEND)


@dataclass(frozen=True, eq=False)
class Arranged:
    """Rows of training.

    Attributes:
        corpus: their documents.
        about: how they came to be.
        arrangement: of those documents.
        provenance: where the answer of each row comes from; empty where rows ask nothing.
    """

    corpus: Corpus
    about: About
    arrangement: Arrangement
    provenance: Sequence[Provenance] = ()

    def __len__(self) -> int:
        return self.arrangement.rows

    @cached_property
    def counts(self) -> Counts:
        """What it costs, and what is cut."""
        begin = len(self.corpus.manifest.begin)
        documents, length = self.about.documents, self.about.length
        return Counts.of(self.arrangement, self.corpus.lengths, documents, length, begin, self.about.even)

    @cached_property
    def domains(self) -> tuple[Domain, ...]:
        """That the rows are a mix of, in the order of their documents; none if they are none."""
        return domains_in(self.about.options, self.about.documents)

    def domain(self, row: int) -> str:
        """Of a row of a mix."""
        return self.domains[int(self._domain_of_rows[row])].name

    @cached_property
    def _domain_of_rows(self) -> Ints:
        return domain_of_rows(self.domains, self.arrangement)

    @property
    def digest(self) -> str:
        """sha256 of the documents and of how they are arranged."""
        return hashlib.sha256((self.about.corpus + self.about.pieces).encode()).hexdigest()

    def pieces(self, row: int) -> range:
        """Numbers of the pieces of a row."""
        return range(int(self.arrangement.firsts[row]), int(self.arrangement.firsts[row + 1]))

    def row(self, row: int) -> tuple[Ints, Ints, Ints, NDArray[np.float32]]:
        """Ids, positions, scopes and weights of a row; [N] each.

        Positions count the tokens of the row. What a document begins with has no weight: nothing before it says that
        one begins.
        """
        some, begin = self.arrangement, np.array(self.corpus.manifest.begin, np.int64)
        ids, scopes, weights = [], [], []
        for i in self.pieces(row):
            start, stop = int(some.start[i]), int(some.stop[i])
            part = self.corpus.tokens(int(some.document[i]), start, stop)
            whole = some.loss[i] and some.document[i] < self.about.documents
            own = len(begin) if some.begun[i] else max(0, len(begin) - start) if whole else 0
            part = np.concatenate([begin, part]) if some.begun[i] else part
            ids.append(part)
            scopes.append(np.full(len(part), int(some.scope[i])))
            weights.append(np.where(np.arange(len(part)) < own, 0, float(some.loss[i])).astype(np.float32))
        joined = np.concatenate(ids)
        return joined, np.arange(len(joined)), np.concatenate(scopes), np.concatenate(weights)

    def write(self, folder: Path) -> None:
        """Beside its corpus, which lies in ``folder``."""
        table = np.stack([getattr(self.arrangement, name).astype(np.int64) for name in COLUMNS])
        np.save(folder / PIECES, table, allow_pickle=False)
        about = {"format": FORMAT, **asdict(self.about), "counts": asdict(self.counts)}
        if self.provenance:
            lines = (json.dumps(asdict(one)) for one in self.provenance)
            (folder / PROVENANCE).write_text("\n".join(lines) + "\n", "utf-8")
        about["sha256"] = _digest(about, folder)
        (folder / ABOUT).write_text(json.dumps(about, indent=1) + "\n", "utf-8")

    @classmethod
    def open(cls, folder: Path) -> Arranged:
        """From a folder.

        Raises:
            UserError: if there is none, or its files are not what was written.
        """
        corpus = Corpus.open(folder)
        if not is_arranged(folder):
            raise UserError(f"{folder} holds documents, and no arrangement of them", MEND)
        said = read_json(folder / ABOUT, mend=MEND)
        digest, expected = said.pop("sha256", None), _digest(said, folder)
        said.pop("counts", None)
        if said.pop("format", None) != FORMAT:
            raise UserError(f"{folder / ABOUT} is of another format, expected {FORMAT}", MEND)
        try:
            about = About(**said)
            about.check()
            table = np.load(folder / PIECES, mmap_mode="r", allow_pickle=False)
        except (TypeError, OSError, ValueError) as error:
            raise UserError(f"{folder} cannot be read: {error}", MEND) from None
        if table.dtype != np.int64 or table.ndim != 2 or len(table) != len(COLUMNS) or not table.shape[1]:
            raise UserError(f"{folder / PIECES} holds {table.dtype} {list(table.shape)}, expected int64 [7, P]", MEND)
        if about.corpus != corpus.digest:
            raise UserError(f"{folder} arranges other documents than those beside it", MEND)
        columns: dict[str, Any] = dict(zip(COLUMNS, table, strict=True))
        arrangement = Arrangement(**columns | {name: columns[name].astype(bool) for name in ("begun", "loss")})
        arrangement.check(corpus.lengths)
        sizes = arrangement.sizes(len(corpus.manifest.begin))
        if digest_of(arrangement) != about.pieces or about.documents > len(corpus):
            raise UserError(f"{folder / PIECES} is not what was written", MEND)
        if not 0 < sizes.min() <= sizes.max() <= about.length:
            raise UserError(
                f"{folder} has rows of {sizes.min()} to {sizes.max()} tokens, expected 1 to {about.length}", MEND
            )
        if not about.apart and arrangement.scope.any():
            raise UserError(f"{folder} has rows of several scopes, and says that it has none", MEND)
        made = cls(corpus, about, arrangement, _provenance(folder, arrangement, sizes))
        _ = made.domains  # refused here, if they are none
        if digest != expected:
            raise UserError(f"{folder}: {ABOUT} or {PROVENANCE} is not what was written", MEND)
        return made


def digest_of(arrangement: Arrangement) -> str:
    """sha256 of pieces."""
    digest = hashlib.sha256()
    for name in COLUMNS:
        digest.update(np.ascontiguousarray(getattr(arrangement, name)).view(np.uint8).data)
    return digest.hexdigest()


def _digest(said: Mapping[str, Any], folder: Path) -> str:
    """sha256 of what is said of an arrangement, and of where the answers of its rows come from."""
    file = folder / PROVENANCE
    told = file.read_bytes() if file.exists() else b""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode() + b"\n" + told).hexdigest()


def _provenance(folder: Path, some: Arrangement, sizes: Ints) -> list[Provenance]:
    """What is told of each row; nothing where rows ask nothing.

    Args:
        folder: that it lies in.
        some: the arrangement.
        sizes: int64 [R], tokens of each row.
    """
    file = folder / PROVENANCE
    if not file.exists():
        return []
    lines, pieces = list(read(file)), np.diff(some.firsts)
    if len(lines) != some.rows:
        raise UserError(f"{file} tells of {len(lines)} rows, and there are {some.rows}", MEND)
    return [_told(row, int(pieces[i]), int(sizes[i])) for i, row in enumerate(lines)]


def _told(row: Row, pieces: int, size: int) -> Provenance:
    """Of a row of so many pieces and tokens."""
    evidence, numbers = row.rows("evidence", empty=True), row.values.get("pieces")
    if not isinstance(numbers, list) or not all(type(one) is int and 0 <= one < pieces for one in numbers):
        raise row.refuse("pieces", f"a list of whole numbers below {pieces}")
    if len(evidence) != len(numbers):
        raise row.refuse("evidence", f"one of each of {len(numbers)} pieces")
    for one in evidence:
        one.text("document")
        start, stop, at = (one.integer(key) for key in ("start", "stop", "at"))
        if not 0 <= start <= stop:
            raise one.refuse("start", f"a whole number from 0 to {stop}")
        if not 0 <= at <= size - (stop - start):
            raise one.refuse("at", f"a whole number from 0 to {size - (stop - start)}")
    question = row.text("question", empty=True) if row.has("question") else ""  # of rows that were made before
    return Provenance(row.text("kind"), [one.values for one in evidence], numbers, row.text("support"), question)


def is_arranged(folder: Path) -> bool:
    """Whether a folder holds an arrangement."""
    return os.path.isfile(folder / ABOUT)
