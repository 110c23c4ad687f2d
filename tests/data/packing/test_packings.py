"""Concatenation, decomposition, and what is common to all ways to pack."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.common.errors import UserError
from ropewalk.data.counts import Counts
from ropewalk.data.knots.marks import Marks
from ropewalk.data.packing.concatenation import concatenation
from ropewalk.data.packing.decomposition import decomposition
from ropewalk.data.packing.packings import PACKINGS, packing

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=30)


def read(made, row: int) -> list[tuple[int, int]]:
    """Document and place of every token of a row."""
    some = range(made.firsts[row], made.firsts[row + 1])
    return [(int(made.document[i]), t) for i in some for t in range(made.start[i], made.stop[i])]


@given(LENGTHS)
def test_concatenation_is_the_stream_cut_where_a_row_is_full(lengths: list[int]) -> None:
    stream = [(document, t) for document, n in enumerate(lengths) for t in range(n)]
    made = concatenation(np.array(lengths), 16)
    made.check(np.array(lengths))
    assert made.rows == len(stream) // 16
    assert [one for row in range(made.rows) for one in read(made, row)] == stream[: made.rows * 16]
    assert not made.scope.any()


def test_decomposition_follows_the_laws_of_paper_and_code() -> None:
    made = decomposition(np.array([10000]), 8192)
    assert (made.stop - made.start).tolist() == [8192, 1024, 512, 256]
    made = decomposition(np.array([10000, 1000, 257, 256]), 8192, more=1)
    assert (made.stop - made.start).tolist() == [8193, 1025, 513, 257, 513, 257, 257]
    assert made.document.tolist() == [0, 0, 0, 0, 1, 1, 2]


@given(LENGTHS, st.integers(0, 3))
def test_pieces_of_decomposition_are_powers_of_two_and_follow_each_other(lengths: list[int], begin: int) -> None:
    made = decomposition(np.array(lengths), 32, begin, least=4)
    made.check(np.array(lengths))
    assert set(made.sizes(begin).tolist()) <= {4, 8, 16, 32}
    for document, length in enumerate(lengths):
        own = made.document == document
        start, stop = made.start[own], made.stop[own]
        assert np.array_equal(start[1:], stop[:-1]) and (not len(start) or start[0] == 0)
        rest = length - (int(stop[-1]) if len(stop) else 0)
        assert rest + begin * bool(len(stop)) < 4 or length < 4


@pytest.mark.parametrize(("length", "least"), [(48, 4), (32, 6), (4, 8)])
def test_lengths_that_are_no_powers_of_two_are_refused(length: int, least: int) -> None:
    with pytest.raises(UserError, match="decomposition"):
        decomposition(np.array([100]), length, least=least)


@pytest.mark.parametrize("name", PACKINGS)
def test_rows_come_in_an_order_of_the_seed(name: str) -> None:
    lengths = np.random.default_rng(0).integers(1, 3000, 40)
    marks = Marks(lambda text: [0], len(lengths))
    first, again, other = (packing(name).rows(lengths, 1024, 1, marks, seed) for seed in (0, 0, 1))
    assert not marks.ids
    assert np.array_equal(first.document, again.document)
    assert sorted(read(first, row) for row in range(first.rows)) == sorted(
        read(other, row) for row in range(other.rows)
    )
    assert [read(first, row) for row in range(first.rows)] != [read(other, row) for row in range(other.rows)]
    counts = Counts.of(first, lengths, len(lengths), 1024, 1, padded=name != "decompose")
    assert (counts.crossing == 0) == PACKINGS[name].apart
    assert counts.tokens + counts.padding == (first.sizes(1).sum() if name == "decompose" else 1024 * first.rows)


def test_only_concatenation_cuts_in_vain() -> None:
    lengths = np.random.default_rng(0).integers(1, 3000, 40)
    marks = Marks(lambda text: [0], len(lengths))
    in_vain = {
        name: Counts.of(one.rows(lengths, 1024, 0, marks, 0), lengths, 40, 1024, 0).cut_in_vain
        for name, one in PACKINGS.items()
    }
    assert in_vain["best-fit"] == 0 < in_vain["concat"]


def test_an_unknown_packing_offers_the_nearest() -> None:
    with pytest.raises(UserError, match=r"no packing 'bestfit'.*best-fit"):
        packing("bestfit")
