from itertools import pairwise, permutations

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.ordering import smooth_path as module
from ropewalk.data.ordering.smooth_path import _gains, smooth_path, turn


def products(points: np.ndarray) -> np.ndarray:
    return np.asarray(points, np.float64) @ np.asarray(points, np.float64).T


def turned(points: np.ndarray, path: list[int]) -> float:
    """The same sum, from the steps themselves."""
    steps = np.diff(np.asarray(points, np.float64)[path], axis=0)
    total = 0.0
    for a, b in pairwise(steps):
        total += np.arccos(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))
    return total


@pytest.mark.parametrize("seed", range(10))
def test_points_of_a_line_come_in_their_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    place, lengths = rng.permutation(12), rng.integers(1, 100, 12)
    points = np.outer(place + rng.uniform(-0.2, 0.2, 12), rng.standard_normal(5)).astype(np.float32)
    path = smooth_path(points, lengths)
    assert place[path].tolist() in (list(range(12)), list(range(12))[::-1])
    assert lengths[path[0]] <= lengths[path[-1]]


def test_points_of_a_circle_come_round() -> None:
    place = np.random.default_rng(0).permutation(16)
    angle = 2 * np.pi * place / 16
    points = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    lengths = np.arange(16) + 5
    path = smooth_path(points, lengths)
    assert set(np.diff(place[path]) % 16) in ({1}, {15})
    assert turn(path, products(points)) == pytest.approx(14 * 2 * np.pi / 16, abs=1e-5)


@pytest.mark.parametrize("seed", range(30))
def test_it_never_turns_more_than_the_order_that_was_given(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((int(rng.integers(1, 25)), 3)).astype(np.float32)
    given = list(range(len(points)))
    path = smooth_path(points, rng.integers(1, 9, len(points)))
    assert sorted(path.tolist()) == given
    assert turned(points, path.tolist()) <= turned(points, given) + 1e-6


def test_few_points_are_nearly_as_smooth_as_can_be() -> None:
    ratios = []
    for seed in range(8):
        points = np.random.default_rng(seed).standard_normal((6, 3)).astype(np.float32)
        best = min(turned(points, list(one)) for one in permutations(range(6)))
        ratios.append(turned(points, smooth_path(points, np.arange(6)).tolist()) / best)
    assert min(ratios) > 1 - 1e-6 and max(ratios) < 1.5 and np.mean(ratios) < 1.15


def test_what_an_exchange_gains_is_what_the_path_turns_less() -> None:
    points = np.random.default_rng(0).standard_normal((9, 3))
    all_products, path = products(points), np.random.default_rng(1).permutation(9)
    for i in range(8):
        last = np.arange(i + 1, 9)
        for j, gain in zip(last, _gains(path, i, last, all_products), strict=True):
            other = path.copy()
            other[i : j + 1] = other[i : j + 1][::-1]
            wanted = turned(points, path.tolist()) - turned(points, other.tolist())
            assert gain == pytest.approx(wanted, abs=1e-9)


def test_who_stands_still_turns_by_a_right_angle() -> None:
    points = np.array([[0.0, 0], [1, 0], [1, 0], [2, 0]])
    assert turn(np.arange(4), products(points)) == pytest.approx(np.pi)
    assert sorted(smooth_path(np.zeros((5, 3), np.float32), np.ones(5, int)).tolist()) == [0, 1, 2, 3, 4]


def test_too_many_are_refused(monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST", 4)
    with pytest.raises(UserError, match="5 texts, expected 4 at most"):
        smooth_path(np.ones((5, 2), np.float32), np.ones(5, int))
