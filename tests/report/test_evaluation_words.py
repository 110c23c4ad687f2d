from __future__ import annotations

from typing import Any

import pytest

from ropewalk.report.evaluation import Page


def page(effective: int, passing: dict[str, float], instead: dict[str, str] | None = None) -> Page:
    lengths = [int(length) for length in passing]
    raw: dict[str, Any] = {
        "settings": {"lengths": lengths, "method": "none", "threshold": 0.85, "samples": 5},
        "model": {"name": "M"}, "tasks": [], "results": [], "passing": passing,
        "average": {length: {"value": 0.9, "low": 0.8, "high": 1.0, "n": 9, "se": 0.012} for length in passing},
        "effective_length": {"value": effective, "low": 0, "high": effective}, "instead": instead or {},
    }  # fmt: skip
    return Page.read(raw)


@pytest.mark.parametrize(
    ("effective", "passing", "verdict"),
    [
        (2048, {"1024": 0.99, "2048": 0.8}, "M uses its context up to 2,048 tokens, the longest tested"),
        (1024, {"1024": 0.99, "2048": 0.1}, "M uses 1,024 of 2,048 tokens"),
        (2048, {"1024": 0.9, "2048": 0.38}, "M uses 1,024 of 2,048 tokens, and 2,048 tokens with a probability of 38%"),
        (1024, {"1024": 0.41, "2048": 0.0}, "M uses 1,024 tokens with a probability of 41%"),
        (0, {"1024": 0.0, "2048": 0.0}, "M fails from the shortest tested length on, 1,024 tokens"),
    ],
)
def test_a_length_that_probably_fails_is_said_with_its_probability(
    effective: int, passing: dict[str, float], verdict: str
) -> None:
    assert page(effective, passing).verdict() == verdict


def test_the_page_says_how_sure_the_average_is_and_what_stood_in() -> None:
    one = page(1024, {"1024": 0.9}, {"qa_1": "qa_1_synthetic", "altered_qa": ""})
    assert one.caveat().endswith("up to 1,024 tokens 90%. Its standard error is 1.2 points at most.")
    assert one.instead() == (
        "Not asked, as --qa gave no texts: Questions on SQuAD (in its place: Questions, made-up documents);"
        " Altered numbers."
    )
