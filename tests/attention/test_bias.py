"""Biases in blocks against written-out softmax attention in float64, everything differentiated by autograd."""

import pytest
import torch

from ropewalk.attention.bias import Bias
from ropewalk.attention.kernels import CPUFlash, Dense
from ropewalk.attention.merge import attend
from tests.attention.test_merge import CUTS, B, N, close, gradients, parts_of, tensors

HEADS = 4


def by_distance(slope, power):
    """-slope * ln(1 + power * distance): parameters of every head."""

    def of(rows, keys, slope, power):
        far = (torch.arange(N)[rows, None] - torch.arange(N)[keys]).clamp_min(0)
        return -slope[:, None, None] * torch.log1p(power[:, None, None] * far)[None]

    return Bias(of, (slope, power))


def by_content(query, key, table):
    """Of tensors with a row for every token, of a table that all heads share, and by the place of the query."""

    def of(rows, keys, query, key, table):
        near = (torch.arange(N)[rows, None] + torch.arange(N)[keys]) % len(table)
        return torch.sigmoid(query[:, :, rows] @ key[:, :, keys].mT) + table[near]

    return Bias(of, (query, key, table))


def double(*shape):
    return torch.rand(*shape, dtype=torch.float64).add(0.1).requires_grad_()


MADE = {
    "distance": lambda: by_distance(double(HEADS), double(HEADS)),
    "content": lambda: by_content(double(B, HEADS, N, 3), double(B, HEADS, N, 3), double(7)),
    "content that heads share": lambda: by_content(double(B, 1, N, 3), double(B, 1, N, 3), double(7)),
}


def written_out(cut, queries, keys, values, bias, sinks=None, softcap=None):
    scores = torch.full((B, HEADS, N, N), -torch.inf, dtype=torch.float64)
    j, group = torch.arange(N), HEADS // values.shape[1]
    for q, k, lo, hi in CUTS[cut]:
        inside = (j >= torch.tensor(lo)[:, None]) & (j < torch.tensor(hi)[:, None])
        s = queries[q] @ keys[k].repeat_interleave(group, 1).mT * 0.25
        s = s if softcap is None else softcap * torch.tanh(s / softcap)
        scores = torch.where(inside, s + bias.of(slice(None), slice(None), *bias.tensors), scores)
    if sinks is not None:
        scores = torch.cat([scores, sinks[:, None, None].expand(B, HEADS, N, 1)], -1)
    dead = scores.isneginf().all(-1, keepdim=True)
    p = scores.masked_fill(dead, 0).softmax(-1) * ~dead
    return p[..., :N] @ values.repeat_interleave(group, 1)


def compared(got, wanted, leaves):
    close(got, wanted, 1e-12)
    for a, b in zip(gradients(got, leaves), gradients(wanted, leaves), strict=True):
        close(a, b, 1e-9)


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("rows", [32, 256])
def test_outputs_and_all_gradients_are_those_of_one_softmax(cut, made, rows, monkeypatch):
    monkeypatch.setattr("ropewalk.attention.kernels.ROWS", rows)
    queries, keys, values = tensors(cut, dtype=torch.float64)
    bias = MADE[made]()
    got = attend(parts_of(cut), queries, keys, values, 0.25, CPUFlash(), bias=bias)
    compared(got, written_out(cut, queries, keys, values, bias), [*queries, *keys, values, *bias.tensors])


def test_beside_a_sink_and_behind_a_softcap():
    queries, keys, values = tensors("near and far", dtype=torch.float64)
    bias, sinks = MADE["distance"](), double(HEADS)
    got = attend(parts_of("near and far"), queries, keys, values, 0.25, Dense(softcap=2.0), sinks, bias=bias)
    wanted = written_out("near and far", queries, keys, values, bias, sinks, 2.0)
    compared(got, wanted, [sinks, *queries, *keys, values, *bias.tensors])


def test_gradients_of_keys_in_pieces(monkeypatch):
    monkeypatch.setattr("ropewalk.attention.merge.KEYS", 7)
    queries, keys, values = tensors("chunks", dtype=torch.float64)
    bias = MADE["distance"]()
    got = attend(parts_of("chunks"), queries, keys, values, 0.25, Dense(), bias=bias)
    compared(got, written_out("chunks", queries, keys, values, bias), [*queries, *keys, values, *bias.tensors])


@pytest.mark.parametrize("heads", [(0, 2), (2, 4)])
def test_some_heads_have_their_own_rows_of_it(heads):
    queries, keys, values = tensors("near and far", dtype=torch.float64)
    bias = MADE["distance"]()
    got = attend(parts_of("near and far", heads), queries, keys, values, 0.25, Dense(), bias=bias)
    mine = torch.tensor([heads[0] <= h < heads[1] for h in range(HEADS)])[:, None, None]
    wanted = written_out("near and far", queries, keys, values, bias) * mine
    compared(got, wanted, [*queries, *keys, values, *bias.tensors])


def test_a_bias_alone_is_trained_where_all_else_is_frozen():
    queries, keys, values = (x.detach() if torch.is_tensor(x) else [one.detach() for one in x]
                             for x in tensors("one part", dtype=torch.float64))  # fmt: skip
    bias = MADE["distance"]()
    got = attend(parts_of("one part"), queries, keys, values, 0.25, CPUFlash(), bias=bias)
    compared(got, written_out("one part", queries, keys, values, bias), bias.tensors)


def test_a_constant_changes_nothing_and_indices_have_no_gradient():
    queries, keys, values = tensors("one part", dtype=torch.float64)
    indices = torch.arange(HEADS)
    bias = Bias(lambda rows, keys, which: which.double()[:, None, None].expand(-1, 90, 90)[:, rows, keys][None],
                (indices,))  # fmt: skip
    got = attend(parts_of("one part"), queries, keys, values, 0.25, CPUFlash(), bias=bias)
    compared(got, attend(parts_of("one part"), queries, keys, values, 0.25, Dense()), [*queries, *keys, values])


def test_no_more_than_a_block_of_it_is_ever_computed(monkeypatch):
    monkeypatch.setattr("ropewalk.attention.kernels.ROWS", 16)
    queries, keys, values = tensors("one part", dtype=torch.float64)
    seen, made = [], MADE["distance"]()

    def of(rows, keys, *tensors):
        seen.append(rows.stop - rows.start)
        return made.of(rows, keys, *tensors)

    out = attend(parts_of("one part"), queries, keys, values, 0.25, CPUFlash(), bias=Bias(of, made.tensors))
    gradients(out, made.tensors)
    assert max(seen) == 16 and len(seen) > 2 * N // 16


def test_second_derivatives_are_refused():
    queries, keys, values = tensors("one part", dtype=torch.float64)
    bias = MADE["distance"]()
    out = attend(parts_of("one part"), queries, keys, values, 0.25, Dense(), bias=bias)
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(out.sum(), bias.tensors, create_graph=True)
