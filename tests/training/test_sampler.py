"""Rows are a function of seed and step: for any number of processes, and every token of an epoch once."""

from collections import Counter

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.training.positions.entries import POSITIONS, positions
from ropewalk.training.sampler import Sampler
from ropewalk.training.training_batch import Batch

BEGIN = np.array([0])


def documents(*lengths: int) -> list[np.ndarray]:
    starts = np.cumsum([1, *lengths])
    return [np.arange(start, start + n) for start, n in zip(starts, lengths, strict=False)]


def full(*lengths: int, reach: int = 16, **more) -> Sampler:
    return Sampler(documents(*lengths), BEGIN, positions("full"), reach, reach, **more)


@pytest.mark.parametrize("name", [entry.id for entry in POSITIONS])
def test_processes_share_a_step_and_nothing_is_drawn_twice(name: str) -> None:
    layout = positions(name, cue=(7, 8))
    window = layout.window_for(64, 256)
    sampler = Sampler(documents(300, 400, 500), BEGIN, layout, window, 256)
    whole = list(sampler.rows(3, 12, 4))
    shared = [row for rank in (0, 1) for row in sampler.rows(3, 12, 4, slice(2 * rank, 2 * rank + 2))]
    again = list(Sampler(sampler.documents, BEGIN, sampler.positions, window, 256).rows(3, 12, 4))
    for one, other, third in zip(whole, shared, again, strict=True):
        for column in ("ids", "positions", "documents", "weights"):
            assert np.array_equal(getattr(one, column), getattr(other, column))
            assert np.array_equal(getattr(one, column), getattr(third, column))
    other_seed = next(Sampler(sampler.documents, BEGIN, sampler.positions, window, 256, seed=1).rows(3, 12, 1))
    assert not np.array_equal(whole[0].ids, other_seed.ids) or not np.array_equal(
        whole[0].positions, other_seed.positions
    )


def test_pieces_cover_every_token_and_begin_as_texts_do() -> None:
    sampler = full(40, 15, 14)
    assert [(i, start, end) for i, start, end in sampler.pieces] == [(0, 0, 15), (0, 15, 30), (0, 25, 40), (1, 0, 15)]
    assert sampler.left_out == 1
    rows = list(sampler.rows(0, 0, 4))
    assert all(row.ids[0] == 0 and len(row.ids) == 16 for row in rows)
    assert {int(i) for row in rows for i in row.ids[1:]} == set(range(1, 56))


def test_an_epoch_reads_every_piece_once_and_the_next_in_another_order() -> None:
    sampler = full(15, 15, 15, 15, 15, 15, 15, 15)
    first, second = ([int(row.ids[1]) for row in sampler.rows(0, start, 8)] for start in (0, 8))
    assert sorted(first) == sorted(second)
    assert len(set(first)) == 8
    assert first != second


def test_packed_rows_hold_documents_in_one_piece_or_cut_at_a_rows_end() -> None:
    sampler = full(5, 20, 3, 9, 30, packed=True)
    assert sampler.rows_per_epoch == (5 + 20 + 3 + 9 + 30 + 5) // 16
    rows = list(sampler.rows(0, 0, sampler.rows_per_epoch))
    counts = Counter(int(i) for row in rows for i in row.ids if i)
    assert set(counts.values()) == {1}
    for row in rows:
        assert row.positions.tolist() == list(range(16))
        for document in set(row.documents.tolist()):
            inside = row.ids[row.documents == document]
            assert (np.diff(inside[inside > 0]) == 1).all()
    batch = Batch.of(rows)
    assert batch.packed
    starts = (batch.input_ids == 0).nonzero().tolist()
    assert all(batch.targets[b, i - 1] == -100 for b, i in starts if i)


def test_documents_that_are_one_sequence_have_no_loss_where_one_begins() -> None:
    apart, whole = (next(full(5, 20, 9, packed=True, apart=one).rows(0, 0, 1)) for one in (True, False))
    assert np.array_equal(apart.ids, whole.ids)
    assert len(set(whole.documents.tolist())) == 1 < len(set(apart.documents.tolist()))
    assert Batch.of([whole]).targets.tolist() == Batch.of([apart]).targets.tolist()


@pytest.mark.parametrize(
    ("lengths", "more", "said"),
    [((10,), {}, "no text has the 16 tokens"), ((), {}, "no text"), ((4, 4), {"packed": True}, "fewer than one row")],
)
def test_texts_that_are_too_short_are_refused(lengths: tuple[int, ...], more: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        full(*lengths, **more)
