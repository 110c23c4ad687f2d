"""Attention in tiles against written-out softmax attention in float64: outputs, and gradients by autograd."""

import math

import numpy as np
import pytest
import torch

from ropewalk.attention.kernels import Chunked, CPUFlash, Dense, backend_for
from ropewalk.attention.merge import Own, Part, attend, merge
from ropewalk.attention.tiles import tiles
from ropewalk.common.errors import UserError

B, N, D = 2, 90, 16
m = np.arange(N)
CUTS = {  # disjoint bounds of several parts: (query map, key map, lo, hi)
    "one part": [(0, 0, 0 * m, m + 1)],
    "near and far": [(0, 0, np.maximum(0, m - 19), m + 1), (1, 1, 0 * m, np.maximum(0, m - 19))],
    "chunks": [
        (0, 0, m // 25 * 25, m + 1),
        (1, 0, np.maximum(0, m // 25 - 1) * 25, m // 25 * 25),
        (2, 0, 0 * m, np.maximum(0, m // 25 - 1) * 25),
    ],
    "sinks and a window": [(0, 0, np.maximum(0, m - 9), m + 1), (1, 0, 0 * m, np.clip(m - 9, 0, 4))],
    "ragged": [(0, 0, m * m // N, m + 1), (1, 1, 0 * m, m * m // N)],
    "some see nothing": [(0, 0, np.maximum(0, m - 5), np.where(m < 7, 0, m + 1))],
}
KERNELS = {
    "flash": CPUFlash(),
    "dense": Dense(),
    "softcap": Dense(softcap=2.0),
    "chunked": Chunked(),
    "chunked softcap": Chunked(softcap=2.0),
}
cuts = pytest.mark.parametrize("cut", CUTS)
kernels = pytest.mark.parametrize("kernel", KERNELS)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """So that these short texts are cut too."""
    monkeypatch.setattr("ropewalk.attention.kernels.ROWS", 16)
    monkeypatch.setattr("ropewalk.attention.kernels.COLUMNS", 12)


def parts_of(cut, heads=None):
    return [Part(q, k, tile, heads) for q, k, lo, hi in CUTS[cut] for tile in tiles(lo, hi)]


def tensors(cut, heads=4, kv_heads=2, wide=D, dtype=torch.float32):
    """Different random queries and keys for every map, as rotations would give."""
    torch.manual_seed(0)
    n_q, n_k = (1 + max(part[i] for part in CUTS[cut]) for i in (0, 1))
    queries = [torch.randn(B, heads, N, D, dtype=dtype, requires_grad=True) for _ in range(n_q)]
    keys = [torch.randn(B, kv_heads, N, D, dtype=dtype, requires_grad=True) for _ in range(n_k)]
    return queries, keys, torch.randn(B, kv_heads, N, wide, dtype=dtype).mul(0.5).requires_grad_()


def written_out(cut, queries, keys, values, scale, softcap=None, sinks=None):
    """Float64 attention with one score matrix; differentiable by autograd."""
    h = queries[0].shape[1]
    group = h // values.shape[1]
    scores = torch.full((B, h, N, N), -torch.inf, dtype=torch.float64)
    j = torch.arange(N)
    for q, k, lo, hi in CUTS[cut]:
        s = queries[q].double() @ keys[k].double().repeat_interleave(group, 1).mT * scale
        s = s if softcap is None else softcap * torch.tanh(s / softcap)
        inside = (j >= torch.tensor(lo)[:, None]) & (j < torch.tensor(hi)[:, None])
        scores = torch.where(inside, s, scores)
    if sinks is not None:
        scores = torch.cat([scores, sinks.double()[:, None, None].expand(B, h, N, 1)], -1)
    dead = scores.isneginf().all(-1, keepdim=True)
    p = scores.masked_fill(dead, 0).softmax(-1) * ~dead
    return p[..., :N] @ values.double().repeat_interleave(group, 1)


def gradients(out, leaves):
    torch.manual_seed(1)
    return torch.autograd.grad((out * torch.randn(out.shape)).sum(), leaves)


def close(got, wanted, tolerance):
    error = float((got.double() - wanted.double()).abs().max())
    assert error <= tolerance


@cuts
@kernels
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_outputs_and_gradients_are_those_of_one_softmax(cut, kernel, kv_heads):
    queries, keys, values = tensors(cut, kv_heads=kv_heads)
    got = attend(parts_of(cut), queries, keys, values, 0.25, KERNELS[kernel])
    wanted = written_out(cut, queries, keys, values, 0.25, getattr(KERNELS[kernel], "softcap", None))
    close(got, wanted, 1e-6)
    leaves = [*queries, *keys, values]
    for a, b in zip(gradients(got, leaves), gradients(wanted, leaves), strict=True):
        close(a, b, 1e-5)


@cuts
@kernels
def test_a_sink_takes_weight_and_has_a_gradient(cut, kernel):
    queries, keys, values = tensors(cut)
    sinks = torch.randn(4, requires_grad=True)
    got = attend(parts_of(cut), queries, keys, values, 0.25, KERNELS[kernel], sinks)
    softcap = getattr(KERNELS[kernel], "softcap", None)
    wanted = written_out(cut, queries, keys, values, 0.25, softcap, sinks)
    close(got, wanted, 1e-6)
    leaves = [sinks, *queries, *keys, values]
    for a, b in zip(gradients(got, leaves), gradients(wanted, leaves), strict=True):
        close(a, b, 1e-5)


@kernels
@pytest.mark.parametrize("wide", [8, 24])
def test_values_may_be_narrower_or_wider_than_keys(kernel, wide):
    queries, keys, values = tensors("near and far", wide=wide)
    got = attend(parts_of("near and far"), queries, keys, values, 0.25, KERNELS[kernel])
    wanted = written_out("near and far", queries, keys, values, 0.25, getattr(KERNELS[kernel], "softcap", None))
    close(got, wanted, 1e-6)
    leaves = [*queries, *keys, values]
    for a, b in zip(gradients(got, leaves), gradients(wanted, leaves), strict=True):
        close(a, b, 1e-5)


@kernels
@pytest.mark.parametrize("heads", [(0, 2), (2, 4)])
def test_parts_of_some_heads_leave_the_others_alone(kernel, heads):
    queries, keys, values = tensors("near and far")
    got = attend(parts_of("near and far", heads), queries, keys, values, 0.25, KERNELS[kernel])
    wanted = written_out("near and far", queries, keys, values, 0.25, getattr(KERNELS[kernel], "softcap", None))
    others = [h for h in range(4) if not heads[0] <= h < heads[1]]
    close(got[:, slice(*heads)], wanted[:, slice(*heads)], 1e-6)
    assert not got[:, others].any()
    leaves = [*queries, *keys, values]
    wanted = wanted * torch.tensor([heads[0] <= h < heads[1] for h in range(4)])[:, None, None]
    for a, b in zip(gradients(got, leaves), gradients(wanted, leaves), strict=True):
        close(a, b, 1e-5)


def test_queries_that_see_nothing_give_zero_and_no_gradient():
    queries, keys, values = tensors("some see nothing")
    got = attend(parts_of("some see nothing"), queries, keys, values, 0.25, CPUFlash())
    assert not got[:, :, :7].any()
    dq, *_ = gradients(got, [*queries, *keys, values])
    assert not dq[:, :, :7].any() and dq[:, :, 7:].any()


def test_no_part_at_all_gives_zero():
    queries, keys, values = tensors("one part")
    assert not attend([], queries, keys, values, 0.25, CPUFlash()).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@cuts
def test_half_precision_is_off_by_the_rounding_of_its_output(cut, dtype):
    queries, keys, values = tensors(cut, dtype=dtype)
    got = attend(parts_of(cut), queries, keys, values, 0.25, CPUFlash())
    wanted = written_out(cut, queries, keys, values, 0.25)
    assert got.dtype == dtype
    close(got, wanted, 4 * torch.finfo(dtype).eps)


def test_a_part_gets_its_gradient_from_the_merged_softmax():
    """Merging stock kernels by their log-sum-exp has right outputs and wrong gradients: it is taken for a constant."""
    queries, keys, values = tensors("near and far", kv_heads=4)
    leaves = [*queries, *keys, values]
    wanted = gradients(written_out("near and far", queries, keys, values, 0.25), leaves)

    naive = torch.zeros(B, 4, N, D)
    lse = torch.full((B, 4, N), -torch.inf)
    for part in parts_of("near and far"):
        rows, columns = slice(part.tile.q0, part.tile.q1), slice(part.tile.k0, part.tile.k1)
        q, k, v = queries[part.query][:, :, rows], keys[part.key][:, :, columns], values[:, :, columns]
        flipped = part.tile.kind == "mirrored"
        q, k, v = (x.flip(-2) if flipped else x for x in (q, k, v))
        o, new = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            q, k, v, 0.0, part.tile.kind in ("causal", "mirrored"), scale=0.25
        )
        o, new = (o.flip(-2), new.flip(-1)) if flipped else (o, new)
        total = torch.logaddexp(lse[:, :, rows], new)
        merged = naive[:, :, rows] * (lse[:, :, rows] - total).exp()[..., None] + o * (new - total).exp()[..., None]
        naive = torch.cat([naive[:, :, : rows.start], merged, naive[:, :, rows.stop :]], 2)
        lse = torch.cat([lse[:, :, : rows.start], total, lse[:, :, rows.stop :]], 2)
    close(naive, attend(parts_of("near and far"), queries, keys, values, 0.25, CPUFlash()), 1e-6)

    worst = max(float((a - b).abs().max()) for a, b in zip(gradients(naive, leaves), wanted, strict=True))
    ours = gradients(attend(parts_of("near and far"), queries, keys, values, 0.25, CPUFlash()), leaves)
    assert worst > 0.1
    for a, b in zip(ours, wanted, strict=True):
        close(a, b, 1e-5)


def test_parts_merge_in_any_order():
    torch.manual_seed(0)
    outs, sums = torch.randn(3, 5, 4, dtype=torch.float64), 10 * torch.randn(3, 5, dtype=torch.float64)
    weights = sums.softmax(0)
    for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        o, lse = torch.zeros(5, 4, dtype=torch.float64), torch.full((5,), -math.inf, dtype=torch.float64)
        for i in order:
            merge(o, lse, outs[i], sums[i])
        close(o, (weights[..., None] * outs).sum(0), 1e-14)
        close(lse, sums.logsumexp(0), 1e-14)


@pytest.mark.parametrize("pieces", [7, 8192])
def test_gradients_of_keys_before_ones_own_are_left_where_they_stay(pieces, monkeypatch):
    """The last 30 queries over all keys, of which the last 30 belong to the graph; something is left there already."""
    monkeypatch.setattr("ropewalk.attention.merge.KEYS", pieces)
    (query,), (key,), value = tensors("one part")
    query = query[:, :, -30:].detach().requires_grad_()
    parts = [Part(0, 0, tile) for tile in tiles(0 * m[-30:], m[-30:] + 1)]
    asked = torch.randn(B, 4, 30, D)
    expected = torch.autograd.grad(attend(parts, [query], [key], value, 0.25, CPUFlash()), (query, key, value), asked)

    own_key, own_value = (x[:, :, -30:].detach().requires_grad_() for x in (key, value))
    left = [torch.ones_like(x) for x in (key, value)]
    own = Own(own_key, own_value, *left)
    out = attend(parts, [query], [key.detach()], value.detach(), 0.25, CPUFlash(), own=own)
    got = torch.autograd.grad(out, (query, own_key, own_value), asked)
    torch.testing.assert_close(got[0], expected[0])
    for to, belongs, wanted in zip(left, got[1:], expected[1:], strict=True):
        torch.testing.assert_close(to, wanted + 1)
        torch.testing.assert_close(belongs, wanted[:, :, -30:] + 1)


def test_the_kernel_is_chosen_by_device_type_and_softcap(monkeypatch):
    q = torch.zeros(1, 1, 1, 8)
    assert isinstance(backend_for(q, None), CPUFlash)
    assert backend_for(q, 30.0) == Chunked(30.0)
    assert backend_for(q.to("meta"), None) == Chunked()
    monkeypatch.setenv("ROPEWALK_KERNEL", "chunked")
    assert backend_for(q, None) == Chunked() != Dense()
    monkeypatch.setenv("ROPEWALK_KERNEL", "dense")
    assert backend_for(q, 30.0) == Dense(30.0)
    monkeypatch.setenv("ROPEWALK_KERNEL", "chunkd")
    with pytest.raises(UserError, match="did you mean 'chunked'"):
        backend_for(q, None)


def test_chunks_hold_as_many_scores_as_the_root_of_the_keys_times_a_constant(monkeypatch):
    """Every score is made by one function; a call of it is what is held at once."""
    monkeypatch.setattr("ropewalk.attention.kernels.COLUMNS", 4)
    monkeypatch.setattr("ropewalk.attention.kernels.ROWS", 32)
    made = []
    scores = Dense._scores

    def counting(*arguments):
        found = scores(*arguments)
        made.append(found[0].numel())
        return found

    monkeypatch.setattr(Dense, "_scores", counting)
    held = {}
    for kernel in (Chunked(), Dense()):
        for n in (64, 256):
            made.clear()
            q, k, v = (torch.randn(1, 1, n, 1, generator=torch.Generator().manual_seed(i)) for i in range(3))
            o, lse = kernel.forward(q, k, v, False, 1.0)
            kernel.backward(o, q, k, v, o, lse, False, 1.0)
            assert sum(made) == 2 * n * n
            held[type(kernel), n] = max(made)
    assert held == {(Chunked, 64): 32 * 8, (Chunked, 256): 32 * 16, (Dense, 64): 32 * 64, (Dense, 256): 32 * 256}
