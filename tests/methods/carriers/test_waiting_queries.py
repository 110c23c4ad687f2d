"""Queries that wait: the two ends of the card, plain loops, and a memory that does not grow."""

from __future__ import annotations

import pytest
import torch

from ropewalk.common.errors import UserError
from ropewalk.methods.carriers.waiting_queries import WaitingQueries, waited
from tests.carriers.ropeless import T5, WINDOW, ids, model

N, TARGET = 3 * WINDOW, 4 * WINDOW
POLICIES = ("lra", "lfa", "fifo")


@torch.no_grad()
def states(live, tokens):
    return live.get_encoder()(input_ids=tokens).last_hidden_state


@pytest.mark.parametrize("kind", T5)
def test_with_a_memory_and_a_delay_of_the_whole_text_it_is_the_plain_encoder(kind):
    live, tokens = model(kind), ids(N, 2)
    expected = states(live, tokens)
    with WaitingQueries(memory=N, delay=N, chunk=8).on(live, TARGET):
        assert torch.allclose(states(live, tokens), expected, atol=1e-4)
    assert torch.equal(states(live, tokens), expected)
    with WaitingQueries().on(live, TARGET):
        assert not torch.allclose(states(live, tokens), expected, atol=1e-2)


@pytest.mark.parametrize("kind", T5)
@pytest.mark.parametrize("delay", [0, 16])
def test_a_query_sees_as_far_ahead_as_it_waits(kind, delay):
    """Per layer; the tiny encoders have two."""
    live, tokens, changed = model(kind), ids(N), 60
    other = tokens.clone()
    other[:, changed:] = ids(N, 2)[1:, changed:]
    with WaitingQueries(memory=N, delay=delay, chunk=8).on(live, TARGET):
        moved = (states(live, tokens) - states(live, other)).abs().amax(-1)[0] > 1e-5
    first = int(moved.nonzero()[0])
    assert first == changed if delay == 0 else changed // 8 * 8 - 2 * delay <= first < changed


@pytest.mark.parametrize("policy", POLICIES)
def test_chunks_are_what_loops_give(policy):
    rng = torch.Generator().manual_seed(0)
    n, memory, delay, chunk, k = 45, 12, 10, 5, 7
    q, key, v = (torch.randn(1, 2, n, 4, generator=rng).double() for _ in range(3))
    found = waited(q, key, v, lambda distance: -0.1 * distance.abs(), memory, delay, chunk, k, policy)
    for h in range(2):
        held, worth = [], {}
        for start in range(0, n + delay, chunk):
            if start < n:
                kept = sorted(held, key=lambda j: (worth[j], j))[max(0, len(held) - memory) :]
                new = list(range(start, min(start + chunk, n)))
                held = sorted(kept) + new
                worth |= {j: 0 if policy == "lfa" else j for j in new}
            attended = []
            for m in range(start - delay, min(start - delay + chunk, n)):
                if m < 0:
                    continue
                logit = {j: float(q[0, h, m] @ key[0, h, j]) - 0.1 * abs(j - m) for j in held}
                chosen = sorted(held, key=lambda j: -logit[j])[:k]
                share = torch.tensor([logit[j] for j in chosen]).double().softmax(0)
                assert torch.allclose(found[0, h, m], (share @ v[0, h, chosen]), atol=1e-6)
                attended += chosen
            for j in attended:
                worth[j] = worth[j] + 1 if policy == "lfa" else max(worth[j], start) if policy == "lra" else worth[j]


def test_what_does_not_fit_is_refused():
    live = model("t5")
    with pytest.raises(UserError, match="delay is 9, expected a multiple"), WaitingQueries(delay=9).on(live, TARGET):
        pass
    mask = torch.ones(1, N)
    mask[0, :9] = 0
    with WaitingQueries().on(live, TARGET), pytest.raises(UserError, match="a row is padded"):
        live.get_encoder()(input_ids=ids(N), attention_mask=mask)
    with pytest.raises(UserError, match="attendre is for models"), WaitingQueries().on(model("bart"), TARGET):
        pass
