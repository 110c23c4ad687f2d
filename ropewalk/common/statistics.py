"""Intervals and tests for evaluations: cheap, right for few samples, and never per token.

Tokens of one document are not independent, so every interval of a loss is over documents; accuracies, and averages of
them, have the binomial mid-P interval at their effective sample size; methods are compared on the same samples. How
often each interval holds is measured in ``tests/common/test_coverage.py``; docs/evaluation.md has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Z = 1.959963984540054  # two-sided 95 %
LARGEST = 700.0  # nats: beyond it exponentials are no numbers any more
UNSEEN_SKEW = 0.5  # of one document's mean, on either side; an exponential's is 2
# Rates nearer to 0 or 1 are taken for this one: there all tasks' rates are the same, to what can be computed.
ENDS = 1e-4
CONTEXTS, ALIKE = 4, 0.8  # so many contexts, in which answers correlate so much, are added to those that were seen


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


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22)."""
    if not 0 < x < 1:
        return float(x >= 1)
    turned = x > (a + 1) / (a + b + 2)  # where it converges slowly, but that of 1 - x fast
    if turned:
        x, a, b = 1 - x, b, a
    fraction = 1.0
    for m in range(12 + 2 * math.isqrt(int(a + b)), 0, -1):
        fraction = 1 - (a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)) / fraction
        fraction = 1 + m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)) / fraction
    fraction = 1 - (a + b) * x / (a + 1) / fraction
    power = a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    below = math.exp(power) / (a * fraction)
    return 1 - below if turned else below


def confidence(rate: float, successes: float, n: float) -> float:
    """How sure it is that the true rate is at most ``rate``: the mid-P confidence distribution.

    It is the mean of the two beta distributions whose quantiles are Clopper and Pearson's limits (Lancaster 1961).

    Args:
        rate: 0 to 1.
        successes: how many, or the sum of scores that are 0 to 1.
        n: number of trials; a fraction where it is an effective sample size.
    """
    least = beta_cdf(rate, successes, n - successes + 1) if successes > 0 else 1.0
    most = beta_cdf(rate, successes + 1, n - successes) if successes < n else 0.0
    return (least + most) / 2


