"""Gradients by frequencies: those of a rotation that is differentiated throughout, and refused where it is another."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import FalconConfig, FalconForCausalLM

from ropewalk import UserError
from ropewalk.backends.nll import token_nll
from ropewalk.fitting.rope_factors import as_factors
from ropewalk.fitting.slope import slope
from ropewalk.methods.attention.self_extend import SelfExtend
from ropewalk.methods.frequencies.yarn import YaRN
from ropewalk.rope.live import rotaries
from ropewalk.rope.spec import Frequencies
from ropewalk.training.loss import Head
from tests.models import VOCABULARY, shared, tiny, tokens

IDS = tokens(1, 256)[0]
FAMILIES = ["llama", "qwen3", "gemma2", "gemma3", "phi3", "cohere", "gpt_neox", "gpt_oss", "olmo3"]


def yarn(model):
    return as_factors(YaRN(), model.config, 256)


def as_it_is(model):
    return {one.layer_type: Frequencies(one.inv_freq) for one in rotaries(model)}


def sloped(model, ids=IDS, keep=128):
    method = yarn(model)
    with method.on(model, 256):
        return slope(model, ids, keep, 16, method.plan(model.config, 256))


def differentiated(model, monkeypatch):
    """The same by autograd alone: every rotary module turns by a tensor that has a gradient."""
    method = yarn(model)
    plan = method.plan(model.config, 256)
    logs = torch.zeros(len(next(iter(plan.values())).inv_freq) + 1, requires_grad=True)

    def turned(module, x, position_ids, layer_type="all"):
        (rotary,) = (one for one in rotaries(model) if one.module is module and one.layer_type == layer_type)
        moved = logs if layer_type in plan else torch.zeros_like(logs)
        half = position_ids[..., None].float() * (rotary.inv_freq * moved[:-1].exp())
        style = "neighbours" if model.config.model_type == "cohere" else "halves"
        angles = torch.cat([half, half], -1) if style == "halves" else half.repeat_interleave(2, -1)
        if model.config.model_type == "gpt_oss":
            angles = half
        factor = rotary.attention_scaling * moved[-1].exp()
        return angles.cos() * factor, angles.sin() * factor

    with method.on(model, 256):
        for kind in {type(one.module) for one in rotaries(model)}:
            monkeypatch.setattr(kind, "forward", turned)
        logits = (
            model(IDS[None], attention_mask=torch.ones(1, 256, dtype=torch.long), use_cache=False).logits[0].float()
        )
        loss = F.cross_entropy(logits[-129:-1], IDS[-128:])
        (found,) = torch.autograd.grad(loss, logs)
    monkeypatch.undo()
    return float(loss.detach()), found


@pytest.mark.parametrize("name", FAMILIES)
def test_a_gradient_is_that_of_autograd_all_the_way(name, monkeypatch):
    model = shared(name)
    found = sloped(model)
    loss, by = differentiated(model, monkeypatch)
    assert found.losses.shape == (16,) and found.losses.mean() == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(torch.from_numpy(found.by).float(), by, rtol=2e-3, atol=2e-5)


def test_losses_are_those_of_a_reading():
    model = shared("llama")
    with yarn(model).on(model, 256):
        read = token_nll(model, IDS[None], keep=128)[0].view(16, 8).mean(1)
    assert sloped(model).losses == pytest.approx(read.numpy(), rel=1e-5)


def test_what_is_computed_again_changes_nothing(monkeypatch):
    model = shared("llama")
    kept = sloped(model)
    monkeypatch.setattr("ropewalk.fitting.slope.KEPT", 0)
    again = sloped(model)
    assert again.losses == pytest.approx(kept.losses, rel=1e-6) and again.by == pytest.approx(kept.by, rel=1e-4)


def dropping_out():
    """A model whose layers drop out by a flag of their own."""
    return FalconForCausalLM(
        FalconConfig(
            vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, alibi=False,
            attention_dropout=0.1, hidden_dropout=0.1, new_decoder_architecture=True, num_kv_heads=2,
            max_position_embeddings=64,
        )
    )  # fmt: skip


def test_nothing_drops_out_of_what_is_computed_again(monkeypatch):
    torch.manual_seed(0)
    model = dropping_out().eval()
    kept = sloped(model)
    monkeypatch.setattr("ropewalk.fitting.slope.KEPT", 0)
    again = sloped(model)
    assert again.losses == pytest.approx(kept.losses, rel=1e-6)
    assert np.abs(again.by - kept.by).max() < 1e-4 * np.abs(kept.by).max()


def state_of(model):
    return [
        (module.training, list(module._forward_hooks), list(module._forward_pre_hooks), "forward" in vars(module))
        for module in model.modules()
    ]


@pytest.mark.parametrize("kept", [0, 2**32])
@pytest.mark.parametrize("stopped", [False, True])
def test_the_model_is_left_as_it_was(kept, stopped, monkeypatch):
    monkeypatch.setattr("ropewalk.fitting.slope.KEPT", kept)
    model = shared("llama")
    weights = [weight.requires_grad for weight in model.parameters()]
    before = state_of(model)
    if stopped:
        monkeypatch.setattr(Head, "loss", lambda *of: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            sloped(model)
    else:
        sloped(model)
    assert [weight.requires_grad for weight in model.parameters()] == weights
    assert all(weight.grad is None for weight in model.parameters())
    assert state_of(model) == before
    model.requires_grad_(False)
    try:
        assert not model(IDS[None]).logits.requires_grad
    finally:
        for weight, wanted in zip(model.parameters(), weights, strict=True):
            weight.requires_grad_(wanted)


def test_a_head_that_cannot_be_followed_says_what_searches_without(monkeypatch):
    model = shared("gpt_oss")
    monkeypatch.setattr(model.config, "output_router_logits", True)
    with pytest.raises(UserError, match="output_router_logits") as refused:
        sloped(model)
    assert "space=spline" in refused.value.mend


def test_a_rotation_inside_attention_is_refused():
    model = shared("llama")
    with (
        SelfExtend(group=8, window=16).on(model, 256),
        pytest.raises(UserError, match="does not turn every position by its buffer"),
    ):
        slope(model, IDS, 128, 16, as_it_is(model))


def test_a_module_that_turns_otherwise_than_its_buffer_says_is_refused(monkeypatch):
    model = shared("llama")
    kind = type(rotaries(model)[0].module)
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda module, x, position_ids: own(module, x, position_ids + 1))
    with pytest.raises(UserError, match="does not turn every position by its buffer") as refused:
        slope(model, IDS, 128, 16, as_it_is(model))
    assert "space=spline" in refused.value.mend


def test_a_layer_type_that_nobody_has_is_refused():
    with pytest.raises(UserError, match="no attention of Llama"):
        slope(shared("llama"), IDS, 128, 16, {"full_attention": None})


def test_tables_that_are_no_cosines_and_sines_are_refused(monkeypatch):
    model = shared("llama")
    kind = type(rotaries(model)[0].module)
    monkeypatch.setattr(kind, "forward", lambda module, x, position_ids: torch.ones(1, 256, 8, dtype=torch.complex64))
    with pytest.raises(UserError, match="returns no cosines and sines"):
        slope(model, IDS, 128, 16, as_it_is(model))


@pytest.mark.parametrize(("kind", "refused"), [("bitnet", True), ("fp8", True), ("bitsandbytes", False)])
def test_codes_of_activations_round_gradients_off(kind, refused):
    """BitNet's linear layers pass on what the scale of a token has, one number of many."""
    model = tiny("llama")
    method = yarn(model)
    model.config.quantization_config = {"quant_method": kind}
    with method.on(model, 256), pytest.raises(UserError, match=kind) if refused else nullcontext():
        slope(model, IDS, 128, 16, method.plan(model.config, 256))
