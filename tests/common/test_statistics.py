from __future__ import annotations

import math

import numpy as np
import pytest

from ropewalk.common.statistics import (
    EffectiveLength,
    LengthScore,
    Tally,
    average,
    cluster_mean,
    clustered_wilson,
    design_effect,
    effective_length,
    intraclass_correlation,
    mcnemar,
    paired_bootstrap,
    passing_probability,
    student,
    wilson,
)

WILSON = {
    10: [(0.2, 0.057, 0.510), (0.5, 0.237, 0.763), (0.9, 0.596, 0.982), (1.0, 0.723, 1)],
    20: [(0.2, 0.081, 0.416), (0.5, 0.299, 0.701), (0.9, 0.699, 0.972), (1.0, 0.839, 1)],
    50: [(0.2, 0.112, 0.330), (0.5, 0.366, 0.634), (0.9, 0.786, 0.957), (1.0, 0.929, 1)],
    100: [(0.2, 0.133, 0.289), (0.5, 0.404, 0.596), (0.9, 0.826, 0.945), (1.0, 0.963, 1)],
    500: [(0.2, 0.167, 0.237), (0.5, 0.456, 0.544), (0.9, 0.871, 0.923), (1.0, 0.992, 1)],
}


@pytest.mark.parametrize(("n", "p", "low", "high"), [(n, *row) for n, rows in WILSON.items() for row in rows])
def test_wilson_table(n: int, p: float, low: float, high: float) -> None:
    assert wilson(round(p * n), n) == pytest.approx((low, high), abs=6e-4)


@pytest.mark.parametrize(("n", "needed"), [(10, 5), (20, 8), (50, 16), (100, 28)])
def test_successes_that_prove_a_fifth(n: int, needed: int) -> None:
    assert wilson(needed, n)[0] >= 0.2 > wilson(needed - 1, n)[0]


def test_ends_of_wilson_are_exact_and_mirror() -> None:
    assert wilson(0, 30)[0] == 0.0 and wilson(30, 30)[1] == 1.0
    assert wilson(3, 30) == pytest.approx(tuple(1 - bound for bound in reversed(wilson(27, 30))))
    for successes, n in [(1, 0), (3, 2), (-1, 5)]:
        with pytest.raises(ValueError, match="trials"):
            wilson(successes, n)


@pytest.mark.parametrize(
    ("df", "quantile", "error"), [(2, 4.303, 0.04), (3, 3.182, 0.01), (9, 2.262, 1e-3), (30, 2.042, 1e-3)]
)
def test_student(df: int, quantile: float, error: float) -> None:
    assert student(df) == pytest.approx(quantile, rel=error)


def test_mean_over_equal_documents_is_the_textbook_one() -> None:
    means = np.array([1.0, 2.0, 4.0, 5.0])
    found = cluster_mean(means * 7, 7)
    assert found.value == pytest.approx(3.0)
    assert found.se == pytest.approx(means.std(ddof=1) / 2)
    assert found.high - found.value == pytest.approx(3.182 * found.se, rel=0.01)
    assert found.n == 4


def test_mean_weighs_by_tokens() -> None:
    assert cluster_mean([10.0, 2.0], [10, 1]).value == pytest.approx(12 / 11)


def test_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        counts = rng.integers(50, 500, 12)
        effect = rng.normal(0, 0.3, 12)  # of a whole document: tokens are not independent
        sums = counts * (2.0 + effect) + rng.normal(0, np.sqrt(counts))
        found = cluster_mean(sums, counts)
        covered += found.low <= 2.0 <= found.high
    assert 0.90 <= covered / 500 <= 0.98


def test_one_document_has_no_interval() -> None:
    assert cluster_mean([6.0], [3]).low is None
    assert paired_bootstrap([6.0], [3.0], [3]).value == 1.0
    with pytest.raises(ValueError, match="at least one document"):
        cluster_mean([], [])


def test_paired_bootstrap_sees_what_unpaired_documents_hide() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(300, 60, 20)
    worse = base + rng.normal(2.0, 0.5, 20)
    found = paired_bootstrap(worse, base, 100, seed=3)
    assert found.value == pytest.approx((worse - base).mean() / 100)
    assert 0 < found.low < found.value < found.high
    assert found.se == pytest.approx((worse - base).std() / math.sqrt(20) / 100, rel=0.05)
    assert found == paired_bootstrap(worse, base, 100, seed=3) != paired_bootstrap(worse, base, 100, seed=4)


