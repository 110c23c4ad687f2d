"""Receptive fields against closed forms and the numbers of the paper's definitions."""

import math

import pytest
import torch

from ropewalk.lab.encoding import Shape
from ropewalk.lab.encoding_entries import BY_ID
from ropewalk.lab.receptive_field import receptive_field, receptive_fields


@pytest.mark.parametrize(("slope", "expected"), [(1 / 2, 9), (1 / 16, 73), (1 / 256, 1178)])
def test_of_a_line_it_is_known(slope, expected):
    assert receptive_field(lambda d: -slope * d) == expected == math.ceil(math.log(100) / slope) - 1


def test_of_powers_and_of_a_squared_logarithm():
    assert receptive_field(lambda d: -2 * torch.log1p(d)) == 60
    assert receptive_field(lambda d: -(torch.log1p(d) ** 2)) == 8
    for p in (0.5, 0.9, 1.0):
        assert receptive_field(lambda d, p=p: -p * torch.log1p(d)) == math.inf
    assert receptive_field(lambda d: 0 * d) == math.inf


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_what_lies_beyond_the_sum_counts(p):
    """With few distances summed, a power's tail is still known: the answer is that of 2^20 distances."""
    few, many = (receptive_field(lambda d: -p * torch.log1p(d), 0.2, n) for n in (2**12, 2**20))
    assert few == many


def test_far_beyond_the_sum_it_follows_from_the_power():
    """The tail of (1 + d)^-p is about d^(1 - p) / (p - 1), of a sum of zeta(p)."""
    p, zeta = 1.25, 4.595111825  # from tables
    expected = (0.01 * zeta * (p - 1)) ** (1 / (1 - p))
    found = receptive_field(lambda d: -p * torch.log1p(d), farthest=2**14)
    assert expected > 2**20 and found == pytest.approx(expected, rel=1e-2)


def encoding(name, way="", reach=64):
    torch.manual_seed(0)
    one = BY_ID[name].load()(Shape(window=64, width=32, heads=8, head_width=4))
    with torch.no_grad():
        one.begin(dict(one.named_parameters()))
    one.take(way, reach)
    return one


def test_of_encodings_by_head():
    plain = receptive_fields(encoding("alibi"), farthest=2**14)
    assert plain == [math.ceil(math.log(100) * 2**h) - 1 for h in range(1, 9)]
    twice = receptive_fields(encoding("alibi", "pi", 128), farthest=2**14)
    assert twice == [math.ceil(math.log(100) * 2 ** (h + 1)) - 1 for h in range(1, 9)]
    assert receptive_fields(encoding("t5"), farthest=2**12) == [math.inf] * 8  # constant from some distance on
    assert receptive_fields(encoding("sandwich"), farthest=2**16) == [math.inf] * 8  # bounded
    kerple = encoding("kerple")
    found = receptive_fields(kerple, farthest=2**16)
    assert [one == math.inf for one in found] == [bool(p <= 1) for p in kerple.p]
