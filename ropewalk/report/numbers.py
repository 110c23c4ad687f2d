"""A measured number, and how numbers are printed: the same on the page, in the terminal and in the picture."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TypeAlias

from ropewalk.common.statistics import midp

NOTHING = "–"
QUOTED_OR_REAL = re.compile(r"""'[^']*'|"[^"]*"|(?<![\w.])\d+\.\d+(?:e[-+]?\d+)?(?![\w.])""")
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Printer: TypeAlias = Callable[[float | None], str]


@dataclass(frozen=True)
class Estimate:
    """A measured value with its interval and sample count; each part is None where it is not known."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None

    def above(self, other: Estimate) -> bool:
        """Whether this is surely more: its whole interval lies above the other's; never where one is not known."""
        return self.low is not None and other.high is not None and self.low > other.high


def pool(shares: Sequence[Estimate]) -> Estimate:
    """The share of right answers over several tasks, every answer counting the same, with its mid-P interval.

    An estimate alone stays as it is; where a sample count is not known, there is a plain mean without an interval.
    """
    known = [(e.value, e.n) for e in shares if e.value is not None]
    if not known:
        return Estimate()
    if len(known) == 1:
        return next(e for e in shares if e.value is not None)
    counted = [(value, n) for value, n in known if n]
    if len(counted) < len(known):
        return Estimate(sum(value for value, _ in known) / len(known))
    right, total = sum(value * n for value, n in counted), sum(n for _, n in counted)
    return Estimate(right / total, *midp(right, total), total)


def _guard(render: Callable[[float], str]) -> Printer:
    """Print what is not there as a dash and what is not finite as infinity."""

    @wraps(render)
    def guarded(value: float | None) -> str:
        if value is None or math.isnan(value):
            return NOTHING
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        return render(value)

    return guarded


@_guard
def tokens(value: float) -> str:
    """A length in full: ``4,096``."""
    return f"{value:,.0f}"


@_guard
def short_tokens(value: float) -> str:
    """A length as people say it: ``4k`` for 4,096; lengths that are no round multiple stay in full."""
    for unit, name in ((2**20, "M"), (2**10, "k")):
        if value >= unit and value % unit == 0:
            return f"{value / unit:.0f}{name}"
    return f"{value:,.0f}"


@_guard
def quantity(value: float) -> str:
    """A plain number to three digits, in full up to a million: ``12.3``, ``0.051``, ``48,210``, ``3.1·10⁹``."""
    size = abs(value)
    if size >= 1e6 or 0 < size < 5e-4:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa.removesuffix('.0')}·10{str(int(exponent)).translate(SUPERSCRIPTS)}"
    if size >= 100 or size == 0:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}" if size >= 1 else f"{value:.3f}"


@_guard
def percent(value: float) -> str:
    """A share: ``95%``."""
    return f"{100 * value:.0f}%"


@_guard
def tax(value: float) -> str:
    """A relative change: ``+2.1%``; the sign is always there."""
    text = f"{100 * value:+.1f}%"
    return text.replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")


@_guard
def tick(value: float) -> str:
    """A value beside an axis: ``0.5``, ``20``, ``100,000``, ``1·10⁶``."""
    return f"{value:,.10g}" if abs(value) < 1e6 else quantity(value)


def reached(printer: Printer, shortest: int | None) -> Printer:
    """Prints effective lengths; of 0 it is only known that it lies below the shortest tested length: ``<1,024``."""
    return lambda value: f"<{printer(shortest)}" if value == 0 and shortest else printer(value)


def rounded(text: str) -> str:
    """Text whose real numbers have four significant digits, ``(tau=0.4774)``; what stands in quotes stays."""

    def shorter(match: re.Match[str]) -> str:
        word = match[0]
        return word if word[0] in "'\"" else min(repr(float(f"{float(word):.4g}")), word, key=len)

    return QUOTED_OR_REAL.sub(shorter, text)


def interval(estimate: Estimate, printer: Printer, between: str = "\N{NO-BREAK SPACE}…\N{NO-BREAK SPACE}") -> str:
    """``11.8 … 12.9``, never broken over two lines, or nothing where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = printer(estimate.low), printer(estimate.high)
    return "" if low == high and low.startswith("<") else f"{low}{between}{high}"  # one bound is no interval


def in_full(estimate: Estimate, printer: Printer) -> str:
    """``12.3 (11.8 … 12.9)``."""
    spread = interval(estimate, printer)
    return f"{printer(estimate.value)} ({spread})" if spread else printer(estimate.value)
