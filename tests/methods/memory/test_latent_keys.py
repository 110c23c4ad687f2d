"""Latent keys and values: the same at full rank, the nearest at every other."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ropewalk.methods.memory.latent_keys import LatentKeys, full_rank


@pytest.fixture
def projections():
    torch.manual_seed(0)
    return nn.Linear(12, 8, bias=True).double(), nn.Linear(12, 6, bias=False).double()


def test_at_full_rank_nothing_is_lost(projections):
    key, value = projections
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    found = LatentKeys(key, value, full_rank(key, value))
    assert full_rank(key, value) == 12 and full_rank(nn.Linear(64, 8), nn.Linear(64, 8)) == 16
    torch.testing.assert_close(found(found.latent(x)), (key(x), value(x)))


@pytest.mark.parametrize("rank", [1, 5, 11])
def test_fewer_numbers_lose_the_smallest_singular_values(projections, rank):
    key, value = projections
    cut = LatentKeys(key, value, rank)
    both = torch.cat([key.weight, value.weight])
    lost = torch.linalg.svdvals(both)[rank:].square().sum()
    torch.testing.assert_close((both - cut.up @ cut.down).square().sum(), lost)
    assert cut.up.is_contiguous() and cut.down.is_contiguous()  # else no file takes them
    assert cut.latent(torch.randn(2, 5, 12, dtype=torch.float64)).shape == (2, 5, rank)
