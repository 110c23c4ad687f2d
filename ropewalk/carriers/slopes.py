"""ALiBi's slopes: head h lowers its logits by m_h for each token of distance (arXiv 2108.12409)."""

from __future__ import annotations

import math
from typing import Literal

Form = Literal["linear", "ntk", "geometric"]


def slopes(heads: int) -> list[float]:
    """m_h of each head: 2^(-8h/H) for a power of two, else those of the next lower one and every second of the next.

    Args:
        heads: H, 1 or more.
    """
    lower = 1 << (heads.bit_length() - 1)
    found = _of_power(lower)
    return found + _of_power(2 * lower)[::2][: heads - lower]


def _of_power(heads: int) -> list[float]:
    return [2.0 ** (-8 * h / heads) for h in range(1, heads + 1)]


def divisors(heads: int, s: float, form: Form) -> list[float]:
    """What each head's slope is divided by, so that a bias is spread over s times the distance.

    Position Interpolation divides all by s (arXiv 2310.13017); NTK leaves the steepest head and divides the flattest by
    s; geometric is ALiBi with another bound, 8 + log2(s) in the place of 8.

    Args:
        heads: H.
        s: target over window, 1 or more.
        form: how heads differ.
    """
    steps = [-math.log2(slope) / 8 for slope in slopes(heads)]  # h / H, where H is a power of two
    first, last = min(steps), max(steps)
    if form == "linear" or (form == "ntk" and first == last):
        return [s] * heads
    if form == "ntk":
        return [s ** ((step - first) / (last - first)) for step in steps]
    return [s**step for step in steps]
