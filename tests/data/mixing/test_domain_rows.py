"""Rows of one domain: who is packed, cut, joined and left out, and which rows are read how often."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.common.errors import UserError
from ropewalk.data.mixing.domain_rows import drawn, packed, repositories

LENGTHS = st.lists(st.integers(2, 60), min_size=1, max_size=30)


def read(made, row: int) -> list[tuple[int, int, int]]:
    """Scope, document and place of every token of a row."""
    some = range(made.firsts[row], made.firsts[row + 1])
    return [(int(made.scope[i]), int(made.document[i]), t) for i in some for t in range(made.start[i], made.stop[i])]


@given(LENGTHS, st.integers(0, 1))
def test_with_the_least_of_a_row_every_row_is_a_stretch_of_one_document(lengths: list[int], begin: int) -> None:
    made = packed(np.array(lengths), 16, begin, least=16)
    made.check(np.array(lengths))
    assert made.rows == sum((n - begin) // (16 - begin) if n >= 16 else 0 for n in lengths)
    for row in range(made.rows):
        tokens = read(made, row)
        (document,) = {one[1] for one in tokens}
        places = [one[2] for one in tokens]
        assert places == list(range(places[0], places[0] + len(places))) and lengths[document] >= 16
    assert set(made.sizes(begin).tolist()) <= {16}


@given(LENGTHS, st.integers(1, 16))
def test_what_is_shorter_than_the_least_is_in_no_row_and_all_else_is(lengths: list[int], least: int) -> None:
    made = packed(np.array(lengths), 16, 1, least)
    made.check(np.array(lengths))
    sizes = made.stop - made.start + made.begun
    assert not len(sizes) or sizes.min() >= min(least, 16)
    inside = np.bincount(made.document, made.stop - made.start, len(lengths))
    for n, there in zip(lengths, inside, strict=True):
        rest = (n - 16) % 15 if n > 16 else 0
        assert there == (0 if n < least else n - rest if rest and rest + 1 < least else n)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(2, 30)), min_size=1, max_size=12), st.integers(0, 1))
def test_joined_files_are_read_as_one_text_would_be(groups: list[tuple[int, int]], begin: int) -> None:
    """The same tokens, row by row, as when the files are joined before: those behind the first without their begin."""
    chance = np.random.default_rng(len(groups))
    sizes = [[int(chance.integers(begin + 1, n + 2)) for _ in range(files)] for files, n in groups]
    lengths = np.array([n for some in sizes for n in some])
    unit = np.repeat(np.arange(len(sizes)), [len(some) for some in sizes])
    units, numbers = [], iter(range(len(lengths)))
    for some in sizes:
        whole: list[tuple[int, int]] = []
        for n in some:
            document = next(numbers)
            whole += [(document, t) for t in range(begin if whole else 0, n)]
        units.append(whole)
    made = packed(lengths, 16, begin, joined=unit)
    expected = packed(np.array([len(one) for one in units]), 16, begin)
    made.check(lengths)
    assert made.rows == expected.rows and np.array_equal(made.sizes(begin), expected.sizes(begin))
    for row in range(made.rows):
        assert read(made, row) == [(scope, *units[number][t]) for scope, number, t in read(expected, row)]


@pytest.mark.parametrize(("size", "share"), [(2**11, 0.03125), (2**13, 0.125), (2**16, 1.0)])
def test_pairs_that_see_each_other_in_64k_are_those_of_prolong(size: int, share: float) -> None:
    """Of all pairs of a row: 3.13 % with documents of 2K, 12.5 % with 8K, all with 64K."""
    made = packed(np.full(2 * 2**16 // size, size), 2**16, 1)
    tokens = np.bincount(made.row * made.rows * 1000 + made.scope, made.stop - made.start)
    assert (tokens.astype(float) ** 2).sum() / made.rows / 2**32 == share


def test_repositories_are_folders_below_the_source() -> None:
    names = ["/x/texts/a/one.py", "/x/texts/a/sub/two.py", "/x/texts/b/one.py", "/x/texts/c.py", "/x/texts/d.py"]
    assert repositories(names, "/x/texts").tolist() == [0, 0, 1, 2, 3]
    assert repositories(names, str(Path("/x") / "texts" / ".")).tolist() == [0, 0, 1, 2, 3]
    with pytest.raises(UserError, match="no file below"):
        repositories(["argparse"], "stdlib")


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.floats(0.05, 3.0), st.integers(0, 5))
def test_rows_are_drawn_as_near_as_whole_ones_come_and_evenly(sizes: list[int], times: float, seed: int) -> None:
    some = np.array(sizes)
    tokens = times * some.sum()
    rows = drawn(some, tokens, 3, np.random.default_rng(seed))
    assert abs(some[rows].sum() - tokens) <= some.max() / 2 + 1e-9 * tokens
    counts = np.bincount(rows, minlength=len(some))
    assert counts.max() - counts.min() <= 1, "none is read again before all are"
    assert np.array_equal(rows, drawn(some, tokens, 3, np.random.default_rng(seed)))


def test_no_row_is_read_more_often_than_is_allowed() -> None:
    assert len(drawn(np.array([10, 10]), 1000, 2, np.random.default_rng(0))) == 4
