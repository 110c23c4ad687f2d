"""A race finds whom a full comparison finds, reads less, and says what it costs in short texts."""

import math

import numpy as np
import pytest

from ropewalk.common.statistics import LARGEST
from ropewalk.fitting.race import Race, compared, followed
from ropewalk.fitting.scoring import Scoring
from ropewalk.fitting.searching import Searching
from ropewalk.methods.frequencies.abf import AdjustedBase
from ropewalk.methods.frequencies.none import Plain

TEXTS, PIECES = 6, 16


class Rows:
    """Losses drawn by text, and by method: how hard a piece is, how good a method is, and noise of its own."""

    whole = Scoring.whole

    def __init__(self, noise=0.05, tax=lambda quality: 0.0):
        self.rows, self.noise, self.tax, self.asked = range(TEXTS), noise, tax, []

    def far(self, method, row):
        self.asked.append((method.id, row))
        hard = np.random.default_rng([row]).normal(3, 1, PIECES)
        own = np.random.default_rng([row, round(1e6 * quality(method))]).normal(0, self.noise, PIECES)
        return hard + quality(method) + own

    def near(self, method):
        return np.full(TEXTS, 3.0 if method.name == "none" else 3 + self.tax(quality(method)))


def quality(method):
    return 0.0 if method.name == "none" else method.base / 1e6


def candidates(count=40, seed=0):
    return [AdjustedBase(base=float(base)) for base in np.random.default_rng(seed).uniform(5e4, 2e6, count)]


def rounds(methods, size=8, seen=None):
    for first in range(0, len(methods), size):
        losses = yield methods[first : first + size]
        if seen is not None:
            seen.append(losses)


def raced(rows, methods, **how):
    race = Race(rows, Plain(), **how)
    race.run(rounds(methods))
    return race


@pytest.mark.parametrize("seed", range(5))
def test_the_best_is_the_one_that_reading_everything_finds(seed):
    methods, quick, full = candidates(seed=seed), Rows(), Rows()
    first, second = raced(quick, methods), raced(full, methods, drop=False)
    assert first.best.method == second.best.method == min(methods, key=quality)
    assert len(full.asked) == len(methods) * TEXTS and len(quick.asked) < len(full.asked) / 3
    assert len(set(quick.asked)) == len(quick.asked), "no text is read twice"


def test_who_was_dropped_read_all_texts_in_order_up_to_one():
    rows = Rows()
    race = raced(rows, candidates())
    for name, standing in race.ran.items():
        read = [row for method, row in rows.asked if method == name]
        assert read == list(range(len(read))) and len(standing.far) == PIECES * len(read)
        assert standing.whole == (len(read) == TEXTS)
    assert not all(standing.whole for standing in race.ran.values())


def test_equals_are_not_dropped():
    race = raced(Rows(noise=1.0), [AdjustedBase(base=1e6 + i) for i in range(20)])
    assert sum(standing.whole for standing in race.ran.values()) > 10


def test_the_best_so_far_is_told_as_soon_as_it_is_known_and_is_the_one_that_is_found():
    told = []
    race = raced(Rows(), candidates(), tell=lambda rounds, ran, best: told.append((rounds, len(ran), best)))
    assert told[-1] == (race.rounds, len(race.ran), race.best) and race.rounds == 5
    whole = [one for one in race.ran.values() if one.whole]
    for _, _, best in told[:-1]:
        assert best is None or best in whole
    losses = [best.loss for *_, best in told if best]
    assert losses == sorted(losses, reverse=True)
    first = next(i for i, (*_, best) in enumerate(told) if best)
    assert told[first][0] == 0, "within a round, too"


def test_where_all_are_alike_one_text_is_enough():
    rows = Rows(noise=1e-4)
    race = raced(rows, [AdjustedBase(base=1e6 + i) for i in range(40)])
    assert len(rows.asked) < 50 and race.best.whole
    better = AdjustedBase(base=1e6 - 2e3)  # by two thousandths of a nat
    race.run(iter_once([better]))
    assert race.best.method == better


def iter_once(methods):
    yield methods


def test_a_search_is_told_losses_in_the_order_of_its_candidates_and_dropped_ones_by_difference():
    methods, seen = candidates(), []
    race = Race(Rows(), Plain())
    race.run(rounds([*methods, methods[0]], seen=seen))
    told = np.concatenate(seen)
    assert len(told) == len(methods) + 1
    truth = np.array([quality(method) for method in methods])
    assert np.corrcoef(told[:-1], truth)[0, 1] > 0.99, "whatever they read, they are told apart alike"


def test_the_front_and_the_tax():
    rows = Rows(noise=0.0, tax=lambda quality: 1 / (1 + 10 * quality))  # the better far away, the worse on short texts
    race = raced(rows, candidates(), drop=False)
    front = race.front()
    losses, taxes = [one.loss for one in front], [one.tax(race.near) for one in front]
    assert len(front) == 40 and losses == sorted(losses, reverse=True) and taxes == sorted(taxes)
    limit = np.expm1(taxes[17])
    for drop in (False, True):
        kept = raced(rows, candidates(), drop=drop, tax=float(limit) + 1e-9)
        assert kept.best.method == front[17].method, "though better ones, which pay more, were there"
        assert kept.least_tax == pytest.approx(min(taxes))
    none = raced(rows, candidates(), tax=0.0)
    assert none.best is None and not any(standing.whole for standing in none.ran.values())


