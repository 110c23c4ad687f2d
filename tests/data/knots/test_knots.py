"""Untie the Knots and chunk interleaving: what is put in can be taken out, and documents are whole again."""

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.common.errors import UserError
from ropewalk.data.knots.interleaving import Interleaving
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.untie_the_knots import UntieTheKnots

LENGTHS = st.lists(st.integers(0, 900), min_size=1, max_size=12)


def marks(lengths: list[int]) -> Marks:
    return Marks(lambda text: [ord(sign) for sign in text], len(lengths))


def restored(made, lengths: list[int]) -> None:
    """Without marks, pieces by document and place are the documents."""
    real = made.document < len(lengths)
    order = np.lexsort((made.start[real], made.document[real]))
    document, start, stop = (column[real][order] for column in (made.document, made.start, made.stop))
    for i, length in enumerate(lengths):
        own = document == i
        edges = [0, *stop[own].tolist()]
        assert start[own].tolist() == edges[:-1] and edges[-1] == length


@given(LENGTHS, st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), st.integers(0, 2))
def test_without_marks_the_documents_are_whole(lengths, share, in_order, seed) -> None:
    kept = marks(lengths)
    made = UntieTheKnots(share, 3, in_order).rows(np.array(lengths), 1024, 1, kept, seed) if sum(lengths) else None
    if made is None:
        return
    made.check(np.array([*lengths, *map(len, kept.ids)]))
    restored(made, lengths)
    assert made.sizes(1).max() <= 1024
    assert np.array_equal(made.loss, made.document < len(lengths))
    assert (share > 0) or not kept.ids
    again = marks(lengths)
    same = UntieTheKnots(share, 3, in_order).rows(np.array(lengths), 1024, 1, again, seed)
    assert again.texts == kept.texts and np.array_equal(same.start, made.start)


def test_both_sides_of_a_cut_bear_the_same_knot_and_the_end_tells_the_order() -> None:
    lengths = [400, 300, 200]
    kept = marks(lengths)
    made = UntieTheKnots(1.0, 3).rows(np.array(lengths), 4096, 0, kept, 0)
    assert made.rows == 1
    told = [kept.texts[i - 3] if i >= 3 else (int(i), int(a)) for i, a in zip(made.document, made.start, strict=True)]
    knots = Counter(one for one in told if isinstance(one, str) and "knot" in one)
    assert set(knots.values()) == {2} and len(knots) == 6
    before, after = {}, {}
    for i, one in enumerate(told):
        if isinstance(one, tuple):
            before[one], after[one] = told[i - 1], told[i + 1]
    for document in range(3):
        parts = sorted(one for one in before if one[0] == document)
        for left, right in pairwise(parts):
            assert after[left] == before[right] and "knot" in after[left]
        names = [re.fullmatch(r"\n<document (\w+), chunk (\w+)>\n", _head(told, one)) for one in parts]
        own = names[0][1]
        trace = next(one for one in told if isinstance(one, str) and one.startswith(f"\n<document {own} is"))
        assert trace == f"\n<document {own} is {', '.join(name[2] for name in names)}>\n"
        assert told.index(trace) > max(told.index(one) for one in parts)


def _head(told: list, chunk: tuple[int, int]) -> str:
    """The nearest mark before a chunk that names a document."""
    return next(one for one in reversed(told[: told.index(chunk)]) if isinstance(one, str) and ", chunk " in one)


def test_chunks_keep_their_order_if_they_are_told_to() -> None:
    lengths = [3000] * 3
    orders = set()
    for in_order in (True, False):
        made = UntieTheKnots(1.0, 4, in_order).rows(np.array(lengths), 16384, 0, marks(lengths), 1)
        starts = [made.start[made.document == i].tolist() for i in range(3)]
        orders.add(all(one == sorted(one) for one in starts))
        assert [int(made.document[i]) for i in np.flatnonzero(made.loss)] != sorted(made.document[made.loss].tolist())
    assert orders == {True, False}


def test_a_row_too_short_for_its_marks_is_refused() -> None:
    with pytest.raises(UserError, match="a row of 128 tokens is too short for 3 chunks, whose marks take"):
        UntieTheKnots(1.0, 3).rows(np.array([500]), 128, 0, marks([500]), 0)


@pytest.mark.parametrize("bad", [{"share": 1.5}, {"share": -0.1}, {"chunks": 1}])
def test_options_that_say_nothing_are_refused(bad: dict) -> None:
    with pytest.raises(UserError, match=next(iter(bad))):
        UntieTheKnots(**bad)


def test_the_oracle_of_interleaving() -> None:
    texts = ["AAaa", "BBbb", "CCCccc"]
    made = Interleaving(2).rows(np.array([4, 4, 6]), 14, 0, marks([4, 4, 6]), 0)
    parts = zip(made.document, made.start, made.stop, strict=True)
    assert "".join(texts[i][start:stop] for i, start, stop in parts) == "AABBCCCaabbccc"
    made = Interleaving(1).rows(np.array([4, 4, 6]), 14, 0, marks([4, 4, 6]), 0)
    assert made.document.tolist() == [0, 1, 2]


@given(LENGTHS, st.integers(1, 4), st.integers(0, 1))
def test_interleaving_keeps_every_token(lengths, chunks, begin) -> None:
    if not sum(lengths):
        return
    made = Interleaving(chunks).rows(np.array(lengths), 256, begin, marks(lengths), 0)
    made.check(np.array(lengths))
    restored(made, lengths)
    assert made.sizes(begin).max() <= 256
    assert not made.scope.any()
