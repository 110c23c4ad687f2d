from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from ropewalk.common.statistics import (
    EffectiveLength,
    LengthScore,
    Mean,
    Tally,
    average,
    beta_cdf,
    cluster_mean,
    confidence,
    effective_length,
    effective_size,
    intraclass_correlation,
    mcnemar,
    midp,
    passing_probability,
    student,
)

# Clopper and Pearson's limits at 2.5 % are where one of the two halves of mid-P's confidence is; tables of Student's t.
EXACT = [(10, 20, 0.272, 0.728), (17, 20, 0.621, 0.968), (45, 50, 0.782, 0.967)]


@pytest.mark.parametrize(("successes", "n", "low", "high"), EXACT)
def test_beta_gives_the_limits_of_clopper_and_pearson(successes: int, n: int, low: float, high: float) -> None:
    assert beta_cdf(low, successes, n - successes + 1) == pytest.approx(0.025, abs=1e-3)
    assert beta_cdf(high, successes + 1, n - successes) == pytest.approx(0.975, abs=1e-3)


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (2, 5), (17, 20), (430, 500)])
@pytest.mark.parametrize("rate", [0.02, 0.3, 0.5, 0.86, 0.97])
def test_confidence_is_that_of_binomial_sums(rate: float, successes: int, n: int) -> None:
    chances = [math.comb(n, k) * rate**k * (1 - rate) ** (n - k) for k in range(n + 1)]
    above = sum(chances[successes + 1 :]) + chances[successes] / 2
    assert confidence(rate, successes, n) == pytest.approx(above, rel=1e-9, abs=1e-12)


def test_beta_over_its_range() -> None:
    assert beta_cdf(0.3, 1, 1) == pytest.approx(0.3) and beta_cdf(0.3, 3, 1) == pytest.approx(0.3**3)
    assert beta_cdf(0.25, 0.5, 0.5) == pytest.approx(1 / 3)
    assert beta_cdf(0.9, 9000.5, 1000.5) + beta_cdf(0.1, 1000.5, 9000.5) == pytest.approx(1)
    assert (beta_cdf(0.0, 2, 3), beta_cdf(1.0, 2, 3)) == (0, 1)


def test_ends_of_midp_are_exact_and_mirror() -> None:
    assert midp(0, 30)[0] == 0.0 and midp(30, 30)[1] == 1.0
    assert midp(30, 30)[0] == pytest.approx(0.05 ** (1 / 30))
    assert midp(3, 30) == pytest.approx(tuple(1 - bound for bound in reversed(midp(27, 30))))
    for successes, n in [(1, 0), (3, 2), (-1, 5)]:
        with pytest.raises(ValueError, match="trials"):
            midp(successes, n)


@pytest.mark.parametrize(
    ("df", "quantile"), [(1, 12.7062), (2, 4.30265), (3, 3.18245), (9, 2.26216), (30, 2.04227), (10**6, 1.95997)]
)
def test_student(df: int, quantile: float) -> None:
    assert student(df) == pytest.approx(quantile, rel=2e-6)


def test_mean_over_equal_documents_is_the_textbook_one() -> None:
    means = np.array([1.0, 2.0, 4.0, 5.0])
    found = cluster_mean(means * 7, 7)
    assert found.value == pytest.approx(3.0)
    assert found.se == pytest.approx(means.std(ddof=1) / 2)
    assert found.high - found.value == pytest.approx(found.value - found.low), "nothing is skewed"
    assert student(3) * found.se < found.high - found.value < 1.7 * student(3) * found.se
    assert found.n == 4
    assert cluster_mean([1.0, 2.0], 1).high == pytest.approx(1.5 + student(1) * 0.5)


def test_mean_weighs_by_tokens() -> None:
    assert cluster_mean([10.0, 2.0], [10, 1]).value == pytest.approx(12 / 11)


def test_a_document_that_outweighs_the_others_leaves_as_little_known_as_its_weight_says() -> None:
    means, weights = np.array([2.0, 2.5, 3.0, 3.5, 4.0]), np.array([20.0, 1, 1, 1, 1])
    found, alone = cluster_mean(means * weights, weights), cluster_mean(means, 1)
    share = weights / weights.sum()
    assert found.se == pytest.approx(means.std(ddof=1) * math.sqrt(share @ share))
    assert found.high - found.low > 1.8 * (alone.high - alone.low)
    assert cluster_mean([*(means[1:] * 100), 9.0], [100] * 4 + [1]).se < 0.4, "a document of one token says little"
    assert cluster_mean([1.0, 2.0, 0.0], [1, 1, 0]) == cluster_mean([1.0, 2.0], [1, 1])


def test_interval_leans_to_the_side_of_an_outlier() -> None:
    found, mirrored = cluster_mean([1.0, 2.0, 1.5, 1.2, 9.0], 1), cluster_mean([-1.0, -2.0, -1.5, -1.2, -9.0], 1)
    assert found.value - found.low == pytest.approx(student(4) * found.se)
    assert found.high - found.value > 1.5 * student(4) * found.se
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    assert cluster_mean([2.0, 2.0, 2.0], 1) == Mean(2.0, 0.0, 2.0, 2.0, 3)