def test_who_does_not_keep_the_tax_reads_no_long_text_and_comes_behind_all_who_do():
    rows, seen = Rows(tax=lambda quality: 0.2 * quality), []
    race = Race(rows, Plain(), tax=0.1)
    methods = candidates()
    race.run(rounds(methods, seen=seen))
    told = dict(zip((method.id for method in methods), np.concatenate(seen), strict=True))
    keeps = {method.id: 0.2 * quality(method) <= np.log(1.1) for method in methods}
    assert {name for name, _ in rows.asked} == {name for name, kept in keeps.items() if kept}
    assert max(told[name] for name in told if keeps[name]) < min(told[name] for name in told if not keeps[name])
    unpaid = [method for method in methods if not keeps[method.id]]
    assert sorted(unpaid, key=quality) == sorted(unpaid, key=lambda one: race._cost(race.ran[one.id]))


@pytest.mark.parametrize("worst", [2.0, 1e5, LARGEST * 1e6])
def test_whoever_ran_before_who_taxes_more_costs_more_and_a_point_without_a_method_the_most(worst):
    """``worst`` is how badly the first one that keeps the tax reads long texts, in millionths of a nat."""
    rows, seen = Rows(noise=0.0, tax=lambda quality: 0.0 if round(1e6 * quality) == worst else 10 * quality), []
    rows.far = lambda method, row: np.full(PIECES, min(quality(method), LARGEST))
    bad = [AdjustedBase(base=base) for base in (5e5, 4e5, 3e5, 2e5)]  # all over the tax
    legal = AdjustedBase(base=worst)

    def points():
        for some in ([bad[0], bad[2]], [legal, None], [bad[3], None], [bad[1]]):
            seen.append((yield some))

    Race(rows, Plain(), tax=0.1).run(followed(points(), lambda point: point))
    (first, third), (kept, none), (last, never), (second,) = seen
    assert kept < last < third < second < first < none == never


def test_one_whom_another_beats_in_both_is_not_on_the_front():
    rows = Rows(noise=0.0, tax=lambda quality: quality)
    front = raced(rows, candidates(), drop=False).front()
    assert [one.method for one in front] == [min(candidates(), key=quality)]


def test_two_methods_are_compared_by_document():
    ours, theirs = AdjustedBase(base=1e5), AdjustedBase(base=3e5)
    rows = Rows(noise=0.01)
    apart = [float((rows.far(ours, row) - rows.far(theirs, row)).mean()) for row in range(TEXTS)]
    each = compared(ours, theirs, rows, range(TEXTS))
    assert each.n == TEXTS and each.low < np.exp(-0.2) < each.high and each.high < 1
    assert each.value == pytest.approx(np.exp(np.mean(apart)))
    pairs = compared(ours, theirs, rows, [0, 0, 1, 1, 2, 2])
    assert pairs.n == 3 and pairs.value == pytest.approx(each.value), "pieces of one document count once"
    uneven = compared(ours, theirs, rows, [0, 0, 0, 0, 0, 1])
    assert uneven.value == pytest.approx(np.exp((np.mean(apart[:5]) + apart[5]) / 2))
    assert compared(ours, theirs, rows, [4] * TEXTS) == each, "of one document there is nothing else to count"


def test_who_lost_to_another_is_told_worse_than_the_best():
    class Misleading(Rows):  # the second reads the first text best of all but the third, and the others badly
        def far(self, method, row):
            value = {1e5: 5.0, 2e5: 1.0 if row == 0 else 5.0, 3e5: 0.9 if row == 0 else 1.1}[method.base]
            return np.full(PIECES, value) + np.random.default_rng([row, int(method.base)]).normal(0, 1e-3, PIECES)

    seen, one = [], [AdjustedBase(base=base) for base in (1e5, 2e5, 3e5)]
    Race(Misleading(), Plain()).run(rounds(one, seen=seen))
    assert int(np.argmin(seen[0])) == 2 and seen[0][1] > seen[0][2]


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_begin_at_their_share_and_all_find_the_same(workers):
    alone = raced(Rows(), candidates())
    for worker in range(workers):
        rows = Rows()
        race = raced(rows, candidates(), turn=(worker, workers))
        assert race.best.method == alone.best.method and race.ran.keys() == alone.ran.keys()
        first = [method.id for method in candidates()[:8]][worker * 8 // workers]
        assert rows.asked[0] == (first, 0)
        assert sorted(rows.asked) == sorted(raced(Rows(), candidates()).scoring.asked)


def test_a_front_is_widened_by_those_that_a_race_for_long_texts_drops():
    rows = Rows(tax=lambda quality: 0.5 / (1 + 10 * quality))  # the better far away, the worse on short texts
    race = raced(rows, candidates())
    best, before, thin = race.best, dict(race.ran), len(race.front())
    told, rounds_before = [], race.rounds
    race.tell = lambda *told_now: told.append((told_now[0], len(told_now[1]), told_now[2]))
    limits = []

    def cheaper(scoring, around, limit):
        limits.append(limit)
        return rounds([around, *candidates(seed=1), *candidates()])

    Searching()._widen(race, best, cheaper)
    assert limits == pytest.approx([math.expm1(share * best.tax(race.near)) for share in (2 / 3, 1 / 3)])
    front = race.front()
    taxes = [one.tax(race.near) / best.tax(race.near) for one in front]
    assert front[-1].method == best.method and len(front) > thin
    assert min(taxes) <= 1 / 3 < max(tax for tax in taxes if tax <= 2 / 3) < 1
    assert before.keys() <= race.ran.keys()
    assert all(race.ran[name].whole or not one.whole for name, one in before.items()), "what was read stays read"
    assert told[0][1] >= len(before) and told[-1][:2] == (race.rounds, len(race.ran)) and race.rounds > rounds_before
    assert {one for *_, one in told} == {best}
