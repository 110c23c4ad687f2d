"""Rows that were arranged are what a step reads: each once an epoch, shared by processes, of equal tokens."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ropewalk.common.errors import UserError
from ropewalk.data.arranged import About, Arranged
from ropewalk.data.arrangement import Arrangement
from ropewalk.data.corpus import Corpus, Manifest, write_shard
from ropewalk.data.knots.marks import Marks
from ropewalk.data.packing.packings import packing
from ropewalk.training.arranged_sampler import CYCLES, ArrangedSampler
from ropewalk.training.training_batch import IGNORED, Batch

BEGIN = 1


def arranged(folder: Path, how: str, lengths: list[int], length: int) -> Arranged:
    """Documents whose every token is another one."""
    starts = np.cumsum([10, *lengths])
    documents = [[0, *range(start, start + n - 1)] for start, n in zip(starts, lengths, strict=False)]
    shard = write_shard(folder, "00000", documents, [str(i) for i in range(len(lengths))], 10**6)
    corpus = Corpus(folder, Manifest("tiny", "x", 10**6, (0,), (shard,)))
    marks = Marks(lambda text: [0], len(lengths))
    made: Arrangement = packing(how).rows(corpus.lengths, length, BEGIN, marks, 0)
    about = About(how, {}, length, packing(how).apart, 0, "here", len(lengths), corpus.digest)
    return Arranged(corpus, about, made)


def test_a_row_is_its_documents_and_only_what_begins_one_has_no_weight(tmp_path) -> None:
    some = arranged(tmp_path, "best-fit", [40, 7, 9, 6], 16)
    for row in range(len(some)):
        ids, positions, scopes, weights = some.row(row)
        assert len(ids) <= 16 and positions.tolist() == list(range(len(ids)))
        assert np.array_equal(weights == 0, ids == 0)
        assert ids[0] == 0 and all(ids[i] == 0 for i in np.flatnonzero(np.diff(scopes)) + 1)
    batch = Batch.of(list(ArrangedSampler(some, 16).rows(0, 0, len(some))))
    inside = batch.targets != IGNORED
    learnt = batch.targets[inside & (batch.weights > 0)].tolist()
    assert len(learnt) == len(set(learnt)) and 0 not in learnt
    assert len(learnt) == 40 + 7 + 9 + 6 - 4, "all but what texts begin with"


def test_an_epoch_reads_every_row_once_in_an_order_of_its_own(tmp_path) -> None:
    some = arranged(tmp_path, "best-fit", [12, 15, 9, 30, 11, 14, 16, 13], 16)
    sampler = ArrangedSampler(some, 16)
    first, second = ([tuple(row.ids) for row in sampler.rows(0, at, len(some))] for at in (0, len(some)))
    assert sorted(first) == sorted(second) and len(set(first)) == len(some) and first != second
    assert [tuple(row.ids) for row in ArrangedSampler(some, 16, seed=1).rows(0, 0, len(some))] != first
    assert sampler.texts == 8 and sampler.left_out == 0 and 0.5 < sampler.filled <= 1


@pytest.mark.parametrize("how", ["best-fit", "concat", "decompose"])
def test_processes_share_a_step(tmp_path, how: str) -> None:
    lengths = np.random.default_rng(0).integers(300, 9000, 60).tolist()
    sampler = ArrangedSampler(arranged(tmp_path, how, lengths, 1024), 1024)
    for step in range(6):
        whole = [tuple(row.ids) for row in sampler.rows(step, 4 * step, 4)]
        halves = [
            tuple(row.ids) for rank in (0, 1) for row in sampler.rows(step, 4 * step, 4, slice(2 * rank, 2 * rank + 2))
        ]
        assert whole == halves


def test_a_step_of_pieces_is_of_one_length_and_of_as_many_tokens(tmp_path) -> None:
    lengths = np.random.default_rng(0).integers(300, 9000, 200).tolist()
    sampler = ArrangedSampler(arranged(tmp_path, "decompose", lengths, 1024), 1024)
    steps = [list(sampler.rows(step, 2 * step, 2)) for step in range(len(sampler._batches(0, 2)))]
    read = [tuple(row.ids) for rows in steps for row in rows]
    assert len(set(read)) == len(read) > 400, "no piece twice in an epoch"
    assert all(len({len(row.ids) for row in rows}) == 1 and sum(len(row.ids) for row in rows) == 2048 for rows in steps)
    sizes = np.array([len(rows[0].ids) for rows in steps])
    assert set(sizes.tolist()) == {256, 512, 1024}
    place = np.arange(len(sizes)) % (len(sizes) / CYCLES) * CYCLES / len(sizes)
    assert sizes[place < 1 / 3].mean() < sizes[place > 2 / 3].mean(), "short ones come first in a cycle"


def test_rows_longer_than_the_target_are_refused(tmp_path) -> None:
    for window in (512, 2048):  # half a window's positions would be all that a longer one is trained on
        with pytest.raises(UserError, match=f"has rows of 1,024 tokens, and a stage .* samples of {window:,}"):
            ArrangedSampler(arranged(tmp_path, "best-fit", [2000], 1024), window)
    rows = arranged(tmp_path, "best-fit", [2000], 1024)
    asking = replace(rows, about=replace(rows.about, how="in2", asks=True))
    with pytest.raises(UserError) as refused:  # packed anew, they would be no questions
        ArrangedSampler(asking, 512)
    assert "ropewalk data synth in2 TEXTS --length 512 -o ROWS" in refused.value.mend


def test_rows_that_no_step_can_read_are_counted(tmp_path) -> None:
    sampler = ArrangedSampler(arranged(tmp_path, "decompose", [1024] * 8 + [256] * 5, 1024), 1024)
    assert [sampler.unread(count) for count in (1, 2, 9)] == [0, 5, 13]
    read = {tuple(row.ids) for step in range(40) for row in sampler.rows(step, 2 * step, 2)}
    assert len(read) == 8, "the five of 256 tokens fill no step of 2,048"


def test_too_few_pieces_for_any_step_are_refused(tmp_path) -> None:
    sampler = ArrangedSampler(arranged(tmp_path, "decompose", [300], 1024), 1024)
    with pytest.raises(UserError, match="has pieces for a step of 2 x 1,024 tokens"):
        list(sampler.rows(0, 0, 2))
