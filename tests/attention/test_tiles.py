"""Tiles cover what each query sees, exactly once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.attention.tiles import tiles


@st.composite
def bounds(draw):
    """Rising bounds [lo, hi) of some queries, made of stretches that step evenly and of jumps."""
    lo, hi, lows, highs = draw(st.integers(0, 5)), draw(st.integers(0, 8)), [], []
    for _ in range(draw(st.integers(1, 6))):
        step_lo, step_hi = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        for _ in range(draw(st.integers(1, 12))):
            lows.append(lo)
            highs.append(hi)
            lo, hi = lo + step_lo, hi + step_hi
    return np.array(lows), np.array(highs)


def drawn(found, queries, keys):
    """How often each pair is covered; every tile is checked on the way."""
    times = np.zeros((queries, keys), dtype=int)
    for tile in found:
        rows, columns = tile.q1 - tile.q0, tile.k1 - tile.k0
        i, j = np.arange(rows)[:, None], np.arange(columns)[None]
        if tile.kind == "full":
            covered = np.ones((rows, columns), dtype=bool)
        elif tile.kind == "ragged":
            lo, hi = tile.bounds[:, :, None]
            covered = (j + tile.k0 >= lo) & (j + tile.k0 < hi)
        else:
            assert rows == columns
            covered = j <= i if tile.kind == "causal" else j >= i
        assert rows > 0 and columns > 0 and covered.any(1).all()
        times[tile.q0 : tile.q1, tile.k0 : tile.k1] += covered
    return times


def check(lo, hi):
    found, keys = tiles(lo, hi), max(1, int(hi.max()), int(lo.max()))
    j = np.arange(keys)
    wanted = (j >= lo[:, None]) & (j < hi[:, None])
    assert np.array_equal(drawn(found, len(lo), keys), wanted)
    return found


@given(bounds())
def test_tiles_cover_every_visible_pair_once_and_no_other(lo_hi):
    check(*lo_hi)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60))
def test_so_they_do_for_random_steps(steps):
    lo, hi = np.cumsum(np.array(steps), 0).T
    check(lo, hi)


@pytest.mark.parametrize("sees", [[0, 1, 1, 0, 1], [0], [1, 0], [0, 0, 0]])
def test_queries_that_see_nothing_have_no_tile(sees):
    check(np.arange(len(sees)), np.arange(len(sees)) + np.array(sees))


def test_a_jump_at_every_query_needs_a_mask_and_few_tiles():
    lo = np.cumsum(np.tile([0, 3, 1, 5], 150))
    found = check(lo, lo + 7)
    assert {tile.kind for tile in found} == {"ragged"} and len(found) == -(-len(lo) // 256)


N = 1000
m = np.arange(N)
SHAPES = {  # bounds, and the most tiles that may be needed
    "causal": ((0 * m, m + 1), 1),
    "one new token": ((np.array([0]), np.array([N])), 1),
    "a chunk of a prompt": ((0 * m[:100], m[:100] + 901), 2),
    "far keys of a window": ((0 * m, np.maximum(0, m - 63)), 1),
    "a window": ((np.maximum(0, m - 63), m + 1), 2 + 3 * -(-N // 64)),
    "chunks": ((m // 100 * 100, m + 1), 10),
    "the chunk before": ((np.maximum(0, m // 100 - 1) * 100, m // 100 * 100), 9),
    "older chunks": ((0 * m, np.maximum(0, m // 100 - 1) * 100), 8),
    "sinks": ((0 * m, np.clip(m - 63, 0, 4)), 2),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_the_shapes_of_our_methods_need_few_tiles_and_no_mask(shape):
    (lo, hi), most = SHAPES[shape]
    found = check(lo, hi)
    assert len(found) <= most and all(tile.kind != "ragged" for tile in found)
