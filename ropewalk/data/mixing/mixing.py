"""One folder of rows out of several domains, each with its share of the tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.common.files import folder_to_write, resolved
from ropewalk.common.naming import counted
from ropewalk.common.progress import Progress
from ropewalk.common.underway import aside
from ropewalk.common.whole import new_folder, sweep
from ropewalk.data.arranged import About, Arranged, digest_of, is_arranged
from ropewalk.data.arrangement import Arrangement, Ints
from ropewalk.data.corpus import Corpus, Manifest
from ropewalk.data.making import Made, Texts, is_marks, put_together
from ropewalk.data.mixing.domain import Domain
from ropewalk.data.mixing.domain_rows import drawn, packed, repositories
from ropewalk.data.synthesis.synthesis import PLAIN, Provenance, Written

MIX = "mix"


@dataclass(frozen=True)
class Ingredient:
    """A domain before it is mixed.

    Attributes:
        name: its own.
        texts: that it is of; a folder of rows is taken row by row, as it stands.
        share: of all tokens, 0 to 1.
        least: tokens of a document at least, and of a piece of one.
        joined: whether files of one repository (a folder) are one document.
    """

    name: str
    texts: Texts
    share: float
    least: int = 0
    joined: bool = False


@dataclass(frozen=True, eq=False)
class _Rows:
    """All rows of a domain, those of them that are read aside."""

    corpus: Corpus
    documents: int
    arrangement: Arrangement
    provenance: Sequence[Provenance]
    apart: bool
    sizes: Ints

    @classmethod
    def standing(cls, one: Ingredient, length: int) -> _Rows:
        """Of a folder of rows."""
        arranged, place = Arranged.open(Path(one.texts.source)), one.texts.source
        arranged.corpus.check()
        about, begin = arranged.about, len(arranged.corpus.manifest.begin)
        if about.length != length or not about.even:
            what = f"rows of {about.length:,} tokens" if about.even else "rows of many lengths"
            raise UserError(
                f"{one.name}: {place} holds {what}, and rows are taken as they stand: expected {length:,}",
                f"Say --length {about.length}, or give its texts." if about.even else "Give its texts.",
            )
        if about.paired:
            raise UserError(
                f"{one.name}: {place} holds pairs of answers, whose rows stay together", "Train on it alone."
            )
        if one.least or one.joined:
            option = "--least" if one.least else "--joined"
            raise UserError(
                f"{one.name}: {place} holds rows, which are taken as they stand, and {option} changes none",
                "Leave it out, or give the texts.",
            )
        if one.texts.tokenizer is not None:
            arranged.corpus.require(one.texts.tokenizer, one.texts.name)
        some = arranged.arrangement
        return cls(arranged.corpus, about.documents, some, arranged.provenance, about.apart, some.sizes(begin))

    @classmethod
    def packed(cls, one: Ingredient, corpus: Corpus, length: int) -> _Rows:
        """Of texts."""
        begin = len(corpus.manifest.begin)
        if length <= begin:
            raise UserError(f"rows of {length} tokens, where texts begin with {begin}", "Give a greater --length.")
        joined = None
        if one.joined:
            joined = repositories([corpus.name(i) for i in range(len(corpus))], one.texts.source)
        some = packed(corpus.lengths, length, begin, one.least, joined)
        if not some.rows:
            raise UserError(
                f"{one.name}: none of {counted(len(corpus), 'document')} has {one.least:,} tokens",
                f"Give longer ones, or say less: --least {one.name}=LENGTH.",
            )
        return cls(corpus, len(corpus), some, (), True, some.sizes(begin))


def mixed(
    ingredients: Sequence[Ingredient],
    tokens: float | None,
    epochs: int,
    length: int,
    seed: int,
    out: Path,
    overwrite: bool,
    heard: Callable[[Progress], None],
) -> Made:
    """Write a folder of rows; it can be stopped at any moment, and goes on where it was.

    Args:
        ingredients: the domains.
        tokens: of all rows; by default as many as the domain that is used up first allows.
        epochs: times that a row may be read.
        length: tokens of a row at most.
        seed: of which rows are read, and of their order.
        out: folder that appears when it is whole.
        overwrite: replace one that ropewalk wrote.
        heard: told how far it is.

    Raises:
        UserError: if texts cannot be read, a domain does not suffice, or the folder cannot be written.
    """
    homes = [aside(out, one.name) for one in ingredients]
    places = [place for one in ingredients for place in one.texts.places]
    killed = is_arranged(out) and any(aside(home, "shards").is_dir() for home in homes)  # behind its last write
    place = out.expanduser() if killed else folder_to_write(out, places, overwrite)
    standing = {  # refused before hours of tokenising
        one.name: _Rows.standing(one, length) for one in ingredients if is_arranged(Path(one.texts.source))
    }
    for one in ingredients:
        if one.joined and not Path(one.texts.source).is_dir():
            raise UserError(f"{one.name}: {one.texts.source} is no folder of repositories", "Leave --joined out.")
    with ExitStack() as stack:
        finished, domains = [], []
        for one, home in zip(ingredients, homes, strict=True):
            if one.name in standing:
                domains.append(standing[one.name])
                continue
            corpus, done = stack.enter_context(one.texts.corpus(home, overwrite, heard))
            finished.append(done)
            domains.append(_Rows.packed(one, corpus, length))
        manifest = _manifest(ingredients, domains)
        total = _tokens(ingredients, domains, tokens, epochs)
        written = _written(ingredients, domains, total, epochs, seed)
        told = [
            Domain(one.name, one.texts.source, one.share, one.least, one.joined, some.documents, int(some.sizes.sum()))
            for one, some in zip(ingredients, domains, strict=True)
        ]
        about = About(
            MIX, {"tokens": total, "epochs": epochs, "domains": [asdict(one) for one in told]}, length,
            any(some.apart for some in domains), seed, ", ".join(one.source for one in told),
            sum(one.documents for one in told), Corpus(out, manifest).digest, digest_of(written.arrangement),
            asks=all(some.provenance for some in domains),
        )  # fmt: skip
        if killed and (there := Arranged.open(out)).about == about:
            sweep(resolved(out))
            made = there
        else:
            with new_folder(out, places, overwrite) as folder:
                for i, some in enumerate(domains):
                    some.corpus.put_into(folder, f"_{i}")
                made = put_together(folder, manifest, about, written)
        for done in finished:
            done()
        return Made.of(place, made)


def _manifest(ingredients: Sequence[Ingredient], domains: Sequence[_Rows]) -> Manifest:
    """Of all domains, documents before marks, under the names that their shards get.

    Raises:
        UserError: if they were tokenised in different ways.
    """
    first = domains[0].corpus.manifest
    for one, some in zip(ingredients, domains, strict=True):
        manifest = some.corpus.manifest
        if (manifest.fingerprint, manifest.begin) != (first.fingerprint, first.begin):
            raise UserError(
                f"{one.name} was tokenised by {manifest.tokenizer}, and {ingredients[0].name} by {first.tokenizer}, "
                "another tokenizer",
                "Tokenise all by one: give texts, and --tokenizer MODEL.",
            )
    shards = [
        replace(shard, name=f"{shard.name}_{i}") for i, some in enumerate(domains)
        for shard in some.corpus.manifest.shards
    ]  # fmt: skip
    manifests = [some.corpus.manifest for some in domains]
    return replace(
        first, shards=tuple(sorted(shards, key=is_marks)), empty=sum(one.empty for one in manifests),
        unread=sum(one.unread for one in manifests),
        left_out=tuple(words for one in manifests for words in one.left_out),
        signs=sum(one.signs for one in manifests),
        others="; ".join(
            f"{one.name}: {own.others}" for one, own in zip(ingredients, manifests, strict=True) if own.others
        ),
    )  # fmt: skip


def _tokens(ingredients: Sequence[Ingredient], domains: Sequence[_Rows], tokens: float | None, epochs: int) -> int:
    """Of all rows.

    Raises:
        UserError: if a domain has too few, or its share is less than half a row.
    """
    whole = [int(some.sizes.sum()) for some in domains]
    times = [have / one.share for one, have in zip(ingredients, whole, strict=True)]  # tokens of all, if read once
    scarce = int(np.argmin(times))
    one, total = ingredients[scarce], int(times[scarce] * epochs if tokens is None else tokens)
    if (total - times[scarce] * epochs) * one.share > domains[scarce].sizes.mean() / 2:
        raise UserError(
            f"{one.name} has {whole[scarce]:,} tokens in rows, to be read {epochs:,} times at most, and "
            f"{one.share:.4g} of {total:,} is {total * one.share:,.0f}",
            f"Say --epochs {math.ceil(total / times[scarce]):,}, or --tokens {int(times[scarce] * epochs)}, or give "
            "more texts.",
        )
    for one, some in zip(ingredients, domains, strict=True):
        if total * one.share < some.sizes.mean() / 2:
            raise UserError(
                f"{one.name}: {one.share:.4g} of {total:,} tokens is {total * one.share:,.0f}, less than half a row",
                "Say more --tokens, or give more texts.",
            )
    return total


def _written(
    ingredients: Sequence[Ingredient], domains: Sequence[_Rows], total: int, epochs: int, seed: int
) -> Written:
    """Rows of all domains in a random order, their documents numbered as the shards of ``_manifest`` are."""
    documents = sum(some.documents for some in domains)
    before = marks = rows = 0
    parts, chosen = [], []
    told: list[Provenance] = []
    for i, (one, some) in enumerate(zip(ingredients, domains, strict=True)):
        own = some.arrangement.document
        place = np.where(own < some.documents, before, documents + marks - some.documents)
        parts.append(replace(some.arrangement, document=own + place))
        chosen.append(rows + drawn(some.sizes, total * one.share, epochs, np.random.default_rng([seed, 4, i])))
        told += some.provenance or [PLAIN] * some.arrangement.rows
        before, marks = before + some.documents, marks + len(some.corpus) - some.documents
        rows += some.arrangement.rows
    order = np.random.default_rng([seed, 5]).permutation(np.concatenate(chosen))
    asks = any(some.provenance for some in domains)
    return Written(Arrangement.joined(parts).taken(order), [told[i] for i in order] if asks else ())
