"""Rows that stay bit for bit, under gradients, momentum and weight decay."""

import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.encoders.training.frozen_rows import frozen_rows

FROZEN = torch.tensor([True, False, True, False])


def test_only_the_other_rows_learn():
    table = torch.nn.Embedding(4, 3)
    before = table.weight.detach().clone()
    with frozen_rows(table, FROZEN):
        optimiser = torch.optim.AdamW(table.parameters(), lr=0.1, weight_decay=0.5)
        for _ in range(3):
            assert torch.equal(table(torch.tensor([0, 2])), before[[0, 2]])
            optimiser.zero_grad()
            table(torch.arange(3)).square().sum().backward()
            (weight,) = table.parameters()
            assert not weight.grad[FROZEN].any() and weight.grad[1].all()
            optimiser.step()
    assert torch.equal(table.weight[FROZEN], before[FROZEN])
    assert (table.weight[1] != before[1]).all() and (table.weight[3] != before[3]).all()  # the last by decay alone
    assert list(table.state_dict()) == ["weight"] and type(table) is torch.nn.Embedding


def test_the_table_is_whole_again_after_an_error():
    table = torch.nn.Embedding(4, 3)
    before = table.weight.detach().clone()
    with pytest.raises(KeyError), frozen_rows(table, FROZEN):
        raise KeyError
    assert torch.equal(table.weight, before) and list(table.state_dict()) == ["weight"]


@pytest.mark.parametrize("frozen", [torch.ones(4, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)])
def test_a_mask_that_leaves_nothing_or_does_not_fit_is_refused(frozen):
    with pytest.raises(UserError, match="rows are frozen"), frozen_rows(torch.nn.Embedding(4, 3), frozen):
        pass
