"""Documents as token ids on the disk, read through memory maps: what is packed, ordered and trained on.

A corpus is a folder: ``corpus.json``, and shards of three files each: ids, where documents end, what they are called.
Ids stand as the model reads them, what texts begin with (BOS) included.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import tokenizer_fingerprint
from ropewalk.common.outside import parse, read_bytes, read_json
from ropewalk.common.whole import make, write_text
from ropewalk.texts.opening import opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MANIFEST = "corpus.json"
FORMAT = 1
MEND = "Make it again: ropewalk data pack TEXTS -o FOLDER."


@dataclass(frozen=True)
class Shard:
    """Some documents behind each other.

    Attributes:
        name: of its files.
        documents: how many.
        tokens: of all of them.
        digest: sha256 of its ids, ends and names.
    """

    name: str
    documents: int
    tokens: int
    digest: str

    def files(self, folder: Path) -> tuple[Path, Path, Path]:
        """Of its ids, its ends and its names."""
        return folder / f"{self.name}.ids.npy", folder / f"{self.name}.ends.npy", folder / f"{self.name}.names.json"


@dataclass(frozen=True)
class Manifest:
    """What ``corpus.json`` says.

    Attributes:
        tokenizer: the name it was loaded by.
        fingerprint: of that tokenizer.
        vocabulary: ids are below this.
        begin: what every document begins with.
        shards: in the order of the documents.
        empty: documents without text, which were passed over.
        unread: documents that could not be read.
        left_out: the first of those, by file and line, as they were told.
        signs: tokens of texts that are special ones, as their signs stand in them.
        others: files beside the texts that are of other kinds, in words.
    """

    tokenizer: str
    fingerprint: str
    vocabulary: int
    begin: tuple[int, ...]
    shards: tuple[Shard, ...]
    empty: int = 0
    unread: int = 0
    left_out: tuple[str, ...] = ()
    signs: int = 0
    others: str = ""

    def write(self, folder: Path) -> None:
        write_text(folder / MANIFEST, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """From a folder.

        Raises:
            UserError: if it has none, or one of another format.
        """
        file = folder / MANIFEST
        if not file.is_file():
            raise UserError(f"{folder} has no {MANIFEST}: no texts were tokenised into it", MEND)
        said = read_json(file, most=1 << 30, mend=MEND)
        if said.pop("format", None) != FORMAT:
            raise UserError(f"{file} is of another format, expected {FORMAT}", MEND)
        try:
            shards = tuple(Shard(**one) for one in said.pop("shards"))
            made = cls(**said | {"begin": tuple(said["begin"]), "left_out": tuple(said["left_out"]), "shards": shards})
        except (TypeError, KeyError) as error:
            raise UserError(f"{file} is none that ropewalk writes: {error}", MEND) from None
        numbers = [made.vocabulary, made.empty, made.unread, made.signs, *made.begin]
        numbers += [number for shard in shards for number in (shard.documents, shard.tokens)]
        words = [made.tokenizer, made.fingerprint, made.others, *made.left_out]
        words += [word for shard in shards for word in (shard.name, shard.digest)]
        if not all(type(one) is int and one >= 0 for one in numbers) or not all(isinstance(one, str) for one in words):
            raise UserError(f"{file} is none that ropewalk writes: a number or a word in it is none", MEND)
        named = all(re.fullmatch(r"\w+", one.name) for one in shards)
        if not named or any(one >= made.vocabulary for one in made.begin):
            raise UserError(f"{file} is none that ropewalk writes: begin is {list(made.begin)}", MEND)
        return made


@dataclass(frozen=True, eq=False)
class Corpus(Sequence[NDArray[np.int64]]):
    """The documents of a folder; nothing is read until it is asked for.

    Attributes:
        folder: that it lies in.
        manifest: of that folder.
    """

    folder: Path
    manifest: Manifest

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """From a folder.

        Raises:
            UserError: if there is none, or a file of it is missing, cut short or of another kind.
        """
        corpus = cls(folder, Manifest.read(folder))
        for shard, ids, ends in zip(corpus.manifest.shards, corpus._ids, corpus._ends, strict=True):
            whole = len(ends) == shard.documents and len(ids) == shard.tokens
            if not whole or (len(ends) and (ends[-1] != len(ids) or (np.diff(ends, prepend=0) < 0).any())):
                raise UserError(f"{folder}: the files of shard {shard.name} do not fit each other", MEND)
        return corpus

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def __getitem__(self, index: Any) -> Any:
        """int64 [N], the ids of a document."""
        return self.tokens(range(len(self))[index])

    def tokens(self, document: int, start: int = 0, stop: int | None = None) -> NDArray[np.int64]:
        """int64 [stop - start], a part of a document."""
        shard = int(np.searchsorted(self._firsts, document, "right")) - 1
        ends, place = self._ends[shard], document - int(self._firsts[shard])
        first, last = int(ends[place - 1]) if place else 0, int(ends[place])
        last = last if stop is None else first + stop
        return self._ids[shard][first + start : last].astype(np.int64)

    def name(self, document: int) -> str:
        """What a document is called: its file, and the line where that has several."""
        shard = int(np.searchsorted(self._firsts, document, "right")) - 1
        return self._names[shard][document - int(self._firsts[shard])]

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """int64 [n], tokens of every document."""
        parts = [np.diff(ends, prepend=0) for ends in self._ends]
        return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)

    @property
    def digest(self) -> str:
        """sha256 of all that is in it."""
        said = [*map(str, self.manifest.begin), *(shard.digest for shard in self.manifest.shards)]
        return hashlib.sha256(" ".join(said).encode()).hexdigest()

    def require(self, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
        """Refuse a tokenizer that is not the one by which this was made, or that begins texts otherwise.

        Args:
            tokenizer: that would read it.
            name: what that was loaded by.

        Raises:
            UserError: naming both.
        """
        same = tokenizer_fingerprint(tokenizer) == self.manifest.fingerprint
        if not same or tuple(opening(tokenizer)) != self.manifest.begin:
            raise UserError(
                f"{self.folder} was tokenised by {self.manifest.tokenizer}, and {name} has another tokenizer",
                f"Make it again: {command('data', 'pack', 'TEXTS', '--tokenizer', name, '-o', 'FOLDER')}",
            )

    def check(self) -> None:
        """Read all of it, and refuse what is not what was written.

        Raises:
            UserError: naming the shard.
        """
        for shard, ids, ends, names in zip(self.manifest.shards, self._ids, self._ends, self._names, strict=True):
            if digest_of(ids, ends, names) != shard.digest:
                raise UserError(f"{self.folder}: shard {shard.name} is not what was written", MEND)

    def put_into(self, folder: Path, more: str = "") -> tuple[Shard, ...]:
        """Its shards in another folder too, without a second copy where the disk has links.

        Args:
            folder: where they go.
            more: put behind their names there.
        """
        put = tuple(replace(shard, name=shard.name + more) for shard in self.manifest.shards)
        for shard, new in zip(self.manifest.shards, put, strict=True):
            for file, place in zip(shard.files(self.folder), new.files(folder), strict=True):
                try:
                    os.link(file, place)
                except OSError:
                    shutil.copyfile(file, place)
        return put

    @cached_property
    def _firsts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(shard.documents for shard in self.manifest.shards)])

    @cached_property
    def _ids(self) -> list[NDArray[Any]]:
        return [_mapped(shard.files(self.folder)[0], "u") for shard in self.manifest.shards]

    @cached_property
    def _ends(self) -> list[NDArray[np.int64]]:
        return [_mapped(shard.files(self.folder)[1], "i") for shard in self.manifest.shards]

    @cached_property
    def _names(self) -> list[list[str]]:
        return [_listed(shard.files(self.folder)[2], shard.documents) for shard in self.manifest.shards]


def write_shard(
    folder: Path, name: str, documents: Sequence[Sequence[int]], names: list[str], vocabulary: int
) -> Shard:
    """Documents as the files of a shard.

    Raises:
        UserError: if an id is none of the vocabulary.
    """
    ends = np.cumsum([len(one) for one in documents], dtype=np.int64)
    ids = np.concatenate([np.zeros(0, np.int64), *(np.asarray(one, np.int64) for one in documents)])
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise UserError(f"a token id between {ids.min()} and {ids.max()}, expected 0 to {vocabulary - 1}")
    ids = ids.astype(np.uint16 if vocabulary <= 2**16 else np.uint32)
    names = [one.encode("utf-8", "backslashreplace").decode() for one in names]  # some files' are no text
    shard = Shard(name, len(ends), len(ids), digest_of(ids, ends, names))
    writers = (
        lambda file: np.save(file, ids, allow_pickle=False),
        lambda file: np.save(file, ends, allow_pickle=False),
        lambda file: file.write_text(json.dumps(names), "utf-8"),
    )
    for file, write in zip(shard.files(folder), writers, strict=True):
        file.unlink(missing_ok=True)  # of a run that was killed
        make(file, write)
    return shard


def digest_of(ids: NDArray[Any], ends: NDArray[np.int64], names: Sequence[str]) -> str:
    """sha256 of what a shard holds."""
    digest = hashlib.sha256()
    for column in (ids, ends):
        digest.update(np.ascontiguousarray(column).view(np.uint8).data)
    digest.update(json.dumps(list(names)).encode())
    return digest.hexdigest()


def _listed(file: Path, count: int) -> list[str]:
    """The strings in a file."""
    try:
        found = parse(read_bytes(file).decode())
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}", MEND) from None
    if not isinstance(found, list) or len(found) != count or not all(isinstance(one, str) for one in found):
        raise UserError(f"{file} holds no list of {count} names", MEND)
    return found


def _mapped(file: Path, kind: str) -> NDArray[Any]:
    """A one-dimensional array of whole numbers in a file, whose pages are read when they are used."""
    try:
        found: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}", MEND) from None
    if found.ndim != 1 or found.dtype.kind != kind:
        raise UserError(f"{file} holds {found.dtype} {list(found.shape)}, expected one row of whole numbers", MEND)
    return found