def test_one_document_has_no_interval() -> None:
    assert cluster_mean([6.0], [3]).low is None
    with pytest.raises(ValueError, match="at least one document"):
        cluster_mean([], [])


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
    alike, apart = [[1.0] * 4, [0.0] * 4] * 5, [[1.0, 0.0, 1.0, 0.0]] * 100
    sizes = [effective_size([Tally.of(one)], 0.5) for one in (alike * 50, apart, alike, [[1.0] * 4] * 10)]
    assert (intraclass_correlation(alike), intraclass_correlation(apart)) == (1, 0)
    assert sizes[0] == pytest.approx(500, rel=0.01) and sizes[1] == pytest.approx(400, rel=0.1)
    assert 10 < sizes[2] < 12, "few contexts tell little"
    assert sizes[3] == pytest.approx(40 / 3.4), "without a wrong answer: correlation 4/5"
    assert Tally.of([[1.0], [0.0]]) == Tally(1, 2)


@pytest.mark.parametrize(("contexts", "questions"), [(3, 5), (11, 5), (50, 4)])
def test_a_wrong_answer_never_makes_more_sure(contexts: int, questions: int) -> None:
    lows = []
    for wrong in range(contexts):
        scores = [[1.0] * (questions - 1) + [float(i >= wrong)] for i in range(contexts)]
        lows.append(average([Tally.of(scores)]).low)
    assert all(later < earlier for earlier, later in pairwise(lows))


def test_intraclass_correlation_is_the_share_of_variance_between_clusters() -> None:
    rng = np.random.default_rng(0)
    clusters = (rng.normal(0, 1, (2000, 1)) + rng.normal(0, math.sqrt(3), (2000, 5))).tolist()
    assert intraclass_correlation(clusters) == pytest.approx(0.25, abs=0.02)
    assert Tally.of(clusters).effect == pytest.approx(2.0, abs=0.1)
    uneven = [cluster[: 1 + i % 5] for i, cluster in enumerate(clusters)]
    assert intraclass_correlation(uneven) == pytest.approx(0.25, abs=0.04)


def test_interval_of_a_suite_average_is_that_of_its_formula() -> None:
    """RULER at n = 500 and 13 tasks: 0.85 points at p = 0.856."""
    found = average([Tally(428, 500)] * 13)
    assert found.value == pytest.approx(0.856) and found.n == 6500
    assert (found.high - found.low) / 2 == pytest.approx(0.0085, abs=0.0005)
    assert found.se == pytest.approx(math.sqrt(0.856 * 0.144 / 500 / 13), rel=0.01)
    assert average([Tally(10, 10), Tally(0, 10)]).value == 0.5


def test_an_average_is_inside_its_interval_and_one_task_is_itself() -> None:
    right, wrong = average([Tally(20, 20)] * 13), average([Tally(0, 20)] * 13)
    assert (right.low, right.value, right.high) == (pytest.approx(0.05 ** (1 / 260)), 1, 1) and right.se > 0
    assert (wrong.low, wrong.value, wrong.high) == (0, 0, pytest.approx(1 - right.low))
    one = average([Tally(27, 30)])
    assert (one.low, one.high) == pytest.approx(midp(27, 30))
    equal, unequal = average([Tally(150, 200)] * 2), average([Tally(200, 200), Tally(100, 200)])
    assert unequal.se < 0.9 * equal.se, "what is always right does not vary"


def test_a_task_of_few_answers_leaves_as_much_open_as_they_do() -> None:
    """Three right answers may be of a rate of 37 % (0.05 ** (1/3)), whatever hundreds of others say."""
    many, few = average([Tally(196, 200)] * 4), average([Tally(3, 3)] + [Tally(196, 200)] * 3)
    assert many.value - many.low < 0.012
    assert few.low < (0.37 + 3 * 0.98) / 4 + 0.03 and few.high < 0.996
    assert average([Tally(50, 100), Tally(200, 200)]).se == pytest.approx(0.025, rel=0.1), "and many leave little"
    assert effective_size([Tally(5, 10), Tally(7, 10)], 0.6) == pytest.approx(20), "tasks alike are one"
    assert effective_size([Tally(1, 1), Tally(100, 100)], 1.0) == pytest.approx(4 / 1.01)


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

    runs = [evaluation() for _ in range(200)]
    truth = np.std([np.mean([one.mean for one in run]) for run in runs])
    assert np.mean([average(run).se for run in runs[:10]]) == pytest.approx(truth, rel=0.15)
    assert truth == pytest.approx(np.sqrt(0.85 * 0.15 / 50 / 13), rel=0.15)
    assert average([Tally(170, 200)] * 13).se < 0.6 * truth, "as if questions about one context were independent"


@pytest.mark.parametrize("wrong", [1, 2, 5])
@pytest.mark.parametrize("cluster", [1.0, 2.0, 5.0, 20.0])
@pytest.mark.parametrize("flip", [False, True])
def test_tasks_of_which_one_has_all_right_have_an_interval(wrong, cluster, flip):
    """The upper end lies so near to 1 that rates of tasks could not be told apart, and their variance was 0."""
    totals = (20.0, 20.0 - wrong)
    tallies = [
        Tally(20 - one if flip else one, 20, 1.0, size) for one, size in zip(totals, (1.0, cluster), strict=True)
    ]
    found = average(tallies)
    low, high = (1 - found.high, 1 - found.low) if flip else (found.low, found.high)
    assert 0.5 < low < 1 - wrong / 40 < high <= 1
    assert effective_size(tallies, 1 - 1e-12) == pytest.approx(effective_size(tallies, 1 - 1e-5), rel=0.05)
