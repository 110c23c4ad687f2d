"""Texts to a corpus: tokenised once, on all cores, shard by shard; a kill loses the shard that is being made.

Documents stand in the order of their source, and shards end where they would always end, so that the files are the same
bytes however often the work was stopped.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.common.fingerprints import tokenizer_fingerprint
from ropewalk.common.naming import counted
from ropewalk.common.outside import read_json
from ropewalk.common.progress import Progress
from ropewalk.common.underway import Underway
from ropewalk.common.whole import write_text
from ropewalk.data.corpus import Manifest, Shard, write_shard
from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD = 2**25  # tokens, but for a document that goes beyond
BATCH = 2**22  # characters that are tokenised together
TOLD = 100  # documents that could not be read, whose errors are kept

Text = tuple[str, str]


@dataclass(frozen=True)
class Done:
    """What is known when a shard is whole.

    Attributes:
        shard: what is in it.
        read: texts of the source until its end, empty ones included.
        digest: sha256 of those.
        empty: how many of them had no token.
        signs: tokens of them that are special ones.
    """

    shard: Shard
    read: int
    digest: str
    empty: int
    signs: int


@dataclass
class _Growing:
    """A shard that is being filled."""

    documents: list[list[int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    tokens: int = 0
    empty: int = 0

    def add(self, name: str, ids: list[int]) -> None:
        self.documents.append(ids)
        self.names.append(name)
        self.tokens += len(ids)


def tokenised(
    texts: Iterable[Text],
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    underway: Underway,
    left_out: list[UserError],
    heard: Callable[[Progress], None] = lambda _: None,
    shard: int = SHARD,
    letters: bool = False,
) -> Manifest:
    """Make the shards that are not there yet, in the folder of the run.

    Args:
        texts: name and text of each document, the same in every run.
        tokenizer: whose ids they get.
        name: what it was loaded by.
        underway: the run's folder, which is held.
        left_out: filled by ``texts`` while they are read.
        heard: told how far it is.
        shard: tokens after which one ends.
        letters: as of ``token_ids``.

    Raises:
        UserError: if there is no text at all, or what was read before is not what the source gives now.
    """
    begin, vocabulary, folder = opening(tokenizer), len(tokenizer), underway.folder
    special = np.array(sorted(tokenizer.all_special_ids), np.int64)
    done = list(_done(underway))
    if done and done[-1].shard.tokens < shard:  # the last of a run: behind it there may be more now
        done.pop()
    source, digest = iter(texts), hashlib.sha256()
    read = 0
    for before in done:
        for one in islice(source, before.read - read):
            _add(digest, one)
        read = before.read
        if digest.hexdigest() != before.digest:
            raise UserError(f"{folder}: the texts are not those that it was begun with", underway.anew)
    growing = _Growing()

    def close() -> None:
        nonlocal growing
        number = f"{len(done):05d}"
        made = write_shard(folder, number, growing.documents, growing.names, vocabulary)
        own = np.fromiter(chain.from_iterable(ids[len(begin) :] for ids in growing.documents), np.int64)
        signs = int(np.isin(own, special).sum())
        done.append(Done(made, read, digest.hexdigest(), growing.empty, signs))
        write_text(folder / f"{number}.json", json.dumps(asdict(done[-1])))
        growing = _Growing()
        texts, tokens = sum(one.shard.documents for one in done), sum(one.shard.tokens for one in done)
        heard(Progress(texts, 0, f"{counted(texts, 'text')}, {counted(tokens, 'token')}"))

    for text, ids in _encoded(source, tokenizer, letters):
        read += 1
        _add(digest, text)
        if ids:
            growing.add(text[0], [*begin, *ids])
        else:
            growing.empty += 1
        if growing.tokens >= shard:
            close()
    if growing.documents:
        close()
    if not done:
        why = f"; {len(left_out)} could not be read, the first: {left_out[0].message}" if left_out else ""
        raise UserError(f"none of {read} texts has a token{why}", "Give texts.")
    told = tuple(one.message for one in left_out[:TOLD])
    return Manifest(
        name, tokenizer_fingerprint(tokenizer), vocabulary, tuple(begin), tuple(one.shard for one in done),
        sum(one.empty for one in done) + growing.empty, len(left_out), told, sum(one.signs for one in done),
    )  # fmt: skip


def _add(digest: Any, text: Text) -> None:
    for part in text:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)


def _done(underway: Underway) -> Iterator[Done]:
    """Of the shards that are whole, in their order."""
    number = 0
    while (file := underway.folder / f"{number:05d}.json").is_file():
        said = read_json(file, mend=underway.anew)
        try:
            yield Done(Shard(**said["shard"]), said["read"], said["digest"], said["empty"], said["signs"])
        except (TypeError, KeyError) as error:
            raise UserError(f"{file} is none that ropewalk writes: {error}", underway.anew) from None
        number += 1


def _encoded(
    texts: Iterator[Text], tokenizer: PreTrainedTokenizerBase, letters: bool
) -> Iterator[tuple[Text, list[int]]]:
    """Each text with its ids, without special ones; the next batch is read while one is tokenised."""
    encode = _encoder(tokenizer, letters)
    with ThreadPoolExecutor(1) as pool:
        waiting: list[tuple[list[Text], Future[list[list[int]]]]] = []
        for batch in _batches(texts):
            waiting.append((batch, pool.submit(encode, [text for _, text in batch])))
            if len(waiting) > 1:
                done, ids = waiting.pop(0)
                yield from zip(done, ids.result(), strict=True)
        for done, ids in waiting:
            yield from zip(done, ids.result(), strict=True)


def _batches(texts: Iterator[Text]) -> Iterator[list[Text]]:
    batch, size = [], 0
    for one in texts:
        batch.append(one)
        size += len(one[1])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encoder(tokenizer: PreTrainedTokenizerBase, letters: bool) -> Callable[[list[str]], list[list[int]]]:
    """A fast tokenizer's own way through many texts at once, which uses all cores; else one after the other."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda texts: [token_ids(text, tokenizer, letters) for text in texts]
    backend.no_truncation()
    backend.no_padding()

    def encode(texts: list[str]) -> list[list[int]]:
        own, backend.encode_special_tokens = backend.encode_special_tokens, letters or backend.encode_special_tokens
        try:
            return [one.ids for one in backend.encode_batch_fast(texts, add_special_tokens=False)]
        finally:
            backend.encode_special_tokens = own

    return encode
