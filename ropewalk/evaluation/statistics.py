"""Intervals and tests for evaluations: cheap, exact where that is possible, and never per token.

Tokens of one document are not independent, so every interval of a loss is over documents; accuracies have Wilson's
interval; methods are compared on the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

Z = 1.959963984540054  # two-sided 95 %


@dataclass(frozen=True)
class Mean:
    """A mean over documents with its 95 % interval.

    Attributes:
        value: the estimate.
        se: its standard error over documents; None for one document.
        low: lower end of the interval; None for one document.
        high: upper end.
        n: number of documents.
    """

    value: float
    se: float | None
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True, order=True)
class LengthScore:
    """A score at one context length with its interval."""

    length: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class EffectiveLength:
    """The longest length that passes, and the same by the lower (``low``) and upper (``high``) bounds of scores."""

    value: int
    low: int
    high: int


def wilson(successes: float, n: int, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Raises:
        ValueError: if there are no trials or ``successes`` is not in 0..n.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    p, q = successes / n, z * z / n
    half = z * math.sqrt(p * (1 - p) / n + q / (4 * n))
    low, high = (p + q / 2 - half) / (1 + q), (p + q / 2 + half) / (1 + q)
    return (0.0 if successes == 0 else low), (1.0 if successes == n else high)


def student(df: int, z: float = Z) -> float:
    """Student's t quantile that belongs to the normal quantile ``z`` (Cornish-Fisher; 3 % off at df = 2, 1 % at 3)."""
    return (
        z
        + (z**3 + z) / (4 * df)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3)
    )


def cluster_mean(sums: ArrayLike, counts: ArrayLike) -> Mean:
    """Token-weighted mean ``sum(sums) / sum(counts)`` with an interval over documents.

    The standard error is that of the linearised ratio (delta method), the interval Student's with D - 1 degrees.

    Args:
        sums: [D] sum over the tokens of each document.
        counts: [D] how many tokens that are.

    Raises:
        ValueError: if there are no documents or no tokens.
    """
    total, weight = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    total, weight = np.broadcast_arrays(total, weight)
    n = len(total)
    if n == 0 or weight.sum() <= 0:
        raise ValueError("a mean needs at least one document with tokens")
    value = float(total.sum() / weight.sum())
    if n == 1:
        return Mean(value, None, None, None, 1)
    residuals = total - value * weight
    se = float(np.sqrt(n / (n - 1) * (residuals**2).sum()) / weight.sum())
    half = student(n - 1) * se
    return Mean(value, se, value - half, value + half, n)


def paired_bootstrap(
    ours: ArrayLike, theirs: ArrayLike, counts: ArrayLike, *, resamples: int = 10_000, seed: int = 0
) -> Mean:
    """Difference of two token-weighted means on the same documents, with a percentile interval over documents.

    Args:
        ours: [D] sum over the tokens of each document.
        theirs: [D] the same of the other method.
        counts: [D] tokens of each document.
        resamples: how many times to draw D documents with replacement.
        seed: of the draws.
    """
    difference = np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)
    difference, weight = np.broadcast_arrays(difference, np.asarray(counts, np.float64))
    n = len(difference)
    value = float(difference.sum() / weight.sum())
    if n == 1:
        return Mean(value, None, None, None, 1)
    draws = np.random.default_rng(seed).integers(0, n, (resamples, n))
    means = difference[draws].sum(1) / weight[draws].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Mean(value, float(means.std(ddof=1)), float(low), float(high), n)


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """Exact two-sided p-value that two methods are equally good, from the samples that just one of them gets right."""
    n, k = only_ours + only_theirs, min(only_ours, only_theirs)
    tail = sum(math.comb(n, i) for i in range(k + 1))
    return min(1.0, float(2 * tail / 2**n))


def effective_length(scores: Iterable[LengthScore], threshold: float) -> EffectiveLength:
    """The largest tested length such that the score there and at every smaller tested length is >= ``threshold``.

    With a threshold of 0.2 on passkey accuracy this is k_max of Position Interpolation (arXiv 2306.15595); with 0.856
    on RULER's average, its effective length (arXiv 2404.06654). It is 0 where the smallest length fails. ``low`` and
    ``high`` of the answer take every score at its lower and at its upper bound.
    """
    ordered = sorted(scores)

    def passing(values: Iterable[float]) -> int:
        longest = 0
        for score, value in zip(ordered, values, strict=True):
            if value < threshold:
                break
            longest = score.length
        return longest

    return EffectiveLength(
        passing(s.value for s in ordered), passing(s.low for s in ordered), passing(s.high for s in ordered)
    )
