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


def test_an_effective_length_of_nothing_is_a_bound() -> None:
    printer = numbers.reached(numbers.tokens, 1024)
    assert [printer(value) for value in (0, 2048, None)] == ["<1,024", "2,048", numbers.NOTHING]
    assert numbers.in_full(Estimate(0, 0, 0), printer) == "<1,024"
    assert numbers.interval(Estimate(1024, 0, 2048), printer, " to ") == "<1,024 to 2,048"
    assert numbers.reached(numbers.tokens, None)(0) == "0"


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("A (tau=0.4773841040469507)", "A (tau=0.4774)"),
        ("A (base=500000.0, x=1e+16, stretch=2.0, n=1234567)", "A (base=500000.0, x=1e+16, stretch=2.0, n=1234567)"),
        ("A (scales=((1.23456, 0.000123456),))", "A (scales=((1.235, 0.0001235),))"),
        ("A (weights='m-1.23456.bin', b=1.23456)", "A (weights='m-1.23456.bin', b=1.235)"),
        ("torch 2.11.12345", "torch 2.11.12345"),
    ],
)
def test_real_numbers_in_a_title_have_four_digits(text: str, short: str) -> None:
    assert numbers.rounded(text) == short
