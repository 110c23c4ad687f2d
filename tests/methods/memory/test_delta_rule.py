"""The gated delta rule by chunks against its recurrence, token by token."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ropewalk.methods.memory.delta_rule import gated_delta

B, H, N, D, WIDE = 2, 3, 23, 6, 5


@pytest.fixture
def text(monkeypatch):
    monkeypatch.setattr("ropewalk.methods.memory.delta_rule.CHUNK", 8)
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape):
        return torch.randn(B, H, N, *shape, generator=generator, dtype=torch.float64)

    tensors = drawn(D), F.normalize(drawn(D), dim=-1), drawn(WIDE), -drawn().exp(), drawn().sigmoid()
    return [one.requires_grad_() for one in tensors]


def by_recurrence(q, k, v, decay, beta, state, corrects):
    outputs = []
    for t in range(q.shape[2]):
        state = decay[:, :, t].exp()[..., None, None] * state
        said = state @ k[:, :, t, :, None] if corrects else 0
        state = state + beta[:, :, t, None, None] * (v[:, :, t, :, None] - said) @ k[:, :, t, None]
        outputs.append((state @ q[:, :, t, :, None])[..., 0])
    return torch.stack(outputs, 2), state


@pytest.mark.parametrize("corrects", [True, False])
def test_chunks_are_the_recurrence_with_its_gradients(text, corrects):
    begun = torch.randn(B, H, WIDE, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, wanted = (one(*text, begun, corrects) for one in (gated_delta, by_recurrence))
    torch.testing.assert_close(found, wanted)
    slopes = [torch.autograd.grad(out.sin().sum() + state.cos().sum(), text) for out, state in (found, wanted)]
    torch.testing.assert_close(*slopes)


def test_a_text_may_be_cut_anywhere(text):
    whole, last = gated_delta(*text)
    state, found = None, []
    for pieces in zip(*(one.split([1, 9, 13], 2) for one in text), strict=True):
        out, state = gated_delta(*pieces, state)
        found.append(out)
    torch.testing.assert_close((torch.cat(found, 2), state), (whole, last))


def test_without_decay_the_last_value_of_a_key_is_what_it_says(text):
    """Keys at right angles, one of them written twice with beta 1: the second value stands, and the others stay."""
    keys = torch.eye(D).double()[[0, 1, 2, 0]][None, None]
    v = torch.randn(1, 1, 4, WIDE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    still, one = torch.zeros(1, 1, 4).double(), torch.ones(1, 1, 4).double()
    _, state = gated_delta(keys, keys, v, still, one)
    torch.testing.assert_close((state[0, 0] @ keys[0, 0].mT).mT, v[0, 0, [3, 1, 2, 3]])
    _, added = gated_delta(keys, keys, v, still, one, corrects=False)
    torch.testing.assert_close(added[0, 0] @ keys[0, 0, 0], v[0, 0, 0] + v[0, 0, 3])


def test_strong_decay_forgets_without_overflow(text):
    q, k, v, decay, beta = text
    out, state = gated_delta(q, k, v, decay - 800, beta)
    assert bool(out.isfinite().all()) and bool(state.isfinite().all())
    torch.testing.assert_close(out, beta[..., None] * v * (q * k).sum(-1, keepdim=True))
    slopes = torch.autograd.grad(out.sum(), text)
    assert all(bool(one.isfinite().all()) for one in slopes)
