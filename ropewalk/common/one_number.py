"""Many scores in one number: the area under a curve of scores by length, and the harmonic mean over categories.

Their intervals are recovered from those of the parts (MOVER, Zou and Donner 2008, doi:10.1002/sim.3095): an end is the
extreme value in the ellipsoid whose half-axes reach from each part's value to that end of its interval. It needs no
variance, which is 0 where all answers are right or all are wrong. Parts have samples of their own. How often the
intervals hold is in docs/evaluation.md: less than 95 % of the time where nearly all answers of many parts are right.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.statistics import Mean

STEPS = 30  # towards the extreme value
NOTHING = 1e-12  # a score of 0, where something is divided by it


def area(scores: Mapping[int, Mean]) -> Mean:
    """The area under a curve of scores over the logarithm of length, as a share of the area below 1.

    Straight lines join the tested lengths, so that it is the score at a length drawn evenly from their logarithms.

    Args:
        scores: length -> a score with its interval.

    Raises:
        ValueError: if there are fewer than two lengths, or a score has no interval.
    """
    if len(scores) < 2:
        raise ValueError("an area needs two lengths at least")
    lengths = sorted(scores)
    at = np.log(np.array(lengths, np.float64))
    half = np.diff(at) / 2
    weights = (np.r_[half, 0] + np.r_[0, half]) / (at[-1] - at[0])
    parts = [scores[length] for length in lengths]
    value, low, high = _ends(parts)
    middle = float(weights @ value)
    below, above = (float(np.linalg.norm(weights * width)) for width in (value - low, high - value))
    return Mean(middle, None, max(0.0, middle - below), min(1.0, middle + above), sum(one.n for one in parts))


def harmonic_mean(scores: Sequence[Mean]) -> Mean:
    """The harmonic mean of scores: near the lowest, and 0 where one is.

    Raises:
        ValueError: if there are no scores, or one has no interval.
    """
    if not scores:
        raise ValueError("a mean needs one score at least")
    value, low, high = _ends(scores)
    middle = float(_harmonic(value))
    return Mean(middle, None, _extreme(value, low), _extreme(value, high), sum(one.n for one in scores))


def _ends(scores: Sequence[Mean]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Values, lower and upper ends."""
    if any(one.low is None or one.high is None for one in scores):
        raise ValueError("a score has no interval")
    value, low, high = (np.array([getattr(one, end) for one in scores]) for end in ("value", "low", "high"))
    return value, low, high


def _harmonic(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., parts] to [...]; scores of 0 give 0."""
    return np.where((scores > 0).all(-1), scores.shape[-1] / (1 / np.maximum(scores, NOTHING)).sum(-1), 0.0)


def _extreme(value: NDArray[np.float64], end: NDArray[np.float64]) -> float:
    """The harmonic mean furthest from that of ``value`` in the ellipsoid towards ``end``.

    It is concave: upwards one ascent finds the greatest; downwards several, from where each part alone moves and where
    all do, the least that there are.
    """
    parts, width = len(value), end - value
    direction = np.vstack([np.eye(parts), np.full(parts, parts**-0.5)])  # [starts, parts]
    best = _harmonic(value + direction * width)
    sign = 1.0 if (width >= 0).all() else -1.0
    for _ in range(STEPS):
        scores = np.maximum(value + direction * width, NOTHING)
        slope = np.abs(width) * (1 / scores**2) / (1 / scores**2).sum(-1, keepdims=True)
        size = np.linalg.norm(slope, axis=-1, keepdims=True)
        direction = direction + np.divide(slope, size, out=np.zeros_like(slope), where=size > 0)
        direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
        best = sign * np.maximum(sign * best, sign * _harmonic(value + direction * width))
    found = float((sign * best).max() * sign)
    return found if math.isfinite(found) else float(_harmonic(value))
