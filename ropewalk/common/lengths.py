"""Lengths as people write them: 4096, 4k, 128K, 1m."""

from __future__ import annotations

import re

from ropewalk.common.errors import UserError

UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}


def parse(text: str | int) -> int:
    """Tokens in ``text``; k and m are powers of 1024, as in model names.

    Raises:
        UserError: if it is no length.
    """
    match = re.fullmatch(r"([\d_,]*\.?\d+)\s*([km]?)", str(text).strip().lower())
    tokens = float(match.group(1).replace(",", "").replace("_", "")) * UNITS[match.group(2)] if match else 0.0
    if tokens < 1 or tokens != int(tokens):
        many = "; for a range, write 512..8k where several lengths are taken (--lengths)"
        several = many if re.search(r"\d\w*\s*(\.\.|-|to)\s*\d", str(text)) else ""
        raise UserError(f"{text!r} is no length in tokens", f"Write 4096, 4k, 128K or 1m{several}.")
    return int(tokens)


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
