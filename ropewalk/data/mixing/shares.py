"""Shares of domains: a published mix by its name, or the user's own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ropewalk.common.errors import UserError, did_you_mean

ROUNDING = 1e-6  # that a sum of shares may be off


@dataclass(frozen=True)
class Mix:
    """Shares that somebody published.

    Attributes:
        shares: of tokens, by domain.
        long: domains of which only documents of a row's length at least are read.
        paper: arXiv id.
    """

    shares: Mapping[str, float]
    long: frozenset[str]
    paper: str


SHORT_MIX = {
    "fineweb-edu": 0.27, "fineweb": 0.27, "wikipedia": 0.11, "stackexchange": 0.11, "tulu": 0.08, "openwebmath": 0.08,
    "arxiv": 0.08,
}  # fmt: skip
MIXES = {
    "prolong": Mix(
        {"code": 0.30, "books": 0.30, "textbooks": 0.03} | {name: 0.37 * part for name, part in SHORT_MIX.items()},
        frozenset({"code", "books", "textbooks"}),
        "2410.02660",
    )
}


def mix_of(spelling: str) -> Mix:
    """By its name, or from shares: code=0.3,books=0.7.

    Raises:
        UserError: if there is none of that name, or shares are none.
    """
    if "=" not in spelling:
        if spelling not in MIXES:
            raise UserError(
                f"no mix {spelling!r}{did_you_mean(spelling, MIXES)}",
                f"Say shares (code=0.3,books=0.7), or a mix: {', '.join(MIXES)}.",
            )
        return MIXES[spelling]
    shares = {}
    for name, value in pairs(spelling, "shares").items():
        try:
            shares[name] = float(value)
        except ValueError:
            shares[name] = math.nan
        if not 0 < shares[name] <= 1:
            raise UserError(
                f"shares: that of {name} is {value!r}, expected a number above 0, 1 at most",
                "Leave it out, or give it a share.",
            )
    if abs(sum(shares.values()) - 1) > ROUNDING:
        total = sum(shares.values())
        parts = ",".join(f"{name}={share / total:.6g}" for name, share in shares.items())
        raise UserError(f"shares add up to {total:.6g}, expected 1", f"In these proportions they are {parts}.")
    return Mix(shares, frozenset(), "")


def pairs(text: str, option: str) -> dict[str, str]:
    """What is said of each name: code=64k,books=64k.

    Raises:
        UserError: if a part has no name or no value, or a name comes twice.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, value = (word.strip() for word in part.partition("=")[::2])
        if not name or not value:
            raise UserError(f"{option}: {part!r} is no name with a value", f"Write --{option} {name or 'NAME'}=VALUE.")
        if name in found:
            raise UserError(f"{option}: {name} has two values, {found[name]} and {value}", "Leave one out.")
        found[name] = value
    return found