@lru_cache(4096)
def midp(successes: float, n: float) -> tuple[float, float]:
    """The mid-P 95 % interval of a proportion, which holds ``successes / n``; arguments as of ``confidence``.

    Wilson's holds at 20 trials as rarely as 85 % where the rate is near 0 or 1; this one 92 % at least.

    Raises:
        ValueError: if there are no trials or ``successes`` is not in 0..n.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} trials")
    value = successes / n
    low = _root(lambda rate: confidence(rate, successes, n) - 0.025, 0.0, value) if successes > 0 else 0.0
    high = _root(lambda rate: confidence(rate, successes, n) - 0.975, value, 1.0) if successes < n else 1.0
    return low, high


@lru_cache(1024)
def student(df: float) -> float:
    """Student's two-sided 95 % quantile."""
    return _root(lambda t: 0.05 - beta_cdf(df / (df + t * t), df / 2, 0.5), 0.0, 13.0)


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function is 0, by bisection."""
    for _ in range(32):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def cluster_mean(sums: ArrayLike, counts: ArrayLike) -> Mean:
    """Token-weighted mean ``sum(sums) / sum(counts)`` with an interval over documents.

    The means of documents are taken to spread alike, long or short, so that a document which outweighs the others adds
    to the variance what it weighs; the linearised ratio (delta method), which takes its own distance for its spread,
    counts where it is wider. Each end of the interval is the wider of Student's and of Hall's, whose cubic
    transformation removes skewness (Hall 1992, "On the removal of skewness by transformation"); few documents show too
    little of it, so ``UNSEEN_SKEW`` is added to what they show. Of two documents there is Student's alone.

    Args:
        sums: [D] sum over the tokens of each document.
        counts: [D] how many tokens that are; documents without any are left out.

    Raises:
        ValueError: if there are no documents or no tokens.
    """
    total, weight = np.broadcast_arrays(np.asarray(sums, np.float64), np.asarray(counts, np.float64))
    total, weight = total[weight > 0], weight[weight > 0]
    n = len(total)
    if n == 0:
        raise ValueError("a mean needs at least one document with tokens")
    share = weight / weight.sum()
    value = float(total.sum() / weight.sum())
    if n == 1:
        return Mean(value, None, None, None, 1)
    # for the spread, no document weighs more than the one in the middle, and short ones, which are noisy, weigh less
    known = np.minimum(weight, np.sort(weight)[(n - 1) // 2])
    known /= known.sum()
    means = total / weight
    apart = means - known @ means
    one, mean = float(known @ known), float(share @ share)
    squares = float(known @ apart**2)
    linear = n / (n - 1) * float((share**2) @ (means - value) ** 2)
    se = math.sqrt(max(squares / (1 - one) * mean, linear))
    skew = unseen = 0.0  # of the mean
    if n > 2 and squares > 0:
        skew = float(known @ apart**3) / squares**1.5 * math.sqrt(n * (n - 1)) / (n - 2)
        skew, unseen = skew * float((share**3).sum()) / mean**1.5, UNSEEN_SKEW * math.sqrt(mean)
    t = student(1 / one - 1)
    low, high = max(t, _unskewed(t, skew - unseen)), max(t, -_unskewed(-t, skew + unseen))
    return Mean(value, se, value - se * low, value + se * high, n)


def exp(nats: float) -> float:
    """The exponential, or the largest that is still told apart from infinity."""
    return math.exp(min(nats, LARGEST))


def ratio(ours: ArrayLike, theirs: ArrayLike) -> Mean:
    """How many times one geometric mean is the other, from pairs of logarithms: of two perplexities, from losses.

    Args:
        ours: [D] logarithms.
        theirs: [D] of the same documents.

    Returns:
        The ratio, and the exponential of the interval of the mean difference.
    """
    difference = cluster_mean(np.subtract(ours, theirs), np.ones(np.size(ours)))
    low, high = (None if bound is None else exp(bound) for bound in (difference.low, difference.high))
    value = exp(difference.value)
    return Mean(value, None if difference.se is None else value * difference.se, low, high, difference.n)


def _unskewed(t: float, skew: float) -> float:
    """What Hall's transformation maps to ``t``."""
    return t if abs(skew) < 1e-6 else float(3 / skew * (np.cbrt(1 + skew * (t - skew / 6)) - 1))


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
        effect: by how much clusters (questions about one context) inflate the variance of their mean.
        cluster: the size of a cluster, weighted by itself.
    """

    total: float
    n: int
    effect: float = 1.0
    cluster: float = 1.0

    @classmethod
    def of(cls, clusters: Sequence[Sequence[float]]) -> Tally:
        """Scores in clusters."""
        sizes = [len(cluster) for cluster in clusters]
        n, size = sum(sizes), sum(size**2 for size in sizes) / sum(sizes)
        return cls(sum(map(sum, clusters)), n, 1 + (size - 1) * intraclass_correlation(clusters), size)

    @property
    def mean(self) -> float:
        return self.total / self.n


def intraclass_correlation(clusters: Sequence[Sequence[float]]) -> float:
    """How alike scores of one cluster (questions about one context) are: 0 not at all, 1 equal.

    The one-way ANOVA estimator, kept in 0..1; 1 where nothing varies or there is one cluster, since then nothing says
    that they differ.
    """
    sizes = np.array([len(cluster) for cluster in clusters if len(cluster)], np.float64)
    sums = np.array([sum(cluster) for cluster in clusters if len(cluster)], np.float64)
    k, n = len(sizes), sizes.sum()
    if k < 2 or n <= k:
        return 1.0
    explained = (sums**2 / sizes).sum()
    between = (explained - sums.sum() ** 2 / n) / (k - 1)
    within = (sum(score * score for cluster in clusters for score in cluster) - explained) / (n - k)
    typical = (n - (sizes**2).sum() / n) / (k - 1)
    spread = between + (typical - 1) * within
    return float(np.clip((between - within) / spread, 0.0, 1.0)) if spread > 1e-12 else 1.0


def average(tallies: Sequence[Tally]) -> Mean:
    """Mean of the tasks' means, every task counting the same, with its mid-P interval.

    A rate is inside where ``_sure`` is 2.5 to 97.5 % of it. A score of parts varies no more than a binary one of the
    same mean, so the interval is on the safe side there. The standard error is that of the interval, so that it is not
    0 where all answers are right.
    """
    value = _mean(tallies)
    low = _root(lambda rate: _sure(rate, tallies) - 0.025, 0.0, value) if value > 0 else 0.0
    high = _root(lambda rate: _sure(rate, tallies) - 0.975, value, 1.0) if value < 1 else 1.0
    return Mean(value, (high - low) / (2 * Z), low, high, sum(tally.n for tally in tallies))


def _sure(rate: float, tallies: Sequence[Tally]) -> float:
    """How sure it is that the true average is at most ``rate``."""
    size = effective_size(tallies, rate)
    return confidence(rate, _mean(tallies) * size, size)


def effective_size(tallies: Sequence[Tally], rate: float) -> float:
    """Of how many independent answers the share of right ones varies as much as the average over tasks does.

    Few clusters, or few wrong answers, hardly tell how alike the answers in a cluster are: to what they tell, four
    clusters of correlation 4/5 are added, in the spirit of Agresti and Coull's four answers.

    Args:
        tallies: the tasks' scores.
        rate: what the true average is supposed to be.
    """
    measured = [one.n / one.effect for one in tallies]
    added = [one.n / (1 + ALIKE * (one.cluster - 1)) for one in tallies]
    if measured == added:
        return _size(tallies, measured, rate)
    told = sum(4 * one.n / one.cluster * one.mean * (1 - one.mean) for one in tallies)  # in clusters
    return (told + CONTEXTS) / (told / _size(tallies, measured, rate) + CONTEXTS / _size(tallies, added, rate))


def _size(tallies: Sequence[Tally], sizes: Sequence[float], rate: float) -> float:
    """The effective size, where the tasks' means are of so many independent scores.

    The variance is that at the tasks' likeliest rates among those of this average (a score interval, as Miettinen and
    Nurminen's of 1985 for two rates): a task of three right answers may well be what an average below the seen one is
    due to, although its own answers do not vary. Since rates are fitted to the answers, it is made unbiased as a sample
    variance is; and it is at most that of the rates which vary most.
    """
    tasks, n, right = len(sizes), np.array(sizes), np.array([one.mean for one in tallies])
    if tasks == 1 or not 0 < rate < 1:
        return float(tasks**2 / (1 / n).sum())
    unit, rate = n / n.max(), min(max(rate, ENDS), 1 - ENDS)

    def likeliest(slope: NDArray[np.float64]) -> NDArray[np.float64]:  # where every log-likelihood has this slope
        twice = unit + slope
        root = np.sqrt(np.maximum(twice**2 - 4 * slope * unit * right, 0))
        return np.where(twice > 0, 2 * unit * right / (twice + root), (twice - root) / (2 * slope))

    def widest(slope: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(0.5 - slope * unit, 0, 1)

    with np.errstate(all="ignore"):  # of the branch that is not taken
        likely = _of_mean(rate, likeliest)
        wide = _of_mean(rate, widest) if unit.min() < 1 else np.full(tasks, rate)
        most = float((wide * (1 - wide) / n).sum())
        variance = float((likely * (1 - likely) / np.maximum(n - 1, n / 2)).sum())
    return tasks**2 * rate * (1 - rate) / min(most, max(variance, most / 1000))


def _of_mean(mean: float, rates: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> NDArray[np.float64]:
    """The rates of this mean: ``rates`` of [S, 1] slopes is [S, tasks], and falls with them."""
    low, high = -30.0, 30.0
    for _ in range(4):
        grid = np.linspace(low, high, 65)
        i = int((rates(np.sinh(grid[1:-1, None])).mean(1) > mean).sum())
        low, high = grid[i], grid[i + 1]
    return rates(np.sinh(np.array([[(low + high) / 2]])))[0]


def passing_probability(tallies: Mapping[int, Sequence[Tally]], threshold: float) -> dict[int, float]:
    """For each tested length, the probability that the average over tasks passes there and at every shorter one.

    At one length it is the confidence that the average is at or above the threshold: 97.5 % where the lower end of its
    interval is the threshold, a half where the average is. Lengths have samples of their own, so they multiply.

    Args:
        tallies: length -> the tasks' scores.
        threshold: accuracy that passes.
    """
    passing, found = 1.0, {}
    for length in sorted(tallies):
        passing *= 1 - _sure(threshold, tallies[length])
        found[length] = passing
    return found


def _mean(tallies: Sequence[Tally]) -> float:
    return sum(tally.mean for tally in tallies) / len(tallies)
