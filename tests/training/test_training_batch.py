import numpy as np
import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.training.training_batch import IGNORED, PADDING, Batch, Row


def row(n: int, documents: list[int] | None = None, start: float = 0) -> Row:
    ids = np.arange(10, 10 + n)
    return Row(ids, start + np.arange(n), np.array(documents or [0] * n), np.ones(n, np.float32))


def test_targets_are_shifted_once_and_do_not_cross_documents() -> None:
    batch = Batch.of([row(5, [0, 0, 0, 1, 1])])
    assert batch.targets.tolist() == [[11, 12, IGNORED, 14, IGNORED]]
    assert batch.weights.tolist() == [[1, 1, 0, 1, 0]]
    assert batch.packed


def test_padding_is_a_document_of_its_own_without_loss_and_is_no_packing() -> None:
    batch = Batch.of([row(4), row(2)])
    assert batch.document_ids.tolist() == [[0] * 4, [0, 0, PADDING, PADDING]]
    assert batch.targets[1].tolist() == [11, IGNORED, IGNORED, IGNORED]
    assert batch.position_ids[1].tolist() == [0, 1, 2, 3]
    assert not batch.packed


def test_fractional_positions_stay_fractions() -> None:
    batch = Batch.of([row(3, start=0.25)])
    assert batch.position_ids.dtype == torch.float32
    assert batch.position_ids.tolist() == [[0.25, 1.25, 2.25]]


def test_a_split_batch_is_its_rows() -> None:
    batch = Batch.of([row(3), row(4), row(5)])
    parts = list(batch.split(2))
    assert [len(part.input_ids) for part in parts] == [2, 1]
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)


@pytest.mark.parametrize("rows", [[], [Row(np.arange(3), np.arange(2), np.zeros(3, int), np.ones(3, np.float32))]])
def test_rows_that_are_none_are_refused(rows: list[Row]) -> None:
    with pytest.raises(UserError):
        Batch.of(rows)
