"""Every entry against numbers of its paper or code, computed by other means."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise
from math import comb

import numpy as np
import pytest

from ropewalk import CREAM, E2LLM, EndPrompt, EndPromptPoSE, PoSE, RandomizedPositions, Segmented, UserError
from ropewalk.training.positions.endprompt import with_cue
from tests.training.positions.scripted import Scripted


def drawn(made, tokens, window, target, *draws):
    """Index, position and weight as lists, and the bounds of the draws."""
    rng = Scripted(*draws)
    found = made.pick(tokens, window, target, rng)
    assert not rng.draws
    return found.index.tolist(), found.position.tolist(), found.weight.tolist(), rng.bounds


def test_pose():
    index, position, weight, bounds = drawn(PoSE(), 20, 8, 32, 3, 7, 17)  # the second chunk ends at r2 = 8 + 7 = 15
    assert index == [0, 1, 2, 10, 11, 12, 13, 14] and position == [0, 1, 2, 20, 21, 22, 23, 24]
    assert bounds == [(1, 4), (0, 12), (0, 24)] and weight == [0.0] + [1.0] * 7


def test_pose_without_jumps_is_plain():
    index, position, _, _ = drawn(PoSE(), 20, 8, 32, 3, 0, 0)
    assert index == position == list(range(8))


def test_pose_takes_the_first_windows_of_a_text():
    assert drawn(PoSE(within=2), 1000, 8, 32, 1, 8, 0)[3] == [(1, 4), (0, 8), (0, 24)]


def test_pose_in_three_chunks_draws_jumps_that_rise():
    index, position, _, bounds = drawn(PoSE(chunks=3), 20, 9, 32, 2, 4, 5, 6, 10, 23)
    assert bounds == [(1, 3), (1, 4), (0, 11), (5, 11), (0, 23), (10, 23)]
    assert index == [0, 1, 7, 8, 9, 10, 12, 13, 14] and position == [0, 1, 12, 13, 14, 15, 29, 30, 31]


def test_how_often_pose_meets_the_longer_half_of_distances():
    window, target, far = 2048, 16384, 8192

    def largest(u):
        return drawn(PoSE(), window, window, target, 1, 0, u)[1][-1]

    (_, _, (low, high)) = drawn(PoSE(), window, window, target, 1, 0, 0)[3]
    first = next(u for u in range(6000, high) if largest(u) >= far)
    assert low == 0 and (high - first + 1) / (high + 1) == pytest.approx(0.571389, abs=1e-6)


def test_how_many_pairs_meet_across_the_jump_of_pose():
    window, share = 2048, []
    (low, high), *_ = drawn(PoSE(), window, window, 16384, 1, 0, 5)[3]
    for first in range(low, high + 1):
        jump = int((np.diff(drawn(PoSE(), window, window, 16384, first, 0, 5)[1]) > 1).nonzero()[0][0]) + 1
        share.append(jump * (window - jump) / (window * (window - 1) / 2))
    assert np.mean(share) == pytest.approx(0.333740, abs=1e-6)


RELATIVITY, CONTINUITY = 0.4, 0.6  # coins


@pytest.mark.parametrize(("coin", "head", "ranges"), [
    (RELATIVITY, 1365, {2: (2730, 2730), 9: (7507, 17066), 16: (12285, 31402)}),
    (CONTINUITY, 32, {2: (4063, 4063), 9: (18171, 18399), 16: (32280, 32735)}),
])  # fmt: skip
@pytest.mark.parametrize(("u", "alpha"), [(0.001, 2), (0.5, 9), (0.999, 16)])
def test_cream(coin, head, ranges, u, alpha):
    low, high = ranges[alpha]
    for last in (low, high):
        index, position, _, bounds = drawn(CREAM(official=True), 40000, 4096, 32768, coin, u, last)
        assert bounds == [(low, high)]
        middle = list(range(last - (4096 - 2 * head) + 1, last + 1))
        assert position == [*range(head), *middle, *range(32768 - head, 32768)]
        assert index == [*range(head), *middle, *range(40000 - head, 40000)]


def test_cream_takes_the_middle_from_before_the_tail_where_the_text_is_short():
    index, position, _, _ = drawn(CREAM(official=True), 4096, 4096, 32768, RELATIVITY, 0.5, 10000)
    assert index == list(range(4096)) and position[1365:1367] == [8635, 8636]


def test_the_quantiles_of_creams_code():
    found = [CREAM(official=True).alpha(u, 8) for u in (0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999)]
    assert found == [2, 5, 6, 9, 11, 12, 16]


def masses(made, s, n=100_000):
    count = Counter(made.alpha((i + 0.5) / n, s) for i in range(n))
    return {alpha: share / n for alpha, share in count.items()}


def test_the_distribution_of_creams_code():
    found = masses(CREAM(official=True), 8)
    expected = {2: 0.02275, 5: 0.06745, 8: 0.13056, 9: 0.13056, 12: 0.06745, 15: 0.01294, 16: 0.00982}
    assert {alpha: found[alpha] for alpha in expected} == pytest.approx(expected, abs=2e-5)
    assert sum(alpha * mass for alpha, mass in found.items()) == pytest.approx(8.5098, abs=1e-4)


@pytest.mark.parametrize("s", [2, 4, 8, 16])
def test_the_exact_gaussian_of_cream_is_symmetric_about_its_mean(s):
    found = masses(CREAM(), s)
    places = range(2, 2 * s + 1)
    assert set(found) <= set(places)
    assert [found.get(a, 0) for a in places] == pytest.approx([found.get(a, 0) for a in reversed(places)], abs=2e-5)
    assert sum(alpha * mass for alpha, mass in found.items()) == pytest.approx(1 + s, abs=1e-4)


def test_cream_refuses_what_it_cannot_lay_out():
    for target, window, what in ((250, 64, "a multiple"), (1024, 64, "leave no middle")):
        with pytest.raises(UserError, match=what):
            CREAM().pick(100, window, target, np.random.default_rng(0))


def test_endprompt():
    index, position, weight, _ = drawn(EndPrompt(cue=(7, 8, 9), cue_weight=0.5), 6, 9, 32)
    assert index == list(range(9)) and position == [0, 1, 2, 3, 4, 5, 29, 30, 31]
    assert weight == [0, 1, 1, 1, 1, 1, 0.5, 0.5, 0.5]
    assert distances(position) == {*range(6), *range(24, 32)}


def distances(position):
    return {int(a - b) for a in position for b in position if a >= b}


def test_the_distances_that_endprompt_never_trains():
    position = np.array(drawn(EndPrompt(cue=tuple(range(20))), 9000, 8192, 65536)[1])
    met = np.unique(np.concatenate([position[:8172], (position[8172:, None] - position[:8172]).ravel()]))
    assert np.array_equal(met, np.r_[0:8172, 57345:65536]) and 1 - len(met) / 65536 == pytest.approx(0.7503, abs=1e-4)


def test_endprompt_anywhere():
    _, position, _, bounds = drawn(EndPrompt(cue=(7, 8, 9), anywhere=True), 6, 9, 32, 11)
    assert bounds == [(6, 29)] and position[6:] == [11, 12, 13]


def test_a_cue_of_no_tokens_would_be_plain_training_and_is_refused():
    found = with_cue(np.arange(6), np.arange(6), 6, 32, (), 1.0)
    assert found.index.tolist() == found.position.tolist() == list(range(6)) and found.weight.tolist() == [0, *[1] * 5]
    for cue in ((), [], None, "The end.", (1, -2)):
        for kind in (EndPrompt, EndPromptPoSE):
            with pytest.raises(UserError, match="expected the token ids"):
                kind(cue=cue)


def test_a_list_is_a_cue():
    assert EndPrompt(cue=[3, 4]) == EndPrompt(cue=(3, 4))


def test_endprompt_and_pose():
    index, position, _, bounds = drawn(EndPromptPoSE(cue=(7, 8)), 20, 8, 32, 3, 4, 24)
    assert bounds == [(1, 3), (0, 14), (0, 24)]
    assert index == [0, 1, 2, 7, 8, 9, 20, 21] and position == [0, 1, 2, 27, 28, 29, 30, 31]


@pytest.mark.parametrize(("scale", "largest"), [(1, 0), (2, 4096), (8, 28672)])
def test_the_offsets_of_e2(scale, largest):
    bounds = drawn(E2LLM(), 4096, 4096, 65536, scale, 0)[3]
    assert bounds == [(1, 16), (0, largest)]


def test_e2():
    position = drawn(E2LLM(scale=4), 16, 16, 64, 5)[1]
    assert [position[m] for m in (0, 3, 4, 10)] == [0, 0.75, 2.25, 3.75]
    assert drawn(E2LLM(scale=1), 16, 16, 64, 0)[1] == list(range(16))
    assert drawn(E2LLM(scale=4, sinks=0), 16, 16, 64, 5)[1][:3] == [1.25, 1.5, 1.75]


def test_the_samples_of_a_step_share_the_scale_of_e2():
    rng = np.random.default_rng(0)
    scales = set()
    for _ in range(50):
        step = E2LLM().for_step(64, 256, rng)
        for _ in range(5):
            assert np.diff(step.pick(64, 64, 256, rng).position)[-1] == pytest.approx(1 / step.scale)
        scales.add(step.scale)
    assert scales == {1, 2, 3, 4}


def test_e2_squeezes_into_a_window_larger_than_its_samples():
    bounds = drawn(E2LLM(trained=128), 64, 64, 256, 2, 0)[3]
    assert bounds == [(1, 2), (0, 192)]
    with pytest.raises(UserError, match="window <= trained <= target"):
        E2LLM(trained=32).pick(64, 64, 256, np.random.default_rng(0))
    with pytest.raises(UserError, match="scale is 5, expected at most 4"):
        E2LLM(scale=5).pick(64, 64, 256, np.random.default_rng(0))


def test_randomised_positions():
    index, position, _, bounds = drawn(RandomizedPositions(), 4, 4, 16, [12, 0, 15, 6])
    assert position == [0, 6, 12, 15] and index == [0, 1, 2, 3] and bounds == [(16, 4)]
    assert drawn(RandomizedPositions(), 4, 4, 4, [1, 0, 3, 2])[1] == [0, 1, 2, 3]


def test_the_gaps_of_randomised_positions():
    rng = np.random.default_rng(0)
    gaps = [np.diff(RandomizedPositions().pick(64, 64, 256, rng).position).mean() for _ in range(2000)]
    assert np.mean(gaps) == pytest.approx(257 / 65, abs=0.01)


def test_segments():
    index, position, weight, bounds = drawn(Segmented(), 32, 8, 32, [0, 27, 5, 6])
    assert comb(*bounds[0]) == 20475
    assert index == position == [0, 1, 6, 7, 8, 9, 30, 31]  # starts c + (j - 1)(2 - 1): 0, 6, 8, 30
    assert weight == [0, 1, 0, 1, 1, 1, 0, 1]


def test_every_layout_of_segments_is_as_likely():
    window, target, segments = 6, 12, 3
    layouts = Counter(
        tuple(drawn(Segmented(segments=segments), target, window, target, chosen)[1][::2])
        for chosen in combinations(range(target - window + segments), segments)
    )
    starts = combinations(range(target - 1), segments)
    apart = {found for found in starts if all(b - a >= 2 for a, b in pairwise(found))}
    assert set(layouts) == apart and set(layouts.values()) == {1}


def test_a_prefix_of_single_tokens():
    index, position, weight, bounds = drawn(Segmented(form="prefix"), 32, 8, 32, 20, [1, 2, 3, 7, 11, 19])
    assert bounds == [(6, 30), (20, 6)]
    assert index == position == [1, 2, 3, 7, 11, 19, 20, 21] and weight == [0] * 6 + [1, 1]


def test_segments_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="a multiple of its 3 segments"):
        Segmented(segments=3).pick(256, 64, 256, np.random.default_rng(0))
    with pytest.raises(UserError, match="expected one of chunk, prefix"):
        Segmented(form="suffix")
