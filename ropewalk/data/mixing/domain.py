"""What is told of the domains of a mix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Arrangement, Ints


@dataclass(frozen=True)
class Domain:
    """Texts of one kind, as they were asked for.

    Attributes:
        name: its own.
        source: of its texts, as it was given.
        share: of all tokens that was asked for, 0 to 1.
        least: tokens of a document at least, and of a piece of one.
        joined: whether files of one repository are one document.
        documents: that it has, in rows or not.
        available: tokens that one pass over it reads.
    """

    name: str
    source: str
    share: float
    least: int
    joined: bool
    documents: int
    available: int


@dataclass(frozen=True)
class Came(Domain):
    """What came of it.

    Attributes:
        tokens: in rows.
        came: that share of all tokens, 0 to 1.
        rows: how many.
        epochs: times that what is available is read.
        unused: documents in no row.
    """

    tokens: int
    came: float
    rows: int
    epochs: float
    unused: int


def domains_in(options: Mapping[str, Any], documents: int) -> tuple[Domain, ...]:
    """The domains that options of an arrangement tell of, in the order of their documents; none if there are none.

    Args:
        options: of the arrangement.
        documents: that all have.

    Raises:
        UserError: if they are not what a mix writes.
    """
    said = options.get("domains", [])
    try:
        found = tuple(Domain(**one) for one in said)
    except TypeError as error:
        raise UserError(f"domains are none that ropewalk writes: {error}") from None
    for one in found:
        numbers = one.documents, one.available, one.least + 1 if type(one.least) is int else 0
        words = isinstance(one.name, str) and isinstance(one.source, str) and isinstance(one.joined, bool)
        share = isinstance(one.share, float) and 0 < one.share <= 1
        if not words or not share or not all(type(number) is int and number > 0 for number in numbers):
            raise UserError(f"domains are none that ropewalk writes: {asdict(one)}")
    if found and sum(one.documents for one in found) != documents:
        raise UserError(f"domains have {sum(one.documents for one in found):,} documents of {documents:,}")
    return found


def domain_of(domains: tuple[Domain, ...], documents: Ints) -> Ints:
    """int64 [n], the domain of each document; what follows them all (marks) is of none: one more than there are."""
    return np.searchsorted(np.cumsum([one.documents for one in domains]), documents, "right")


def domain_of_rows(domains: tuple[Domain, ...], some: Arrangement) -> Ints:
    """int64 [R], the domain of each row: that of its documents."""
    return domain_of(domains, np.minimum.reduceat(some.document, some.firsts[:-1]))


def came(domains: tuple[Domain, ...], some: Arrangement, begin: int) -> tuple[Came, ...]:
    """What came of each.

    Args:
        domains: of the arrangement.
        some: the arrangement.
        begin: tokens that texts begin with.
    """
    if not domains:
        return ()
    of, sizes = domain_of_rows(domains, some), some.sizes(begin)
    tokens, rows = np.bincount(of, sizes, len(domains)), np.bincount(of, minlength=len(domains))
    used = np.bincount(domain_of(domains, np.unique(some.document)), minlength=len(domains))
    return tuple(
        Came(
            **asdict(one), tokens=int(tokens[i]), came=float(tokens[i] / sizes.sum()), rows=int(rows[i]),
            epochs=float(tokens[i] / one.available), unused=one.documents - int(used[i]),
        )
        for i, one in enumerate(domains)
    )  # fmt: skip
