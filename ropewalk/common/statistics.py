"""Intervals and tests for evaluations: cheap, exact where that is possible, and never per token.

Tokens of one document are not independent, so every interval of a loss is over documents; accuracies have Wilson's
interval; methods are compared on the same samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

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


def wilson(successes: float, n: float, z: float = Z) -> tuple[float, float]:
    """Wilson's score interval of a proportion.

    Args:
        successes: how many, or the sum of scores that are 0 to 1.
        n: number of trials; a fraction where it is an effective sample size.
        z: normal quantile of the confidence.

    Raises:
        ValueError: if there are no trials or ``successes`` is not in 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
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


@dataclass(frozen=True)
class Tally:
    """Scores of one task at one length.

    Attributes:
        total: their sum; a score is 0 to 1.
        n: how many there are.
        effect: by how much clusters inflate the variance of their mean.
    """

    total: float
    n: int
    effect: float = 1.0

    @classmethod
    def of(cls, clusters: Sequence[Sequence[float]]) -> Tally:
        """Scores in clusters (questions about one context)."""
        scores = [score for cluster in clusters for score in cluster]
        return cls(sum(scores), len(scores), design_effect(clusters))

    @property
    def mean(self) -> float:
        return self.total / self.n


def intraclass_correlation(clusters: Sequence[Sequence[float]]) -> float:
    """How alike scores of one cluster (questions about one context) are: 0 not at all, 1 equal.

    The one-way ANOVA estimator, kept in 0..1; 0 where nothing varies or no cluster has two scores.
    """
    groups = [np.asarray(cluster, np.float64) for cluster in clusters if len(cluster)]
    sizes = np.array([len(group) for group in groups], np.float64)
    k, n = len(groups), sizes.sum()
    if k < 2 or n <= k:
        return 0.0
    grand = np.concatenate(groups).mean()
    between = sum(size * (group.mean() - grand) ** 2 for size, group in zip(sizes, groups, strict=True)) / (k - 1)
    within = sum(((group - group.mean()) ** 2).sum() for group in groups) / (n - k)
    typical = (n - (sizes**2).sum() / n) / (k - 1)
    spread = between + (typical - 1) * within
    return float(np.clip((between - within) / spread, 0.0, 1.0)) if spread > 0 else 0.0


def design_effect(clusters: Sequence[Sequence[float]]) -> float:
    """By how much clusters inflate the variance of a mean: ``1 + (m - 1) rho``, m the size-weighted cluster size."""
    sizes = np.array([len(cluster) for cluster in clusters if len(cluster)], np.float64)
    if not len(sizes):
        return 1.0
    return float(1 + ((sizes**2).sum() / sizes.sum() - 1) * intraclass_correlation(clusters))


def clustered_wilson(clusters: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Wilson's interval of a mean score over clusters, at the effective sample size ``n / design_effect``.

    Raises:
        ValueError: if there are no scores.
    """
    scores = [score for cluster in clusters for score in cluster]
    effect = design_effect(clusters)
    return wilson(sum(scores) / effect, len(scores) / effect)


def average(tallies: Sequence[Tally], *, draws: int = 10_000, seed: int = 0) -> Mean:
    """Mean of the tasks' means, every task counting the same, with an interval by the parametric bootstrap.

    Each task's accuracy is drawn from the Beta distribution of Jeffreys' prior; a score of parts varies no more than
    a binary one of the same mean, so the interval is on the safe side there. Questions about one context count as many
    as they are worth (``Tally.effect``).
    """
    samples = _drawn(tallies, np.random.default_rng(seed), draws)
    low, high = np.quantile(samples, [0.025, 0.975])
    value = sum(tally.mean for tally in tallies) / len(tallies)
    return Mean(value, float(samples.std(ddof=1)), float(low), float(high), sum(tally.n for tally in tallies))


def passing_probability(
    tallies: Mapping[int, Sequence[Tally]], threshold: float, *, draws: int = 10_000, seed: int = 0
) -> dict[int, float]:
    """For each tested length, the probability that the average over tasks passes there and at every shorter one.

    Args:
        tallies: length -> the tasks' scores.
        threshold: accuracy that passes.
        draws: of the parametric bootstrap (see ``average``).
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    passing = np.ones(draws, bool)
    found = {}
    for length in sorted(tallies):
        passing &= _drawn(tallies[length], rng, draws) >= threshold
        found[length] = float(passing.mean())
    return found


def _drawn(tallies: Sequence[Tally], rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """[draws] averages over tasks."""
    columns = [
        rng.beta(tally.total / tally.effect + 0.5, (tally.n - tally.total) / tally.effect + 0.5, draws)
        for tally in tallies
    ]
    return np.asarray(np.mean(columns, axis=0), np.float64)
