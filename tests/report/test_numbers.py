"""Printing of numbers, and the pooling of shares."""

from __future__ import annotations

import math

import pytest

from ropewalk.report import numbers
from ropewalk.report.numbers import Estimate


@pytest.mark.parametrize(
    ("printer", "value", "text"),
    [
        (numbers.tokens, 4096, "4,096"),
        (numbers.short_tokens, 4096, "4k"),
        (numbers.short_tokens, 131072, "128k"),
        (numbers.short_tokens, 2**20, "1M"),
        (numbers.short_tokens, 3000, "3,000"),
        (numbers.short_tokens, 0, "0"),
        (numbers.quantity, 12.345, "12.3"),
        (numbers.quantity, 1.234, "1.23"),
        (numbers.quantity, 0.0514, "0.051"),
        (numbers.quantity, 48210.4, "48,210"),
        (numbers.quantity, 3.14e9, "3.1·10⁹"),
        (numbers.quantity, math.inf, "∞"),
        (numbers.quantity, math.nan, "–"),
        (numbers.quantity, None, "–"),
        (numbers.percent, 0.95, "95%"),
        (numbers.tax, 0.021, "+2.1%"),
        (numbers.tax, -0.0304, "−3.0%"),
        (numbers.tax, 0.0004, "0.0%"),
        (numbers.tax, -0.0004, "0.0%"),
        (numbers.tax, 0.1004, "+10.0%"),
        (numbers.tick, 100_000, "100,000"),
        (numbers.tick, 1e6, "1·10⁶"),
        (numbers.tick, 0.5, "0.5"),
    ],
)
def test_a_number_reads_as_people_write_it(printer: numbers.Printer, value: float | None, text: str) -> None:
    assert printer(value) == text


def test_pooled_shares_count_every_answer_alike() -> None:
    pooled = numbers.pool([Estimate(1.0, 0.7, 1.0, 10), Estimate(0.5, 0.3, 0.7, 30)])
    assert (pooled.value, pooled.n) == (25 / 40, 40)
    assert pooled.low is not None and pooled.high is not None
    assert 0.45 < pooled.low < 25 / 40 < pooled.high < 0.78


def test_pooling_keeps_a_single_share_and_ignores_what_is_not_known() -> None:
    one = Estimate(0.5, 0.3, 0.8, 10)
    assert numbers.pool([one, Estimate()]) == one
    assert numbers.pool([]) == Estimate()
    assert numbers.pool([one, Estimate(0.7)]) == Estimate(0.6)
