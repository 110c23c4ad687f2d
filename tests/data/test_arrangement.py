"""Pieces of documents: rows in any order, shuffled, joined, counted, refused."""

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.arrangement import Arrangement
from ropewalk.data.counts import Counts


def made(*pieces: tuple[int, int, int, int], apart: bool = False) -> Arrangement:
    columns = (np.array(column, np.int64) for column in zip(*pieces, strict=True))
    return Arrangement.of(*columns, apart=apart)


def test_rows_are_numbered_without_gaps_and_pieces_keep_their_order() -> None:
    one = made((7, 0, 0, 3), (2, 1, 0, 4), (7, 2, 1, 2), apart=True)
    assert one.row.tolist() == [0, 1, 1]
    assert one.document.tolist() == [1, 0, 2]
    assert one.scope.tolist() == [0, 0, 1]
    assert one.firsts.tolist() == [0, 1, 3]
    assert one.sizes(0).tolist() == [4, 4]


def test_shuffled_rows_are_the_same_rows() -> None:
    one = made(*((row, row, 0, row + 1) for row in range(50)))
    other = one.shuffled(3)
    assert sorted(other.document.tolist()) == one.document.tolist() != other.document.tolist()
    assert np.array_equal(other.stop, other.document + 1)


def test_joined_rows_stand_behind_each_other() -> None:
    one = Arrangement.joined([made((0, 0, 0, 2), (1, 1, 0, 2)), made((0, 2, 0, 1))])
    assert one.row.tolist() == [0, 1, 2] and one.document.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"document": [0, 5]}, "document"),
        ({"document": [0, -1]}, "document"),
        ({"start": [3, 0]}, "start"),
        ({"start": [-1, 0]}, "start"),
        ({"stop": [2, 9]}, "stop"),
        ({"row": [0, 2]}, "row"),
        ({"row": [1, 0]}, "row"),
        ({"scope": [0, -2]}, "scope"),
    ],
)
def test_what_cannot_be_is_refused_by_column(change: dict, name: str) -> None:
    good = made((0, 0, 0, 2), (0, 1, 0, 4))
    good.check(np.array([2, 4]))
    bad = Arrangement(**vars(good) | {key: np.array(value) for key, value in change.items()})
    with pytest.raises(UserError, match=f"has a {name} that cannot be"):
        bad.check(np.array([2, 4]))


def test_counts_of_a_row_by_hand() -> None:
    # row 0: document 0 (4 of its 6 tokens), document 1 (3 of 3), document 0 again (2); row 1: document 2 (2 of 5)
    one = made((0, 0, 0, 4), (0, 1, 0, 3), (0, 0, 4, 6), (1, 2, 0, 2))
    counts = Counts.of(one, np.array([6, 3, 5]), 3, 10, 0)
    assert counts == Counts(
        documents=3,
        unused=0,
        rows=2,
        tokens=11,
        learnt=11,
        marks=0,
        padding=9,
        dropped=3,
        cut=1,
        cut_in_vain=1,
        crossing=5,
    )
