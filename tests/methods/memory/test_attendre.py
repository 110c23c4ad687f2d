"""Attendre's memory: oracles of the card, the bounded cache against the whole one, and what it refuses."""

from __future__ import annotations

import pytest
import torch

from ropewalk import method
from ropewalk.attention.cache_argument import as_argument
from ropewalk.common.errors import UserError
from ropewalk.methods.memory.attendre import Attendre
from tests.matrix import TWICE, logits, near, subject, text
from tests.models import in_pieces, step

IDS = text(2, 200)
SIZES = {"memory": 24, "chunk": 8, "topk": 12}
POLICIES = ("lra", "lfa", "fifo")


def test_a_memory_of_the_whole_text_is_the_plain_model():
    whole = subject(max_position_embeddings=512)
    expected = logits(whole, IDS)
    for policy in POLICIES:
        with Attendre(memory=400, chunk=16, topk=400, policy=policy).on(whole, to=512):
            assert near(logits(whole, IDS), expected)


def test_the_oldest_leave_first():
    """First in, first out with all keys attended is a window, at the places of its own beginning."""
    model, c, memory = subject(), 8, 24
    with Attendre(memory=memory, chunk=c, topk=64, policy="fifo").on(model, to=TWICE):
        found = logits(model, IDS[:, :160])
    one = subject(num_hidden_layers=1)
    with Attendre(memory=memory, chunk=c, topk=64, policy="fifo").on(one, to=TWICE):
        shallow = logits(one, IDS[:, :160])
    assert near(shallow[:, 152:], logits(one, IDS[:, 152 - memory : 160])[:, memory:])  # of one layer: the window alone
    assert not near(found[:, 152:], logits(model, IDS[:, 152 - memory : 160])[:, memory:], 1e-3)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "sizes", [(200,), (130, 40, 30), (13, 1, 1, 60, 120, *[1] * 5)], ids=["one", "three", "uneven"]
)
def test_the_bounded_cache_gives_the_same_in_constant_memory(policy, sizes):
    model, chosen = subject(), Attendre(policy=policy, **SIZES)
    with chosen.on(model, to=TWICE):
        cache = chosen.cache(model)
        assert near(in_pieces(model, IDS, *sizes, cache=cache), logits(model, IDS))
    assert cache.get_seq_length() == 200 and {layer.keys.shape[2] for layer in cache.layers} <= set(range(24, 33))


@torch.no_grad()
def test_generate_with_the_bounded_cache():
    model, chosen = subject(), Attendre(**SIZES)
    options = {"max_new_tokens": 9, "do_sample": False, "eos_token_id": -1, "attention_mask": torch.ones_like(IDS)}
    with chosen.on(model, to=TWICE):
        cache = chosen.cache(model)
        found = model.generate(IDS, **as_argument(model, cache), **options)
        assert torch.equal(found, model.generate(IDS, **options))
        beams = model.generate(IDS, num_beams=2, **as_argument(model, chosen.cache(model)), **options)
        alone = model.generate(IDS[:1], num_beams=2, **options | {"attention_mask": None}, use_cache=False)
    assert torch.equal(beams[:1], alone)
    assert {layer.keys.shape[2] for layer in cache.layers} <= set(range(24, 33))


@torch.no_grad()
def test_heads_keep_keys_of_their_own():
    model, chosen = subject(), Attendre(**SIZES)
    with chosen.on(model, to=TWICE):
        cache = chosen.cache(model)
        step(model, IDS, cache)
    keys = cache.layers[1].keys
    held = [[{tuple(key) for key in head.tolist()} for head in row] for row in keys]
    with chosen.on(model, to=TWICE):
        _, whole = step(model, IDS)
    places = [[[n for n, key in enumerate(head.tolist()) if tuple(key) in held[r][h]] for h, head in enumerate(row)]
              for r, row in enumerate(whole.layers[1].keys)]  # fmt: skip
    assert all(len(each) == keys.shape[2] for row in places for each in row) and places[0][0] != places[0][1]


@torch.no_grad()
def test_what_a_memory_cannot_follow_is_refused():
    model, chosen = subject(), Attendre(**SIZES)
    with chosen.on(model, to=TWICE):
        cache = chosen.cache(model)
        step(model, IDS[:, :90], cache)
        with pytest.raises(UserError, match="cannot go back to"):
            cache.crop(-20)
        mask = torch.ones_like(IDS)
        mask[0, :9] = 0
        with pytest.raises(UserError, match="holds the same positions for all rows"):
            step(model, IDS, chosen.cache(model), attention_mask=mask)
        with pytest.raises(UserError, match="expected at most the 64 trained tokens"):
            Attendre(memory=60, chunk=8).check(_layer(model))
    sparse = "vertical-slash(vertical=8, slash=2, sinks=2, near=1, last=8, threshold=65)"
    for other in ("rerope", f"attendre(memory=24, chunk=8)+{sparse}"):
        with pytest.raises(UserError, match="keeps what one method tells it to"), method(other).on(model, to=TWICE):
            step(model, IDS[:, :90], chosen.cache(model))


def _layer(model):
    from ropewalk.attention.regions import Layer

    return Layer(0, 64, TWICE, heads=4, kv_heads=2)


def test_a_window_of_the_models_own_is_refused():
    model = subject("mistral")
    with Attendre(**SIZES).on(model, to=TWICE), pytest.raises(UserError, match="sees a window of its own"):
        logits(model, IDS)
