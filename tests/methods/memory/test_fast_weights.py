"""LaCT's memory: its step against autograd and a loop, its oracles, and texts cut anywhere."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ropewalk.methods.memory.fast_weights import FastWeights, asked, orthogonal, towards

B, H, D, INNER, N, CHUNK = 2, 3, 8, 6, 23, 5


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def weights():
    return drawn(B, H, INNER, D), drawn(B, H, D, INNER, seed=1), drawn(B, H, INNER, D, seed=2)


@pytest.fixture
def text():
    q, k, v = (drawn(B, H, N, D, seed=seed) for seed in (3, 4, 5))
    return q, k, v, drawn(B, H, N, 3, seed=6).exp(), drawn(B, H, N, 1, seed=7).sigmoid()


def test_the_step_is_the_gradient(weights, text):
    _, k, v, rates, _ = text
    for which in range(3):
        leaves = [one.clone().requires_grad_() for one in weights]
        aim = (rates[..., which : which + 1] * asked(tuple(leaves), k) * v).sum()
        (expected,) = torch.autograd.grad(aim, leaves[which])
        torch.testing.assert_close(towards(weights, k, v, rates)[which], expected)


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6)])
def test_singular_values_come_near_one_and_vectors_stay(shape):
    step = drawn(*shape)
    found = orthogonal(step)
    u, _, vh = torch.linalg.svd(step, full_matrices=False)
    between = u.mT @ found @ vh.mT
    assert float(between.diagonal().min()) > 0.6 and float(between.diagonal().max()) < 1.3
    assert float((between - between.diagonal().diag()).abs().max()) < 1e-9
    assert not bool(orthogonal(torch.zeros(shape)).any())


def test_a_loop_says_the_same(weights, text):
    """Written a second time, token by token, one row and one head at a time."""
    q, k, v, rates, momenta = text
    found, memory = FastWeights.begin(weights, CHUNK).read(*text)
    for b in range(B):
        for h in range(H):
            w = [one[b, h].clone() for one in weights]
            norms, velocity = [one.norm(dim=1) for one in w], [torch.zeros_like(one) for one in w]
            for start in range(0, N, CHUNK):
                tokens = range(start, min(start + CHUNK, N))
                for t in tokens:
                    x = q[b, h, t]
                    torch.testing.assert_close(found[b, h, t], w[1] @ (F.silu(w[0] @ x) * (w[2] @ x)))
                if len(tokens) < CHUNK:
                    break
                sums = [torch.zeros_like(one) for one in w]
                for t in tokens:
                    leaves = [one.clone().requires_grad_() for one in w]
                    x = k[b, h, t]
                    loss = -(leaves[1] @ (F.silu(leaves[0] @ x) * (leaves[2] @ x))) @ v[b, h, t]
                    for i, slope in enumerate(torch.autograd.grad(loss, leaves)):
                        sums[i] -= rates[b, h, t, i] * slope
                mean = float(sum(momenta[b, h, t] for t in tokens)) / CHUNK
                for i in range(3):
                    velocity[i] = sums[i] + mean * velocity[i]
                    w[i] = w[i] + orthogonal(velocity[i])
                    w[i] = w[i] / w[i].norm(dim=1, keepdim=True) * norms[i][:, None]
            for i in range(3):
                torch.testing.assert_close(memory.weights[i][b, h], w[i])


def test_a_text_may_be_cut_anywhere(weights, text):
    whole, last = FastWeights.begin(weights, CHUNK).read(*text)
    memory, found = FastWeights.begin(weights, CHUNK), []
    for pieces in zip(*(one.split([1, 1, 7, 9, 5], 2) for one in text), strict=True):
        out, memory = memory.read(*pieces)
        found.append(out)
    torch.testing.assert_close(torch.cat(found, 2), whole)
    torch.testing.assert_close(memory.weights, last.weights)
    assert memory.waiting[0].shape[2] == N % CHUNK


def test_the_first_chunk_sees_no_step_and_without_rates_there_is_none(weights, text):
    q, k, v, rates, momenta = text
    found, _ = FastWeights.begin(weights, CHUNK).read(*text)
    plain = asked(weights, q)
    torch.testing.assert_close(found[:, :, :CHUNK], plain[:, :, :CHUNK])
    assert float((found - plain)[:, :, CHUNK:].abs().amax((0, 1, 3)).min()) > 1e-3
    still, _ = FastWeights.begin(weights, CHUNK).read(q, k, v, 0 * rates, momenta)
    torch.testing.assert_close(still, plain)


def test_what_a_chunk_writes_is_read_back():
    """One chunk of keys and values raises f(k) . v, more so with several steps on the same chunk."""
    k, v = F.normalize(drawn(1, 1, 4, 32), dim=-1), F.normalize(drawn(1, 1, 4, 32, seed=1), dim=-1)
    weights = drawn(1, 1, 32, 32, seed=2) / 6, drawn(1, 1, 32, 32, seed=3) / 6, drawn(1, 1, 32, 32, seed=4) / 6
    memory, rates, momenta = FastWeights.begin(weights, 4), torch.ones(1, 1, 4, 3).double(), torch.zeros(1, 1, 4, 1)
    agreement = []
    for _ in range(3):
        out, memory = memory.read(k, k, v, rates, momenta.double())
        agreement.append(float((F.normalize(out, dim=-1) * v).sum(-1).mean()))
    assert agreement[0] < 0.3 < agreement[1] < agreement[2]
