"""Scores of lengths as published, and repetition that a length alone does not show."""

from __future__ import annotations

import pytest

from ropewalk.tasks.output_length import about, above, below, distinct, length_score


@pytest.mark.parametrize(("length", "score"), [(400, 0), (600, 0.5), (800, 1), (1000, 1), (1500, 0.5), (1800, 0)])
def test_lengths_between_800_and_1200(length: int, score: float) -> None:
    assert length_score(length, 800, 1200) == pytest.approx(score)
    assert length_score(length, *about(1000)) == pytest.approx(score)


def test_bounds_by_their_words() -> None:
    assert above(1000) == (1000, 1500) and below(1000) == (500, 1000)
    assert length_score(0, 800, 1200) == length_score(10**6, 800, 1200) == 0


def test_runs_that_are_said_again_are_counted() -> None:
    assert distinct("a b c d e", 4) == 1 and distinct("a b c", 4) == 1
    assert distinct("a b " * 50, 2) == pytest.approx(2 / 99)
    words = [str(i) for i in range(400)]
    assert distinct(" ".join(words * 2), 4) == pytest.approx(400 / 797)
