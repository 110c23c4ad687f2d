"""A folder of rows out of texts: tokenised once, then arranged; it appears when it is whole."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.files import folder_to_write, resolved
from ropewalk.common.fingerprints import tokenizer_fingerprint
from ropewalk.common.naming import counted
from ropewalk.common.progress import Progress
from ropewalk.common.results import Result, columns
from ropewalk.common.underway import ASKED, LOCK, Underway, aside
from ropewalk.common.whole import new_folder, sweep
from ropewalk.data.arranged import About, Arranged, digest_of, is_arranged
from ropewalk.data.arrangement import Arrangement, Ints
from ropewalk.data.corpus import MANIFEST, Corpus, Manifest, Shard, write_shard
from ropewalk.data.counts import Counts
from ropewalk.data.knots.marks import Marks
from ropewalk.data.mixing.domain import Came, came
from ropewalk.data.pairs import PAIRS_WANTED, ROWS
from ropewalk.data.synthesis.synthesis import WANTED, Questions, Synthesis, Written
from ropewalk.data.tokenising import tokenised
from ropewalk.texts.documents import passed_over, stream, token_ids
from ropewalk.texts.opening import opening
from ropewalk.texts.rows import is_hub_id

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from ropewalk.backends.chat.answering import Engine
    from ropewalk.common.columns import Columns

SHARDS = re.compile(r"\d{5}\..+|" + re.escape(MANIFEST))
MARKS = "marks"  # the shard of what stands between documents
ANSWERS = "answers"  # beside the rows, what an engine answered for them


class Arranger(Protocol):
    """A way to arrange documents, whatever they say."""

    def rows(self, lengths: Ints, length: int, begin: int, marks: Marks, seed: int) -> Arrangement:
        """Documents in rows.

        Args:
            lengths: int64 [n], tokens of each document, what texts begin with included.
            length: tokens of a row at most.
            begin: tokens that texts begin with.
            marks: takes what is put between documents.
            seed: of all that is drawn.
        """


def written_by(how: Arranger | Synthesis, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
    """Rows of a corpus; what only arranges documents says of none where it comes from."""
    if isinstance(how, Synthesis):
        return how.write(corpus, length, marks, seed)
    return Written(how.rows(corpus.lengths, length, len(corpus.manifest.begin), marks, seed), ())


@dataclass(frozen=True)
class Texts:
    """What is tokenised.

    Attributes:
        source: texts as ``documents.stream`` reads them, or a folder that holds them tokenised.
        tokenizer: whose ids they get; None if they have them.
        name: what that was loaded by.
        skip: leave out what cannot be read, and say so; else the first such document ends the work.
        letters: read signs such as </s> in texts as the letters that they are, not as special tokens.
    """

    source: str
    tokenizer: PreTrainedTokenizerBase | None
    name: str
    skip: bool = False
    letters: bool = False

    @property
    def tokenised_already(self) -> bool:
        return os.path.isfile(Path(self.source) / MANIFEST)  # not where the folder is closed to us

    @property
    def left_behind(self) -> list[str]:
        """What a folder of rows had besides its documents, and those who arrange these anew do not get."""
        if not is_arranged(Path(self.source)):
            return []
        arranged = Arranged.open(Path(self.source))
        return [
            f"left behind: {what} of {self.source}; its documents alone were arranged"
            for what, there in {
                "questions and answers": arranged.about.asks,
                "the shares of a mix": bool(arranged.domains),
            }.items()
            if there
        ]

    @property
    def places(self) -> list[Path]:
        """What must not be written to."""
        named = is_hub_id(self.source) or self.source in ("stdlib", "topics")
        return [] if named else [Path(self.source)]

    def up_to(self, most: int) -> int:
        """How many there are, counted up to ``most``; they are read, and not tokenised.

        Raises:
            UserError: if they cannot be read.
        """
        if self.tokenised_already:
            return min(most, len(Corpus.open(Path(self.source))))
        return sum(1 for _ in islice((1 for _, text in stream(self.source, [] if self.skip else None) if text), most))

    @contextmanager
    def corpus(
        self,
        out: Path,
        overwrite: bool,
        heard: Callable[[Progress], None],
        watched: Callable[[Iterator[tuple[str, str]]], Iterator[tuple[str, str]]] = iter,
    ) -> Iterator[tuple[Corpus, Callable[[], None]]]:
        """The documents; shards that are being made lie beside ``out`` until what is yielded with them is called.

        Args:
            out: what they are made for.
            overwrite: throw away what another run left.
            heard: told how far it is.
            watched: gives the texts on as they pass by.

        Raises:
            UserError: if there are none, or they were made by another tokenizer.
        """
        if self.tokenised_already:
            if self.letters:
                raise UserError(f"{self.source} is tokenised already", "Leave out --signs-as-letters.")
            found = Corpus.open(Path(self.source))
            found.check()
            if self.tokenizer is not None:
                found.require(self.tokenizer, self.name)
            kept = tuple(shard for shard in found.manifest.shards if not is_marks(shard))
            underway = Underway(aside(out, "shards"), {"corpus": found.digest}, SHARDS, "shards")
            with underway.opened(overwrite):
                yield Corpus(found.folder, replace(found.manifest, shards=kept)), underway.remove
            return
        if self.tokenizer is None:
            raise UserError(f"no tokenizer for {self.source}", "Name one: --tokenizer MODEL.")
        asked = {
            "texts": self.source, "tokenizer": tokenizer_fingerprint(self.tokenizer), "broken documents": self.skip,
            "signs as letters": self.letters,
        }  # fmt: skip
        underway = Underway(aside(out, "shards"), asked, SHARDS, "shards")
        left_out: list[UserError] = []
        with underway.opened(overwrite):
            texts = watched(stream(self.source, left_out if self.skip else None))
            made = tokenised(texts, self.tokenizer, self.name, underway, left_out, heard, letters=self.letters)
            replace(made, others=passed_over(self.source)).write(underway.folder)
            yield Corpus.open(underway.folder), underway.remove


@dataclass(frozen=True, repr=False)
class Made(Result):
    """Rows in a folder.

    Attributes:
        folder: where they lie.
        about: how they came to be.
        counts: what it costs.
        tokenizer: of the ids.
        notes: what to know.
        domains: of a mix, what came of each.
    """

    folder: Path
    about: About
    counts: Counts
    tokenizer: str
    notes: tuple[str, ...] = ()
    domains: tuple[Came, ...] = ()

    @classmethod
    def of(cls, folder: Path, arranged: Arranged, more: Sequence[str] = ()) -> Made:
        """What lies in a folder; ``more`` is to be known of how it came there."""
        manifest, counts = arranged.corpus.manifest, arranged.counts
        notes = [f"empty: {counted(manifest.empty, 'text')}"] if manifest.empty else []
        if manifest.unread:
            total = arranged.about.documents + manifest.empty + manifest.unread
            first = f"the first: {manifest.left_out[0]}" if manifest.left_out else ""
            notes.append(f"{manifest.unread:,} of {counted(total, 'text')} left out; {first}")
        if manifest.others:
            notes.append(f"not read: {manifest.others}")
        if manifest.signs:
            notes.append(
                f"special tokens: {manifest.signs:,} in the texts, as their signs (</s> and the like) stand there; "
                "--signs-as-letters reads those as text"
            )
        told, paired = arranged.about.told, arranged.about.paired
        there, unit = (counts.rows // ROWS, "pairs") if paired else (counts.rows, "rows")
        if there < (wanted := told.get(PAIRS_WANTED if paired else WANTED, there)):
            draws = told.get("draws", 0)
            notes.append(f"{there:,} of {wanted:,} {unit}: {draws:,} draws are used up; more with --draws")
        some = came(arranged.domains, arranged.arrangement, len(manifest.begin))
        return cls(folder, arranged.about, counts, manifest.tokenizer, (*notes, *more), some)

    @property
    def sight(self) -> str:
        """What documents of a row see, as the end of a sentence about them."""
        if self.domains and self.counts.crossing:
            return "see what the rows of their domain let them see"
        return "see themselves alone" if self.about.apart else "of a row see each other"

    @property
    def training(self) -> str:
        """The line that trains on them."""
        return command(
            "train",
            "longpo" if self.about.paired else "RECIPE",
            "MODEL",
            self.folder,
            "--to",
            self.about.length,
            "--test",
            "TEXTS",
        )

    def _told_of_documents(self) -> str:
        unused = self.counts.unused
        return self.sight + (f"; {unused:,} {'is' if unused == 1 else 'are'} in no row" if unused else "")

    def show(self, console: Console) -> None:
        about, counts = self.about, self.counts
        console.print(f"{self.folder}: {counted(counts.rows, 'row')} of up to {about.length:,} tokens, {about.how}")
        table = columns("", ">", "")
        of = max(counts.tokens, 1)
        for name, value, words in (
            ("documents", counts.documents, self._told_of_documents()),
            *(
                []
                if about.asks
                else [
                    (
                        "cut",
                        counts.cut,
                        f"documents of which rows hold parts, {counts.cut_in_vain:,} of which would have fitted one",
                    )
                ]
            ),
            ("tokens", counts.tokens, f"of {self.tokenizer}"),
            ("marks", counts.marks, f"tokens of no document, {counts.marks / of:.1%}"),
            ("padding", counts.padding, f"tokens that rows lack, {counts.padding / (of + counts.padding):.2%}"),
            ("dropped", counts.dropped, "tokens in no row"),
            ("crossing", counts.crossing, f"tokens that see another document, {counts.crossing / of:.1%}"),
        ):
            table.add_row(name, f"{value:,}", words)
        for name, number in about.told.items():
            table.add_row(name, f"{number:,.3f}" if isinstance(number, float) else f"{number:,}", "")
        console.print(table)
        if self.domains:
            console.print(self._of_domains())
        for note in self.notes:
            console.print(note)
        drawn = command("data", "show", self.folder, "-o", "PAGE.html")
        console.print(f"{drawn} draws them; {self.training} trains on them")  # fmt: skip

    def _of_domains(self) -> Columns:
        table = columns("domain", ">asked", ">came", ">tokens", ">rows", ">epochs", ">documents", ">in no row")
        for one in self.domains:
            table.add_row(
                one.name, f"{one.share:.2%}", f"{one.came:.2%}", f"{one.tokens:,}", f"{one.rows:,}",
                f"{one.epochs:.3g}", f"{one.documents:,}", f"{one.unused:,}",
            )  # fmt: skip
        return table


def make_rows(
    texts: Texts,
    arranger: Arranger | Synthesis,
    how: str,
    options: Mapping[str, Any],
    length: int,
    apart: bool,
    seed: int,
    out: Path,
    overwrite: bool,
    heard: Callable[[Progress], None],
    engine: Engine | None = None,
) -> Made:
    """Write a folder of rows; it can be stopped at any moment, and goes on where it was.

    Args:
        texts: what is arranged.
        arranger: by what.
        how: its name.
        options: its options, in plain values.
        length: tokens of a row at most.
        apart: whether documents of a row see themselves alone.
        seed: of all that is drawn.
        out: folder that appears when it is whole.
        overwrite: replace one that ropewalk wrote.
        heard: told how far it is.
        engine: that the arranger asks; what it answers lies beside ``out`` until the rows do.

    Raises:
        UserError: if texts cannot be read, or the folder cannot be written.
    """
    if texts.tokenizer is not None:  # before hours of tokenising
        begin = opening(texts.tokenizer)
        _require_room(length, begin)
        if isinstance(arranger, Questions):
            arranger.bounds(length, len(begin), Marks(*_coders(texts, texts.name, 0)))
    kept = (aside(out, "shards"), aside(out, ANSWERS))
    killed = is_arranged(out) and any(one.is_dir() for one in kept)  # behind its last write
    place = out.expanduser() if killed else folder_to_write(out, texts.places, overwrite)
    with (
        texts.corpus(out, overwrite, heard) as (corpus, tokenised),
        _answers(engine, out, overwrite) as answered,
        _naming(*kept),
    ):
        lengths = corpus.lengths
        _require_room(length, corpus.manifest.begin)
        marks = Marks(*_coders(texts, corpus.manifest.tokenizer, len(corpus)))
        written = written_by(arranger, corpus, length, marks, seed)
        arrangement = written.arrangement
        if not arrangement.rows:
            raise UserError(
                f"{counted(len(corpus), 'text')} of together {int(lengths.sum()):,} tokens fill no row of {length:,}",
                "Give more texts, or a smaller --length.",
            )
        about = About(
            how, dict(options), length, apart, seed, texts.source, len(corpus), pieces=digest_of(arrangement),
            told={**written.told, **(engine.ledger.told if engine else {})}, asks=bool(written.provenance),
        )  # fmt: skip
        if killed and _is(there := Arranged.open(out), about, corpus):
            sweep(resolved(out))
            tokenised()
            answered()
            return Made.of(place, there, texts.left_behind)
        with new_folder(out, texts.places, overwrite) as folder:
            corpus.put_into(folder)
            shards = corpus.manifest.shards
            if marks.ids:
                shards = (*shards, write_shard(folder, MARKS, marks.ids, marks.texts, corpus.manifest.vocabulary))
            manifest = replace(corpus.manifest, shards=shards)
            made = put_together(folder, manifest, about, written)
        tokenised()
        answered()
        return Made.of(place, made, texts.left_behind)


def _require_room(length: int, begin: Sequence[int]) -> None:
    """Refuse rows that have room for nothing but what texts begin with."""
    if length <= len(begin):
        raise UserError(f"rows of {length} tokens, where texts begin with {len(begin)}", "Give a greater --length.")


@contextmanager
def _naming(*folders: Path) -> Iterator[None]:
    """Say in what ends the work where that lies which a further run goes on with."""
    try:
        yield
    except UserError as error:
        stay = [str(one) for one in folders if one.is_dir() and {file.name for file in one.iterdir()} - {ASKED, LOCK}]
        if not stay:
            raise
        line = shlex.join(["rm", "-r", *stay])
        told = f"What was done stays in {' and '.join(stay)} for a further run to this -o; {line} removes it."
        raise UserError(error.message, f"{error.mend}\n{told}".strip()) from None


def put_together(folder: Path, manifest: Manifest, about: About, written: Written) -> Arranged:
    """Rows beside their shards, which lie in a folder already.

    Raises:
        UserError: if the rows are none of those documents.
    """
    manifest.write(folder)
    whole = Corpus.open(folder)
    written.arrangement.check(whole.lengths)
    made = Arranged(whole, replace(about, corpus=whole.digest), written.arrangement, written.provenance)
    made.write(folder)
    return made


def is_marks(shard: Shard) -> bool:
    """Whether a shard holds marks, and no documents."""
    return shard.name.partition("_")[0] == MARKS


def _is(there: Arranged, about: About, corpus: Corpus) -> bool:
    """Whether rows, left by a run that was killed behind its last write, are what is asked for."""
    kept = tuple(shard for shard in there.corpus.manifest.shards if not is_marks(shard))
    return replace(there.about, corpus="") == about and kept == corpus.manifest.shards


def _answers(engine: Engine | None, out: Path, overwrite: bool) -> AbstractContextManager[Callable[[], None]]:
    """Holds the folder of what an engine answers; gives what removes it."""
    return nullcontext(lambda: None) if engine is None else engine.keeping(aside(out, ANSWERS), overwrite)


def _coders(
    texts: Texts, name: str, documents: int
) -> tuple[Callable[[str], list[int]], int, Callable[[Sequence[int]], str], tuple[str, int] | None]:
    """From texts to ids, the number of the first mark, from ids to texts, and what ends an answer.

    Args:
        texts: whose tokenizer it is.
        name: of that, for the message where it is missing.
        documents: that stand before the marks.
    """

    def tokenizer() -> PreTrainedTokenizerBase:
        if texts.tokenizer is None:
            raise UserError(f"marks need the tokenizer of {texts.source}", f"Add --tokenizer {name}.")
        return texts.tokenizer

    def decode(ids: Sequence[int]) -> str:
        return str(tokenizer().decode(list(ids), skip_special_tokens=True))

    own = texts.tokenizer
    end = None if own is None or own.eos_token_id is None else (str(own.eos_token), int(own.eos_token_id))
    return lambda text: token_ids(text, tokenizer()), documents, decode, end
