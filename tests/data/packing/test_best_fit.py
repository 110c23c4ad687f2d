"""Best-fit packing against the algorithm written down plainly, and the card's numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.common.errors import UserError
from ropewalk.data.packing.best_fit import best_fit, bins


def plainly(sizes: list[int], room: int) -> list[int]:
    """The bin of each item, one after the other: the fullest with room enough, of equal ones the first to get so."""
    rooms: list[int] = []
    since: list[tuple[int, int]] = []  # when a bin got its room; bins that did together stand in the order of their age
    placed = []
    for clock, size in enumerate(sizes):
        fitting = [i for i, left in enumerate(rooms) if left >= size]
        if fitting:
            chosen = min(fitting, key=lambda i: (rooms[i], since[i]))
        else:
            chosen = len(rooms)
            rooms.append(room)
            since.append((clock, 0))
        rooms[chosen] -= size
        since[chosen] = (clock, chosen)
        placed.append(chosen)
    return placed


def rows_of(arrangement) -> list[list[int]]:
    sizes = (arrangement.stop - arrangement.start).tolist()
    return [sizes[a:b] for a, b in zip(arrangement.firsts, arrangement.firsts[1:], strict=False)]


def test_the_oracle_of_the_card() -> None:
    made = best_fit(np.array([5, 11, 3, 8, 2, 6, 7, 18]), 10)
    assert sorted(map(sorted, rows_of(made))) == sorted(map(sorted, [[10], [10], [8, 2], [8, 1], [7, 3], [6], [5]]))
    lengths = np.minimum(np.floor(np.random.default_rng(0).lognormal(6.5, 1.2, 5000)) + 1, 20000).astype(np.int64)
    made = best_fit(lengths, 4096)
    assert (int(lengths.sum()), made.rows) == (6_663_781, 1628)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_bins_are_filled_as_the_plain_algorithm_fills_them(sizes: list[int]) -> None:
    falling = sorted(sizes, reverse=True)
    found, plain = bins(np.array(falling), 12), np.array(plainly(falling, 12))
    left = [sorted(np.bincount(one, falling).astype(int).tolist()) for one in (found, plain)]
    assert left[0] == left[1]
    assert left[0][-1] <= 12


@given(st.lists(st.integers(0, 60), min_size=1, max_size=30), st.integers(0, 3))
def test_every_token_is_in_one_row_and_only_what_does_not_fit_is_cut(lengths: list[int], begin: int) -> None:
    made = best_fit(np.array(lengths), 16, begin)
    made.check(np.array(lengths))
    seen = [[0] * n for n in lengths]
    for document, start, stop in zip(made.document, made.start, made.stop, strict=True):
        for i in range(start, stop):
            seen[document][i] += 1
    assert all(n == 1 for one in seen for n in one)
    assert made.rows == 0 or made.sizes(begin).max() <= 16
    pieces = np.bincount(made.document, minlength=len(lengths))
    assert all(n == 1 for n, length in zip(pieces, lengths, strict=True) if 0 < length <= 16)
    assert np.array_equal(made.begun, made.start > 0)


def test_a_row_without_room_is_refused() -> None:
    with pytest.raises(UserError, match="rows of 2 tokens, where texts begin with 2: expected 3"):
        best_fit(np.array([5]), 2, 2)
