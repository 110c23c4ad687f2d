"""How often 95 % intervals hold the truth; ``pytest -n 0 -rP tests/common/test_coverage.py`` prints it."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from ropewalk.common.statistics import (
    Tally,
    average,
    cluster_mean,
    midp,
    passing_probability,
)

RUNS = 1000
UNEQUAL = {
    "from 50 % to 100 %": lambda tasks: np.linspace(0.5, 1, tasks),
    "60 % and 99 %": lambda tasks: np.where(np.arange(tasks) % 2, 0.99, 0.6),
    "one of 30 %, else 99 %": lambda tasks: np.r_[0.3, np.full(tasks - 1, 0.99)],
    "one of 50 %, else 100 %": lambda tasks: np.r_[0.5, np.ones(tasks - 1)],
}


def distinct(outcomes: NDArray[np.int64]) -> list[tuple[list[int], float]]:
    """[runs, parts] in any order of the parts: each outcome that occurred, and its share of the runs."""
    found, times = np.unique(np.sort(outcomes, axis=-1), axis=0, return_counts=True)
    return [(row.tolist(), count / len(outcomes)) for row, count in zip(found, times, strict=True)]


def below(tallies: list[Tally], truth: float) -> float:
    """Confidence that the average is at least the truth: the interval holds it from 2.5 % to 97.5 %."""
    return passing_probability({1: tallies}, truth)[1]


def holds(tallies: list[Tally], truth: float) -> bool:
    return 0.025 <= below(tallies, truth) <= 0.975


@pytest.mark.parametrize("n", [1, 3, 5, 10, 20, 50, 200])
def test_one_score(n: int) -> None:
    rates = np.linspace(0.005, 0.995, 199)
    found = []
    for p in rates:
        chances = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        found.append(sum(chance for k, chance in enumerate(chances) if midp(k, n)[0] <= p <= midp(k, n)[1]))
    middle = [one for one, p in zip(found, rates, strict=True) if n * min(p, 1 - p) >= 5]
    print(
        f"{n} samples: {min(found):.3f} at least, {np.mean(found):.3f} on average, {max(middle, default=1):.3f} at most"
    )
    assert min(found) > 0.915 and np.mean(found) > 0.948
    assert not middle or max(middle) < 0.98


@pytest.mark.parametrize("tasks", [2, 4, 13])
@pytest.mark.parametrize("n", [3, 5, 20])
@pytest.mark.parametrize("p", [0.02, 0.5, 0.85, 0.95, 0.98, *UNEQUAL])
def test_average_over_tasks(tasks: int, n: int, p: float | str) -> None:
    rates = UNEQUAL[p](tasks) if isinstance(p, str) else np.full(tasks, p)
    outcomes = np.random.default_rng(0).binomial(n, rates, (RUNS // 2, tasks))
    found = sum(share for row, share in distinct(outcomes) if holds([Tally(k, n) for k in row], rates.mean()))
    wrong = n * float((rates * (1 - rates)).sum())
    print(f"{tasks} tasks, {n} samples, {p}: {found:.3f}")
    assert found > 0.91
    assert found < 0.985 or wrong < 5


def held(sizes: list[int], rates: list[float], runs: int) -> float:
    """The share of runs of tasks of these sizes whose interval holds the average."""
    outcomes = np.random.default_rng(0).binomial(sizes, rates, (runs, len(sizes)))
    rows, times = np.unique(outcomes, axis=0, return_counts=True)
    truth = float(np.mean(rates))
    right = [holds([Tally(k, n) for k, n in zip(row, sizes, strict=True)], truth) for row in rows.tolist()]
    return float(right @ times / runs)


@pytest.mark.parametrize(
    ("sizes", "rates"),
    [
        ([2] + [100] * 5, [0.9] * 6),
        ([3] + [200] * 3, [0.5] + [0.98] * 3),
        ([3, 500], [0.7, 0.9]),
        ([3, 500], [0.95, 0.9]),
        ([4] * 4 + [100] * 9, [0.5] * 4 + [0.99] * 9),
        ([5, 10, 20, 50, 100, 200], [0.9] * 6),
        ([5] * 5 + [50] * 8, [0.98] * 13),
        ([1] * 6 + [50] * 6, [0.5] * 6 + [0.98] * 6),
    ],
)
def test_average_over_tasks_of_unequal_sizes(sizes: list[int], rates: list[float]) -> None:
    found = held(sizes, rates, 500)
    print(f"{sizes} samples, {rates}: {found:.3f}")
    assert found > 0.925


SIZES = {
    "one of 3": lambda tasks: [3] + [100] * (tasks - 1),
    "one of 10": lambda tasks: [10] + [300] * (tasks - 1),
    "a third of 5": lambda tasks: [5 if i % 3 == 0 else 60 for i in range(tasks)],
    "one of 500": lambda tasks: [500] + [10] * (tasks - 1),
    "doubling": lambda tasks: [round(4 * 100 ** (i / (tasks - 1))) for i in range(tasks)],
}


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [2, 4, 8, 13])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("small", [0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("large", [0.5, 0.8, 0.9, 0.98])
def test_unequal_sizes_over_a_grid(tasks: int, sizes: str, small: float, large: float) -> None:
    """Small tasks have one rate, large ones the other."""
    n = SIZES[sizes](tasks)
    rates = [small if one <= np.median(n) and one < max(n) else large for one in n]
    found = held(n, rates, RUNS)
    print(f"{tasks} tasks, {sizes}, small {small}, large {large}: {found:.3f}")
    assert found > 0.91
    assert found < 0.985 or min(one * p * (1 - p) for one, p in zip(n, rates, strict=True)) < 2


@pytest.mark.parametrize(("contexts", "questions"), [(5, 4), (11, 5), (20, 4), (50, 4)])
@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("p", [0.5, 0.8, 0.9, 0.95])
def test_questions_about_few_contexts(contexts: int, questions: int, correlation: float, p: float) -> None:
    rng = np.random.default_rng(0)
    outcomes = rng.binomial(questions, alike(rng, p, correlation, (RUNS, contexts)))
    found = sum(share for row, share in distinct(outcomes) if holds([answered(row, questions)], p))
    print(f"{contexts} contexts x {questions}, correlation {correlation}, {p}: {found:.3f}")
    assert found > (0.92 if correlation == 0.9 else 0.93)
    assert found < 0.99 or correlation < 0.5 or contexts * (1 - p) < 5


@pytest.mark.slow
@pytest.mark.parametrize(("contexts", "questions"), [(2, 30), (4, 20), (5, 10), (11, 5), (20, 10), (30, 3), (50, 4)])
@pytest.mark.parametrize("correlation", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("p", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95])
def test_contexts_over_a_grid(contexts: int, questions: int, correlation: float, p: float) -> None:
    outcomes = np.random.default_rng(1).binomial(
        questions, alike(np.random.default_rng(0), p, correlation, (RUNS, contexts))
    )
    found = sum(share for row, share in distinct(outcomes) if holds([answered(row, questions)], p))
    print(f"{contexts} contexts x {questions}, correlation {correlation}, {p}: {found:.3f}")
    assert found > (0.91 if contexts > 4 else 0.87)  # four equal ones say 87.5 % of the time what four tosses say


@pytest.mark.parametrize("p", [0.5, 0.85, 0.95])
def test_average_over_tasks_with_contexts(p: float) -> None:
    rng = np.random.default_rng(0)
    outcomes = rng.binomial(5, alike(rng, p, 0.5, (500, 13, 11)))
    found = np.mean([holds([answered(row.tolist(), 5) for row in one], p) for one in outcomes])
    print(f"13 tasks, 11 contexts x 5, correlation 0.5, {p}: {found:.3f}")
    assert 0.93 < found < 0.98


LOSSES: dict[str, tuple[Callable[..., NDArray[np.float64]], float]] = {
    "normal": (lambda rng, size: rng.normal(0, 1, size), 0.0),
    "Student's of 3": (lambda rng, size: rng.standard_t(3, size), 0.0),
    "exponential": (lambda rng, size: rng.exponential(1, size), 1.0),
    "log-normal of 0.5": (lambda rng, size: rng.lognormal(0, 0.5, size), math.exp(0.125)),
    "log-normal of 1": (lambda rng, size: rng.lognormal(0, 1, size), math.exp(0.5)),
}


@pytest.mark.parametrize("documents", [3, 5, 8, 12, 24])
@pytest.mark.parametrize("losses", LOSSES)
def test_mean_over_few_documents(documents: int, losses: str) -> None:
    draw, truth = LOSSES[losses]
    sums = draw(np.random.default_rng(0), (RUNS, documents))
    means = [cluster_mean(one, 1) for one in sums]
    found = np.mean([one.low <= truth <= one.high for one in means])
    print(f"{documents} documents, {losses}: {found:.3f}")
    assert {3: 0.88, 5: 0.92}.get(documents, 0.93) < found if losses == "log-normal of 1" else 0.92 < found < 0.985
    assert all(one.low < one.value < one.high for one in means)


@pytest.mark.parametrize(
    "documents", [pytest.param(3, marks=pytest.mark.slow), 8, pytest.param(24, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("losses", LOSSES)
@pytest.mark.parametrize("longest", [1, 20])
def test_mean_over_documents_of_unequal_lengths(documents: int, losses: str, longest: int) -> None:
    """Of 200 to 2,000 tokens, and one of them so many times longer."""
    rng = np.random.default_rng(0)
    draw, truth = LOSSES[losses]
    means, counts = draw(rng, (RUNS // 2, documents)), rng.uniform(200, 2000, (RUNS // 2, documents))
    counts[:, 0] *= longest
    found = np.mean([one.low <= truth <= one.high for one in map(cluster_mean, means * counts, counts)])
    print(f"{documents} documents, one {longest} times longer, {losses}: {found:.3f}")
    assert found > (0.88 if losses == "log-normal of 1" else 0.92)
    assert found < 0.995 or longest > 1


@pytest.mark.parametrize(("tasks", "n"), [(1, 200), (13, 20)])
def test_probability_of_passing_at_the_threshold_is_uniform(tasks: int, n: int) -> None:
    """What a probability has to be: an average at the threshold passes with 10 % at most in a tenth of all runs."""
    outcomes = distinct(np.random.default_rng(0).binomial(n, 0.85, (RUNS, tasks)))
    found = [(below([Tally(k, n) for k in row], 0.85), share) for row, share in outcomes]
    for level in (0.1, 0.25, 0.5, 0.75, 0.9):
        assert sum(share for one, share in found if one <= level) == pytest.approx(level, abs=0.05)


@pytest.mark.parametrize("unequal", [False, True])
def test_interval_of_an_average_is_where_confidence_says(unequal: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        sizes = (
            rng.integers(1, 60, rng.integers(1, 14)) if unequal else np.full(rng.integers(1, 14), rng.integers(1, 60))
        )
        tallies = [Tally(float(rng.binomial(n, rng.random() ** 0.2)), int(n)) for n in sizes]
        found = average(tallies)
        assert found.low <= found.value <= found.high and found.se > 0
        assert found.low == 0 or below(tallies, found.low) == pytest.approx(0.975, abs=1e-3)
        assert found.high == 1 or below(tallies, found.high) == pytest.approx(0.025, abs=1e-3)
        sure = [below(tallies, rate) for rate in np.linspace(0.001, 0.999, 41)]
        assert all(later <= earlier + 1e-3 for earlier, later in pairwise(sure)), "so that there is one of each"


def alike(rng: np.random.Generator, p: float, correlation: float, size: tuple[int, ...]) -> NDArray[np.float64]:
    """The rate of each context where questions about one have this intraclass correlation."""
    if correlation == 0:
        return np.full(size, p)
    pairs = 1 / correlation - 1
    return rng.beta(p * pairs, (1 - p) * pairs, size)


def answered(right: list[int], questions: int) -> Tally:
    """So many right answers about each context."""
    return Tally.of([[1.0] * k + [0.0] * (questions - k) for k in right])
