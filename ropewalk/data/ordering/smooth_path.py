"""Demonstrations in an order that turns as little as possible from one to the next.

A proxy of our own for Curvilinear Demonstration Selection, whose formula is not public: points are ordered so that the
sum of the angles between consecutive steps is small.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Ints

MOST = 2048  # points, whose rounds take a minute or two of one core
ROUNDS = 20
GAIN = 1e-6  # radians, below which an exchange is none
STILL = 1e-12  # squared length of a step that is none

Reals = NDArray[np.float64]


def smooth_path(vectors: NDArray[np.float32], lengths: Ints) -> Ints:
    """int64 [n], every point once, with a total turn that is not above that of the order in which they are given.

    From the shortest to the nearest that is left, and so on; then segments are turned round as long as the path gets
    smoother (2-opt). Of both directions the one that begins shorter is taken.

    Args:
        vectors: float32 [n, e].
        lengths: int64 [n], of the texts; short ones are easy.

    Raises:
        UserError: if there are more than can be done in minutes.
    """
    require_few(len(vectors))
    points = np.asarray(vectors, np.float64)
    products = np.einsum("ie,je->ij", points, points)  # of one thread, so that cores do not decide the last digit
    given = np.arange(len(points))
    made = _smoother(_nearest_first(products, int(np.argmin(lengths))), products)
    if turn(made, products) > turn(given, products):
        made = _smoother(given, products)
    return made[::-1].copy() if lengths[made[-1]] < lengths[made[0]] else made


def require_few(texts: int) -> None:
    """Refuse more than can be done in minutes.

    Raises:
        UserError: if there are more.
    """
    if texts > MOST:
        raise UserError(f"smooth-path: {texts:,} texts, expected {MOST:,} at most", "Take icp, or fewer texts.")


def turn(path: Ints, products: Reals) -> float:
    """Sum of the angles between consecutive steps, in radians.

    Args:
        path: int64 [n].
        products: float64 [n, n], of all points with each other.
    """
    return float(_angle(path[:-2], path[1:-1], path[2:], products).sum())


def _angle(a: Ints, b: Ints, c: Ints, products: Reals) -> Reals:
    """By how much the step to ``c`` turns from that to ``b``; who stands still has no direction: a right angle."""
    along = products[b, c] - products[a, c] - products[b, b] + products[a, b]
    first = products[a, a] + products[b, b] - 2 * products[a, b]
    second = products[b, b] + products[c, c] - 2 * products[b, c]
    size = np.sqrt(np.maximum(first, 0) * np.maximum(second, 0))
    moved = (first > STILL) & (second > STILL)
    return np.arccos(np.clip(np.where(moved, along, 0) / np.where(moved, size, 1), -1, 1))


def _nearest_first(products: Reals, start: int) -> Ints:
    squares, left = np.diag(products), np.ones(len(products), bool)
    path = [start]
    for _ in range(len(products) - 1):
        left[path[-1]] = False
        path.append(int(np.argmin(np.where(left, squares - 2 * products[path[-1]], np.inf))))
    return np.array(path, np.int64)


def _smoother(path: Ints, products: Reals) -> Ints:
    """Turn round the best segment from each place on, until none is left or so many rounds are over."""
    for _ in range(ROUNDS):
        before = path.copy()
        for i in range(len(path) - 1):
            last = np.arange(i + 1, len(path))
            gain = _gains(path, i, last, products)
            if gain.max() > GAIN:
                j = int(last[np.argmax(gain)])
                path[i : j + 1] = path[i : j + 1][::-1]
        if (path == before).all():
            break
    return path


def _gains(path: Ints, i: int, last: Ints, products: Reals) -> Reals:
    """By how much the path turns less when the segment from ``i`` to each of ``last`` is turned round.

    Angles inside stay as they are: only those at its two edges change.
    """
    n, some = len(path), np.full_like(last, i)

    def angles(*places: Ints) -> Reals:
        there = (np.min(places, 0) >= 0) & (np.max(places, 0) < n)
        a, b, c = (path[np.clip(one, 0, n - 1)] for one in places)
        return np.where(there, _angle(a, b, c, products), 0)

    left, right = some - 1, last + 1
    was = np.zeros(n + 2)  # the angle at each place; none at the ends, and before and behind them
    was[1 : n - 1] = _angle(path[:-2], path[1:-1], path[2:], products)
    now = angles(left - 1, left, last) + angles(left, last, last - 1)
    now = now + angles(some + 1, some, right) + angles(some, right, right + 1)
    return was[left] + was[some] + was[last] + was[right] - now
