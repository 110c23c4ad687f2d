"""Activation Beacon against a model that reads one token after the other, and keeps lists of keys."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from ropewalk import UserError
from ropewalk.methods.memory.beacon import ActivationBeacon
from tests.models import as_trained, shared, tiny, tokens

WINDOW, RATIO = 8, 4


def turned(x, place):
    """[heads, 16] at a place, halves paired."""
    angle = place * 10000.0 ** (-torch.arange(8, dtype=torch.float64) / 8)
    a, b = x[:, :8], x[:, 8:]
    return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], 1)


def one(model, x, place, seen, projections=None):
    """Hidden state of a token with embedding [64] at a place, and its key and value of each layer.

    ``seen``: of each layer, the keys (unturned), values and places of what it sees.
    """
    own = []
    for i, layer in enumerate(model.model.layers):
        names = ("q_proj", "k_proj", "v_proj")
        taken = {name: getattr(layer.self_attn, name) for name in names} | dict(projections[i] if projections else {})
        h = layer.input_layernorm(x)
        q, k, v = (taken[name](h).view(-1, 16) for name in names)
        own.append((k, v))
        keys, values, places = zip(*seen[i], (k, v, place), strict=True)
        met = torch.stack([turned(key, at) for key, at in zip(keys, places, strict=True)], 1)
        score = torch.einsum("hd,hnd->hn", turned(q, place), met.repeat_interleave(2, 0)) / 4
        out = torch.einsum("hn,hnd->hd", score.softmax(-1), torch.stack(values, 1).repeat_interleave(2, 0))
        x = x + layer.self_attn.o_proj(out.flatten())
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return model.model.norm(x), own


def read(model, ids, sinks):
    """Hidden states [n, 64] of a text."""
    memory, found = model.ropewalk_memory, []
    carried: list = []  # of each key that is carried: of each layer, key and value
    window: list = []

    def seen(*tokens):
        return [[(*token[i], place) for token, place in tokens] for i in range(len(model.model.layers))]

    for token in ids.tolist():
        if len(window) == WINDOW:
            before, beacons = [(key, i) for i, key in enumerate(carried)], []
            raw = [(key, len(carried) + i) for i, key in enumerate(window)]
            for end in range(RATIO, WINDOW + 1, RATIO):
                place = len(carried) + end
                _, own = one(model, memory.embedding, place, seen(*before, *raw[:end], *beacons), memory.layers)
                beacons.append((own, place))
            carried = (carried or window[:sinks]) + [own for own, _ in beacons]
            window = []
        everything = [(key, i) for i, key in enumerate([*carried, *window])]
        hidden, own = one(model, model.model.embed_tokens.weight[token], len(everything), seen(*everything))
        window.append(own)
        found.append(hidden)
    return torch.stack(found)


@pytest.mark.parametrize("sinks", [0, 2])
@torch.no_grad()
def test_a_reader_of_single_tokens_reads_the_same(sinks):
    model, ids = tiny("llama").double(), tokens(1, 27)
    with ActivationBeacon(window=WINDOW, ratio=RATIO, ratios=(RATIO,), sinks=sinks).begun().on(model):
        as_trained(model.ropewalk_memory)
        expected = read(model, ids[0], sinks)
        assert torch.allclose(
            model.model(ids).last_hidden_state[0], expected, atol=1e-5
        )  # angles are float32 in transformers


@pytest.mark.parametrize("family", ["llama", "qwen3", "olmo2", "smollm3"])
@torch.no_grad()
def test_a_text_of_one_window_is_read_by_the_frozen_model_bit_for_bit(family):
    model, ids = shared(family), tokens(2, 17)
    plain = model(ids[:, :16]).logits
    with ActivationBeacon(window=16, ratios=(2, 4)).begun().on(model):
        as_trained(model.ropewalk_memory)
        assert torch.equal(model(ids[:, :16]).logits, plain)
        assert not torch.equal(model(ids).logits[:, -1], shared(family).model(ids)[0][:, -1])


def test_layers_that_see_a_window_or_project_otherwise_are_refused():
    for family, message in (("gemma3", "layers of type sliding_attention"), ("phi3", "has no q_proj")):
        model = shared(family)
        with pytest.raises(UserError, match=message), ActivationBeacon(window=16).begun().on(model):
            pass


def test_training_teaches_beacons_what_only_they_carry():
    model, ids = tiny("llama"), tokens(4, 16)
    method = ActivationBeacon(window=8, ratio=4, ratios=(4,)).begun()
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with method.on(model):
        memory = model.ropewalk_memory
        optimizer = torch.optim.AdamW(memory.requires_grad_().parameters(), 1e-2)
        losses = []
        for _ in range(12):
            logits = model(ids).logits[:, 8:-1]  # the first window has no memory behind it
            losses.append(F.cross_entropy(logits.flatten(0, 1), ids[:, 9:].flatten()))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0] - 0.3
        assert all(one.grad is not None for one in memory.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
