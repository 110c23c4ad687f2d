"""Extensible Tokenization against the paper's two streams: one forward of transformers over all of them, and a mask."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaModel

from ropewalk import UserError
from ropewalk.methods.memory.ext_tok import ExtensibleTokenization
from tests.models import as_trained, config, shared, tiny, tokens

WINDOW, RATIO = 8, 4


def small_model(model, layers):
    """The same as a model of transformers: its embeddings, its first layers."""
    made = LlamaModel(config("llama", num_hidden_layers=layers)).double().eval()
    made.embed_tokens, made.norm = model.model.embed_tokens, nn.Identity()
    made.layers.load_state_dict(model.ropewalk_memory.layers.state_dict())
    return made


def two_streams(model, ids, layers):
    """Hidden states of every token: stream one is what stands for all windows, stream two the tokens."""
    small, n = small_model(model, layers), ids.shape[1]
    windows = [ids[:, a : a + WINDOW] for a in range(0, n, WINDOW)]
    outputs = torch.cat(
        [small(one).last_hidden_state[:, RATIO - 1 :: RATIO] for one in windows if one.shape[1] == WINDOW], 1
    )
    count, each = outputs.shape[1], WINDOW // RATIO
    window, inside = torch.arange(n) // WINDOW, torch.arange(n) % WINDOW
    streams = torch.cat([outputs, model.model.embed_tokens(ids)], 1)
    places = torch.cat([torch.arange(count), window * each + inside])
    sees = torch.zeros(count + n, count + n, dtype=torch.bool)
    sees[:count, :count] = torch.ones(count, count).tril()
    sees[count:, :count] = torch.arange(count) < (window * each)[:, None]
    sees[count:, count:] = (window == window[:, None]) & (inside <= inside[:, None])
    mask = torch.zeros(sees.shape, dtype=torch.float64).masked_fill(~sees, -torch.inf)[None, None]
    return model.model(inputs_embeds=streams, position_ids=places[None], attention_mask=mask)[0][:, count:]


@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_the_two_streams_of_the_paper_read_the_same(layers):
    model, ids = tiny("llama").double(), tokens(2, 29)
    with ExtensibleTokenization(window=WINDOW, ratio=RATIO, ratios=(RATIO,), layers=layers).begun().on(model):
        as_trained(model.ropewalk_memory)
        found, held = model.model(ids).last_hidden_state, copy.deepcopy(model.ropewalk_memory)
    model.ropewalk_memory = held
    assert torch.allclose(found, two_streams(model, ids, layers), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["llama", "phi3", "gemma2", "gemma3", "smollm3"])
@torch.no_grad()
def test_a_text_of_one_window_is_read_by_the_frozen_model_bit_for_bit(family):
    model, ids = shared(family), tokens(2, 17)
    plain = model(ids[:, :16]).logits
    with ExtensibleTokenization(window=16, ratios=(2, 4)).begun().on(model):
        as_trained(model.ropewalk_memory)
        own = [*model.model.layers]
        assert torch.equal(model(ids[:, :16]).logits, plain)
        assert model(ids).logits.isfinite().all()
        assert [*model.model.layers] == own


def test_models_without_such_layers_are_refused():
    with (
        pytest.raises(UserError, match="has no layers and norm"),
        ExtensibleTokenization(window=16).begun().on(shared("gpt_neox")),
    ):
        pass
    with pytest.raises(UserError, match="layers is 3, expected at most the 2"):
        ExtensibleTokenization(layers=3).added(shared("llama"))


def test_training_teaches_the_small_model_what_only_it_carries():
    model, ids = tiny("llama"), tokens(4, 16)
    method = ExtensibleTokenization(window=8, ratio=4, ratios=(4,)).begun()
    model.requires_grad_(False)
    before = {name: value.clone() for name, value in model.named_parameters()}
    with method.on(model):
        memory = model.ropewalk_memory
        optimizer = torch.optim.AdamW(memory.requires_grad_().parameters(), 1e-2)
        losses = []
        for _ in range(12):
            logits = model(ids).logits[:, 8:-1]
            losses.append(F.cross_entropy(logits.flatten(0, 1), ids[:, 9:].flatten()))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < losses[0] - 0.3
        assert all(one.grad is not None for one in memory.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