@pytest.mark.parametrize(
    ("a", "b", "p"), [(0, 0, 1.0), (5, 0, 2 / 32), (0, 5, 2 / 32), (8, 2, 112 / 1024), (3, 3, 1.0)]
)
def test_mcnemar(a: int, b: int, p: float) -> None:
    assert mcnemar(a, b) == pytest.approx(p)


def test_effective_length_stops_at_the_first_failure() -> None:
    scores = [
        LengthScore(4096, 1.0, 0.95, 1.0),
        LengthScore(1024, 0.95, 0.9, 0.99),
        LengthScore(2048, 0.8, 0.6, 0.9),
        LengthScore(512, 1.0, 0.95, 1.0),
    ]
    assert effective_length(scores, 0.85) == EffectiveLength(1024, 1024, 4096)
    assert effective_length(scores, 0.5) == EffectiveLength(4096, 4096, 4096)
    assert effective_length(scores, 0.92) == EffectiveLength(1024, 512, 1024)
    assert effective_length(scores[2:3], 0.95) == EffectiveLength(0, 0, 0)


def test_questions_about_one_context_count_less_where_they_agree() -> None:
    alike, apart = [[1.0] * 4, [0.0] * 4] * 5, [[1.0, 0.0, 1.0, 0.0]] * 10
    assert intraclass_correlation(alike) == 1.0 and design_effect(alike) == pytest.approx(4.0)
    assert clustered_wilson(alike) == pytest.approx(wilson(5, 10))
    assert intraclass_correlation(apart) == 0.0 and clustered_wilson(apart) == wilson(20, 40)
    assert design_effect([[1.0], [0.0]]) == 1.0 and design_effect([]) == 1.0


def test_intraclass_correlation_is_the_share_of_variance_between_clusters() -> None:
    rng = np.random.default_rng(0)
    clusters = (rng.normal(0, 1, (2000, 1)) + rng.normal(0, math.sqrt(3), (2000, 5))).tolist()
    assert intraclass_correlation(clusters) == pytest.approx(0.25, abs=0.02)
    assert design_effect(clusters) == pytest.approx(2.0, abs=0.1)


def test_interval_of_a_suite_average_is_that_of_its_formula() -> None:
    """RULER at n = 500 and 13 tasks: 0.85 points at p = 0.856."""
    found = average([Tally(428, 500)] * 13)
    assert found.value == pytest.approx(0.856) and found.n == 6500
    assert (found.high - found.low) / 2 == pytest.approx(0.0085, abs=0.0005)
    assert found.se == pytest.approx(math.sqrt(0.856 * 0.144 / 500 / 13), rel=0.05)
    assert average([Tally(10, 10), Tally(0, 10)]).value == 0.5


def test_probability_of_passing_falls_with_length_and_knows_small_samples() -> None:
    found = passing_probability({512: [Tally(50, 50)], 1024: [Tally(43, 50)], 2048: [Tally(49, 50)]}, 0.85)
    assert found[512] > 0.99 and 0.4 < found[1024] < 0.7
    assert found[2048] == pytest.approx(found[1024], abs=0.05), "the middle length decides"
    assert passing_probability({512: [Tally(5, 5)]}, 0.85)[512] < 0.9


def test_the_standard_error_of_an_average_knows_about_contexts() -> None:
    rng = np.random.default_rng(0)

    def evaluation() -> list[Tally]:
        right = rng.random((13, 50)) < 0.85
        alike = [np.repeat(row, 4) for row in right]  # four questions about a context, all answered alike
        return [Tally.of([list(map(float, row[i : i + 4])) for i in range(0, 200, 4)]) for row in alike]

    averages = [average(evaluation(), draws=400) for _ in range(200)]
    truth = np.std([one.value for one in averages])
    assert np.mean([one.se for one in averages]) == pytest.approx(truth, rel=0.15)
    assert truth == pytest.approx(np.sqrt(0.85 * 0.15 / 50 / 13), rel=0.15)
    assert average([Tally(170, 200)] * 13).se < 0.6 * truth, "as if questions about one context were independent"
