"""What texts there are: how long, how many tokens above each length, near duplicates, and their scripts."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ropewalk.common.naming import counted
from ropewalk.common.results import Result, columns
from ropewalk.data.arrangement import Ints

if TYPE_CHECKING:
    from rich.console import Console

LOOKED_AT = 2000  # characters of a text whose scripts are counted
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
SCRIPTS = 6  # that are named


@dataclass(frozen=True)
class Above:
    """What there is from a length on.

    Attributes:
        length: in tokens.
        documents: of that length at least.
        tokens: in them.
    """

    length: int
    documents: int
    tokens: int


@dataclass(frozen=True, repr=False)
class Survey(Result):
    """Texts in numbers.

    Attributes:
        source: of the texts.
        tokenizer: whose tokens are counted.
        documents: with text.
        tokens: in them.
        empty: without text.
        unread: that could not be read.
        left_out: the first of those, by file and line.
        quantiles: lengths that so large a share of documents stays below.
        longest: tokens of the longest one.
        above: by powers of two.
        duplicates: documents that are near duplicates of an earlier one that is none; None if it was not looked for.
        copied: names of some, with that earlier one.
        scripts: shares of letters, in the first 2,000 characters of every text.
        domains: where the texts are those of a mix, tokens of each domain's.
        page: where the page lies.
    """

    source: str
    tokenizer: str
    documents: int
    tokens: int
    empty: int
    unread: int
    left_out: tuple[str, ...]
    quantiles: dict[str, int]
    longest: int
    above: tuple[Above, ...]
    duplicates: int | None
    copied: tuple[tuple[str, str], ...]
    scripts: dict[str, float]
    domains: dict[str, int]
    page: Path | None = None

    def show(self, console: Console) -> None:
        console.print(
            f"{self.source}: {counted(self.documents, 'text')}, {counted(self.tokens, 'token')} of {self.tokenizer}"
        )
        spread = ", ".join(f"{share} below {length:,}" for share, length in self.quantiles.items())
        console.print(f"lengths: {spread}; the longest {self.longest:,}")
        table = columns("from a length of", ">texts", ">tokens", ">of all")
        for one in self.above:
            table.add_row(f"{one.length:,}", f"{one.documents:,}", f"{one.tokens:,}", f"{one.tokens / self.tokens:.1%}")
        console.print(table)
        for line in self.remarks:
            console.print(line)
        if self.page:
            console.print(f"page: {self.page}")

    @property
    def remarks(self) -> list[str]:
        """What else there is to say."""
        scripts = ", ".join(f"{name} {share:.1%}" for name, share in self.scripts.items())
        found = [f"letters: {scripts}"] if scripts else []
        if self.domains:
            told = (f"{name} {tokens:,} ({tokens / self.tokens:.1%})" for name, tokens in self.domains.items())
            found.append(f"tokens by domain, in rows or not: {', '.join(told)}")
        if self.duplicates is not None:
            first = f"; {self.copied[0][0]} is one of {self.copied[0][1]}" if self.copied else ""
            found.append(f"near duplicates: {self.duplicates:,} of {counted(self.documents, 'text')}{first}")
        if self.empty:
            found.append(f"empty: {counted(self.empty, 'text')}")
        if self.unread:
            found.append(f"not read: {self.unread:,}, the first: {self.left_out[0]}")
        return found


def by_length(lengths: Ints) -> tuple[Above, ...]:
    """Documents and tokens from every power of two on, from 512, or the largest below all, to the longest."""
    found, length = [], 512
    while length // 2 and (lengths < length).all():
        length //= 2
    while (lengths >= length).any():
        some = lengths[lengths >= length]
        found.append(Above(length, len(some), int(some.sum())))
        length *= 2
    return tuple(found)


def quantiles(lengths: Ints) -> dict[str, int]:
    """Lengths below which a share of the documents is."""
    return {f"{share:.0%}": int(np.quantile(lengths, share)) for share in SHARES}


class Scripts:
    """Counts letters by script, a word of Unicode's own names: LATIN, CYRILLIC, CJK, ..."""

    def __init__(self) -> None:
        self.counted: Counter[str] = Counter()
        self._of: dict[str, str] = {}

    def add(self, text: str) -> None:
        for sign, count in Counter(text[:LOOKED_AT]).items():
            if sign.isalpha():
                if sign not in self._of:
                    self._of[sign] = unicodedata.name(sign, "UNKNOWN").partition(" ")[0].partition("-")[0].lower()
                self.counted[self._of[sign]] += count

    @property
    def shares(self) -> dict[str, float]:
        """Of all letters, the most frequent first; what is rare, together."""
        total = sum(self.counted.values())
        top = self.counted.most_common(SCRIPTS)
        rest = total - sum(count for _, count in top)
        return {name: count / total for name, count in [*top, *([("others", rest)] if rest else [])]}

    def watched(self, texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """The same texts, whose letters are counted as they pass."""
        for name, text in texts:
            self.add(text)
            yield name, text
