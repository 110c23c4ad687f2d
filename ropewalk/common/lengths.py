"""Numbers as people write them: lengths (4096, 4k, 128K, 1m), counts and amounts with their unit."""

from __future__ import annotations

import re
from collections.abc import Mapping

from ropewalk.common.errors import UserError, cut

UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
THOUSANDS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}  # of what is counted in numbers of that size
MOST = 10**12  # tokens, samples, or what else is counted
AMOUNT = re.compile(r"([0-9_,]*\.?[0-9]+)\s*([a-z]*)")
WRITTEN = 40  # characters; longer ones are no number that anybody means


def parse(text: str | int) -> int:
    """Tokens in ``text``; k and m are powers of 1024, as in model names.

    Raises:
        UserError: if it is no length.
    """
    tokens = amount(text, UNITS)
    if not 1 <= tokens <= MOST or tokens != int(tokens):
        many = "; for a range, write 512..8k where several lengths are taken (--lengths)"
        several = many if re.search(r"\d\w*\s*(\.\.|-|to)\s*\d", str(text)[:WRITTEN]) else ""
        raise UserError(f"{said(text)} is no length in tokens", f"Write 4096, 4k, 128K or 1m{several}.")
    return int(tokens)


def whole(text: str | int, least: int = 1, most: int = 10**9) -> int:
    """A number of things.

    Raises:
        UserError: if it is none, or out of bounds.
        TypeError: for what is neither a word nor a whole number.
    """
    if isinstance(text, bool) or not isinstance(text, (str, int)):
        raise TypeError
    word = str(text) if isinstance(text, str) or abs(text) <= MOST else ""
    if not re.fullmatch(r"[0-9]{1,12}", word) or not least <= int(word) <= most:
        raise UserError(f"{said(text)} is no whole number from {least} to {most:,}")
    return int(word)


def amount(text: str | float, units: Mapping[str, float]) -> float:
    """A number with one of the units behind it; 0 if it is none.

    Args:
        text: in any case; ``,`` and ``_`` may part its digits.
        units: unit -> what it stands for; "" for none.
    """
    word = str(text).strip().lower() if isinstance(text, str) or abs(text) <= MOST**2 else ""
    match = AMOUNT.fullmatch(word) if len(word) <= WRITTEN else None
    if match is None or match[2] not in units:
        return 0.0
    return float(match[1].replace(",", "").replace("_", "")) * units[match[2]]


def said(text: object) -> str:
    """What was written, as far as a message can hold it."""
    if isinstance(text, int) and abs(text) > MOST**2:
        return f"a number of {text.bit_length():,} bits"
    return cut(repr(text), WRITTEN)


def tokens(text: str | float) -> float:
    """A number of tokens: 500M, 1B, 2.5T; units are powers of 1000.

    Raises:
        UserError: if it is none.
    """
    many = amount(text, THOUSANDS)
    if not 1 <= many <= 1e18:
        raise UserError(f"tokens is {said(text)}, expected a number of tokens", "Write --tokens 1B or --tokens 500M.")
    return many


def show(tokens: int) -> str:
    """The short spelling: 4k, 1m; plain digits where that is not exact."""
    for unit, size in (("m", UNITS["m"]), ("k", UNITS["k"])):
        if tokens >= size and tokens % size == 0:
            return f"{tokens // size}{unit}"
    return str(tokens)


def span(text: str) -> list[int]:
    """Increasing lengths: ``512..8k`` doubles from the one to the other, a comma separates lengths and such spans.

    Raises:
        UserError: if a part is no length, or a span runs backwards.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.partition("..")
        low, high = parse(first), parse(last) if dots else parse(first)
        if low > high:
            raise UserError(f"{part.strip()!r} runs backwards", f"Write {last.strip()}..{first.strip()}.")
        while low < high:
            found.add(low)
            low *= 2
        found.add(high)
    return sorted(found)
