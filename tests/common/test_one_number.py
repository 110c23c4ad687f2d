"""Areas and harmonic means: by hand, by an optimiser, and how often their intervals hold the truth."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from ropewalk.common.one_number import area, harmonic_mean
from ropewalk.common.statistics import Mean, midp

RUNS = 200


@cache
def share(right: int, n: int = 20) -> Mean:
    return Mean(right / n, None, *midp(right, n), n)


@cache
def of_any_order(right: tuple[int, ...], n: int) -> Mean:
    return harmonic_mean([share(k, n) for k in right])


def test_an_area_by_hand() -> None:
    """Over 1k, 2k, 8k, on a log scale, the first stretch is a third: (0.9 + 0.8) / 2 / 3 + (0.8 + 0.2) / 2 * 2 / 3."""
    found = area({8192: share(4), 1024: share(18), 2048: share(16)})
    assert found.value == pytest.approx(0.85 / 3 + 0.5 * 2 / 3) and found.n == 60
    ends = [
        (end - share(k).value) / 6 * w for k, w in ((18, 1), (16, 3), (4, 2)) for end in (share(k).low, share(k).high)
    ]
    assert found.low == pytest.approx(found.value - np.linalg.norm(ends[::2]))
    assert found.high == pytest.approx(found.value + np.linalg.norm(ends[1::2]))
    flat = area({512: share(20), 1024: share(20)})
    assert flat.value == flat.high == 1 and 0.9 < flat.low < 1
    with pytest.raises(ValueError, match="two lengths"):
        area({512: share(3)})


@pytest.mark.parametrize(
    ("right", "value"), [((10, 20), 2 / 3), ((0, 20), 0), ((0, 0, 20), 0), ((20, 20, 20), 1), ((2, 18, 18), 27 / 110)]
)
def test_a_harmonic_mean_and_its_ends_are_the_extremes_in_the_ellipsoid(right: tuple[int, ...], value: float) -> None:
    """The ends against the best of many random directions in the unit ball."""
    parts = [share(one) for one in right]
    found = harmonic_mean(parts)
    assert found.value == pytest.approx(value) and found.low <= found.value <= found.high
    directions = np.abs(np.random.default_rng(0).normal(size=(40_000, len(parts))))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    middle = np.array([one.value for one in parts])
    for end, best in (("low", np.min), ("high", np.max)):
        scores = middle + directions * (np.array([getattr(one, end) for one in parts]) - middle)
        means = np.where((scores > 0).all(1), len(parts) / (1 / np.maximum(scores, 1e-12)).sum(1), 0)
        assert getattr(found, end) == pytest.approx(best(means), abs=2e-3)
        assert (found.low <= best(means) + 1e-9) if end == "low" else (found.high >= best(means) - 1e-9)


def test_what_has_no_interval_is_refused() -> None:
    one = Mean(0.5, None, None, None, 1)
    for ask in (lambda: harmonic_mean([one, one]), lambda: area({1: one, 2: one}), lambda: harmonic_mean([])):
        with pytest.raises(ValueError, match=r"interval|one score"):
            ask()


def held_by_intervals(rates: tuple[float, ...], n: int, runs: int) -> tuple[float, float]:
    """The shares of simulated evaluations whose harmonic mean, and whose area, hold the truth."""
    lengths = [2**i for i in range(10, 10 + len(rates))]
    harmonic = len(rates) / sum(1 / rate for rate in rates)
    under = float(np.interp(np.linspace(0, len(rates) - 1, 6001), range(len(rates)), rates).mean())
    outcomes = np.random.default_rng(0).binomial(n, rates, (runs, len(rates))).tolist()
    curves = [area(dict(zip(lengths, (share(k, n) for k in row), strict=True))) for row in outcomes]
    means = [of_any_order(tuple(sorted(row)), n) for row in outcomes]
    ours, theirs = (
        sum(one.low - 1e-6 <= truth <= one.high + 1e-6 for one in some) / runs
        for some, truth in ((means, harmonic), (curves, under))
    )
    return ours, theirs


@pytest.mark.parametrize(
    ("rates", "n", "least"),
    [
        ((0.9, 0.9, 0.9), 20, 0.9),
        ((0.3, 0.6, 0.9, 0.99), 20, 0.9),
        ((0.05, 0.9, 0.9, 0.9), 20, 0.9),
        ((0.99,) * 6, 20, 0.86),
    ],
)
def test_their_intervals_hold_the_truth(rates: tuple[float, ...], n: int, least: float) -> None:
    """Simulated evaluations; docs/evaluation.md has those of the grid below."""
    held = held_by_intervals(rates, n, RUNS)
    print(rates, held)
    assert min(held) >= least


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 20, 50])
@pytest.mark.parametrize(
    "rates",
    [
        (0.9,) * 3, (0.95,) * 8, (0.99,) * 8, (0.3, 0.6, 0.9, 0.99), (0.05, 0.9, 0.9, 0.9), (0.02, 0.05, 0.9),
        (0.05,) * 4, (0.5,) * 5, (0.005, 0.9, 0.9), tuple(np.linspace(0.98, 0.2, 8)), (0.02,) * 13, (0.5,) * 13,
    ],
)  # fmt: skip
def test_intervals_over_a_grid(rates: tuple[float, ...], n: int) -> None:
    harmonic, area_ = held_by_intervals(rates, n, 400)
    print(f"{rates}, {n} samples: harmonic mean {harmonic:.3f}, area {area_:.3f}")
    assert harmonic > (0.85 if n > 5 else 0.77) and area_ > (0.9 if n > 5 else 0.87)
