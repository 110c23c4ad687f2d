"""LaCT beside a window: a window alone before training, causal and cut anywhere after it, in constant memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from ropewalk import LaCT, UserError
from tests.models import in_pieces, tiny, tokens

CHOSEN = LaCT(chunk=8, window=16, heads=2, rank=4)
TO = 128


def strong(model):
    """A memory whose strength is not 0."""
    CHOSEN.carried(model)
    with torch.no_grad():
        for one in model.ropewalk_memory:
            nn.init.normal_(one.strength.weight, 0, 0.5, generator=torch.Generator().manual_seed(0))
    return model


def still(model):
    """Let the memory never learn."""
    for one in model.ropewalk_memory:
        nn.init.zeros_(one.rates.weight)
        nn.init.constant_(one.rates.bias, -1e4)
        one.rates.requires_grad_(False)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_before_training_it_is_a_sliding_window(family):
    """Mistral's layers are Llama's with a window; Qwen3's are compared with themselves where the window holds all."""
    model, ids = tiny(family), tokens(2, 50)
    if family == "llama":
        other = tiny("mistral", sliding_window=16)
        other.load_state_dict(model.state_dict())
        expected = other(ids).logits
    else:
        ids = ids[:, :16]
        expected = model(ids).logits
    with CHOSEN.begun().on(model, TO):
        torch.testing.assert_close(model(ids).logits, expected, atol=2e-5, rtol=1e-5)
    assert not hasattr(model, "ropewalk_memory")


@torch.no_grad()
def test_a_text_may_be_cut_anywhere_and_nobody_sees_what_comes():
    model, ids = strong(tiny("llama")), tokens(2, 50)
    with CHOSEN.begun().on(model, TO):
        whole = model(ids).logits
        torch.testing.assert_close(in_pieces(model, ids, 30, 1, 1, 9, 9), whole, atol=5e-5, rtol=1e-5)
        other = ids.clone()
        other[:, 40] = (other[:, 40] + 1) % 97
        changed = (model(other).logits - whole).abs().amax((0, 2))
        assert not changed[:40].any() and bool((changed[40:] > 1e-3).all())
        found = model.generate(ids, max_new_tokens=6, do_sample=False, eos_token_id=-1, pad_token_id=0)
        for n in range(50, 56):
            assert torch.equal(model(found[:, :n]).logits[:, -1].argmax(-1), found[:, n])


@torch.no_grad()
def test_what_left_the_window_is_seen_through_the_memory_alone():
    """One layer, so that nothing is handed on: a token behind the window's end moves what comes once its chunk ends."""
    model, ids = strong(tiny("llama", num_hidden_layers=1)), tokens(1, 60)
    other = ids.clone()
    other[:, 3] = (other[:, 3] + 1) % 97
    with CHOSEN.begun().on(model, TO):
        moved = (model(ids).logits - model(other).logits).abs().amax((0, 2))
        still(model)
        without = (model(ids).logits - model(other).logits).abs().amax((0, 2))
    assert bool((moved[19:] > 1e-4).all())
    assert float(without[19:].max()) == 0 and float(without[3:19].min()) > 0


@torch.no_grad()
def test_what_a_text_leaves_does_not_grow():
    model, counts = strong(tiny("llama")), []
    reader = CHOSEN.reader(model, TO)
    with reader.attached():
        for n in (40, 72, 120):  # whole chunks, beyond the window
            state = reader.begin(1)
            reader.read(tokens(1, n), state)
            found = []
            for keys, values, memory in state.layers:
                found += [keys, values, *memory.weights, *memory.norms, *memory.velocity, *memory.waiting]
            counts.append(sum(one.numel() for one in found))
    assert len(set(counts)) == 1


def test_training_finds_what_the_memory_alone_can_tell():
    """Rows differ in what their first chunk says, and are asked for it two windows later; without rates, in nothing."""
    said = torch.arange(3, 11)
    ids = torch.cat([said[:, None].expand(-1, 8), tokens(1, 16).expand(8, -1)], 1)
    chosen, losses = LaCT(chunk=8, window=8, heads=2, rank=4), {}
    for learns in (True, False):
        model = tiny("llama", num_hidden_layers=1)
        chosen.carried(model)
        if not learns:
            still(model)
        trained = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.Adam(trained, 3e-2)
        with chosen.begun().on(model, TO):
            for _ in range(12):
                loss = torch.nn.functional.cross_entropy(model.train()(ids).logits[:, -1], said)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        losses[learns] = loss.item()
        assert all(one.grad is None for name, one in model.named_parameters() if "ropewalk_memory" not in name)
    assert losses[True] < 1.2 < math.log(8) <= losses[False]


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="seen by neither"):
        LaCT(chunk=32, window=16)
    with pytest.raises(UserError, match=r"heads is 3, expected a divisor of the 64"):
        LaCT(heads=3).added(tiny("llama"))
