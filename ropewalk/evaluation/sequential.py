"""Fewer samples and fewer lengths where the answer is clear: Wald's test for a cell, bisection over lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ropewalk.common.statistics import midp


@dataclass(frozen=True)
class Sprt:
    """Wald's sequential probability ratio test of a success rate.

    Attributes:
        p0: a rate that fails.
        p1: a rate that passes.
        alpha: how often a rate of ``p0`` may pass.
        beta: how often a rate of ``p1`` may fail.
    """

    p0: float = 0.7
    p1: float = 0.9
    alpha: float = 0.05
    beta: float = 0.05

    def __post_init__(self) -> None:
        if not (0 < self.p0 < self.p1 < 1 and 0 < self.alpha < 0.5 and 0 < self.beta < 0.5):
            raise ValueError(f"{self} is no test: 0 < p0 < p1 < 1 and errors below 0.5 are needed")

    def verdict(self, total: float, n: int) -> bool | None:
        """Whether ``n`` scores (0 to 1) that sum to ``total`` pass; None while that is open."""
        ratio = total * math.log(self.p1 / self.p0) + (n - total) * math.log((1 - self.p1) / (1 - self.p0))
        if ratio >= math.log((1 - self.beta) / self.alpha):
            return True
        return False if ratio <= math.log(self.beta / (1 - self.alpha)) else None


@dataclass(frozen=True)
class Verdict:
    """What a cell's samples showed.

    Attributes:
        passed: by the test, or by ``threshold`` where the samples ran out before it was decided.
        asked: indices of the samples, in the order in which they were asked.
        early: True if not all of them were needed.
    """

    passed: bool
    asked: tuple[int, ...]
    early: bool


def decide(
    test: Sprt, order: Sequence[int], ask: Callable[[Sequence[int]], Sequence[float]], threshold: float, step: int = 3
) -> Verdict:
    """Ask samples, ``step`` at a time, until the test has a verdict or all are asked.

    Args:
        test: the sequential test.
        order: indices of the samples, in random order.
        ask: the scores of some samples.
        threshold: mean score that passes where the test stays open.
        step: three failures in a row are the fewest that decide the default test.
    """
    scores: list[float] = []
    for first in range(0, len(order), step):
        scores += ask(order[first : first + step])
        passed = test.verdict(sum(scores), len(scores))
        if passed is not None:
            return Verdict(passed, tuple(order[: len(scores)]), len(scores) < len(order))
    return Verdict(sum(scores) >= threshold * len(scores), tuple(order), False)


def settled(
    order: Sequence[int], ask: Callable[[Sequence[int]], Sequence[float]], width: float = 0.05, step: int = 10
) -> bool:
    """Ask samples, ``step`` at a time, until their mean is known well enough; whether that was before the last one.

    For scores that have no threshold (benchmarks of real texts): Chow and Robbins' rule, which stops when the 95 %
    interval is no wider than ``width`` on either side, and whose interval holds nearly as often as it says.
    """
    scores: list[float] = []
    for first in range(0, len(order), step):
        scores += ask(order[first : first + step])
        low, high = midp(sum(scores), len(scores))
        if high - low <= 2 * width:
            return len(scores) < len(order)
    return False


def search(lengths: Sequence[int], passes: Callable[[int], bool]) -> dict[int, bool]:
    """Which of ``lengths`` pass, testing as few as a falling curve needs.

    The longest is tested first; below it the boundary is bisected, and the neighbours on both sides of it are tested
    as well. Where these contradict a falling curve, every length is tested.

    Args:
        lengths: increasing.
        passes: the test of one length.

    Returns:
        The tested lengths and whether they passed.
    """
    tested: dict[int, bool] = {}

    def at(i: int) -> bool:
        if lengths[i] not in tested:
            tested[lengths[i]] = passes(lengths[i])
        return tested[lengths[i]]

    low, high = -1, len(lengths)  # low passes, high fails
    middle = len(lengths) - 1
    while high - low > 1:
        low, high = (middle, high) if at(middle) else (low, middle)
        middle = (low + high) // 2
    falling = (low < 1 or at(low - 1)) and (high + 1 >= len(lengths) or not at(high + 1))
    if not falling:
        for i in range(len(lengths)):
            at(i)
    return dict(sorted(tested.items()))
