"""Slopes against the numbers of the papers, and against two builders of transformers."""

from __future__ import annotations

import pytest
import torch
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

from ropewalk.carriers.slopes import divisors, slopes

EIGHT = [2.0**-h for h in range(1, 9)]


def scaled(s, form):
    return [m / d for m, d in zip(EIGHT, divisors(8, s, form), strict=True)]


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 20, 32, 71, 112])
def test_they_are_those_of_both_builders(heads):
    found = torch.tensor(slopes(heads))
    assert torch.allclose(found, build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)[:, 0, 1], rtol=1e-5)
    assert torch.allclose(-found, build_mpt_alibi_tensor(heads, 2)[:, 0, 0], rtol=1e-5)


def test_numbers():
    assert slopes(8) == EIGHT
    assert slopes(12)[8:] == pytest.approx([0.707107, 0.353553, 0.176777, 0.088388], abs=1e-6)
    assert scaled(2, "linear") == [m / 2 for m in EIGHT]
    ntk = [0.5, 0.226431, 0.102542, 0.046437, 0.021030, 0.009524, 0.004313, 0.001953]
    assert scaled(2, "ntk") == pytest.approx(ntk, abs=1e-6)
    four = [0.420448, 0.176777, 0.074325, 0.031250, 0.013139, 0.005524, 0.002323, 0.000977]
    assert scaled(4, "geometric") == pytest.approx(four, abs=1e-6)


@pytest.mark.parametrize("form", ["linear", "ntk", "geometric"])
@pytest.mark.parametrize("heads", [1, 6, 8])
def test_no_stretch_is_none(heads, form):
    assert divisors(heads, 1, form) == [1] * heads


@pytest.mark.parametrize("heads", [6, 12, 112])
def test_flat_slopes_are_divided_by_more_than_steep_ones_also_where_they_are_not_in_order(heads):
    own = slopes(heads)
    assert own != sorted(own, reverse=True)
    steep, flat = own.index(max(own)), own.index(min(own))
    ntk = divisors(heads, 4, "ntk")
    assert ntk[steep] == 1 and ntk[flat] == 4
    bound = build_mpt_alibi_tensor(heads, 2, alibi_bias_max=10)[:, 0, 0]
    found = [m / d for m, d in zip(own, divisors(heads, 4, "geometric"), strict=True)]
    assert torch.allclose(-bound, torch.tensor(found), rtol=1e-5)
    assert sorted(range(heads), key=lambda h: own[h] / ntk[h]) == sorted(range(heads), key=lambda h: own[h])
