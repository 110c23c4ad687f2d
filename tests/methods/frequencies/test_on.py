"""``method.on``: nothing changes at s = 1, everything is put back, only what should change does."""

import json
import re

import pytest
import torch
from transformers import AutoModelForCausalLM

from ropewalk import UserError, method
from ropewalk.rope import live
from tests.matrix import (
    LONG,
    METHODS,
    NESTED,
    RUNTIME,
    SHORT,
    TARGET,
    VARIANTS,
    WINDOW,
    across,
    buffers,
    logits,
    made,
    near,
    same,
)
from tests.models import shared, tiny, tokens

HARPE = "harpe(base_min=1000000.0, base_max=5000000.0)"
STATIC = [m for m in METHODS + VARIANTS if not method(m).runtime]


@pytest.mark.parametrize(("spelling", "family"), across(METHODS + VARIANTS))
def test_only_what_is_longer_than_the_window_changes_and_all_is_put_back(spelling, family):
    model = shared(family)
    chosen, before, short, long = made(spelling, model), buffers(model), logits(model, SHORT), logits(model, LONG)
    with chosen.on(model, to=WINDOW):
        assert torch.equal(logits(model, SHORT), short) == chosen.exact_near
    with chosen.on(model, to=TARGET):
        changed = logits(model, LONG)
    assert same(buffers(model), before) and torch.equal(logits(model, SHORT), short)
    assert changed.isfinite().all()
    assert spelling in ("none", "abf(rule='bound')") or not near(changed, long, 1e-4)  # a bound may lie below the base


@pytest.mark.parametrize("inner", ["pi", HARPE])
@pytest.mark.parametrize("outer", ["yarn", "dynamic-ntk"])
def test_nesting_is_refused_and_the_outer_method_stays(outer, inner):
    model = shared("llama")
    plain = logits(model, LONG)
    with method(outer).on(model, to=TARGET):
        inside = logits(model, LONG)
        with (
            pytest.raises(UserError, match=re.escape(f"{outer} is on this model already; {inner} cannot be put")),
            method(inner).on(model, to=TARGET),
        ):
            pass
        assert torch.equal(logits(model, LONG), inside)
    assert torch.equal(logits(model, LONG), plain)


def test_extending_is_refused_while_a_method_is_on():
    model = tiny("llama")
    with method("dynamic-ntk").on(model, to=TARGET), pytest.raises(UserError, match="dynamic-ntk is on this model"):
        method("pi").extend(model, to=TARGET)
    assert model.config.rope_parameters["rope_type"] == "default"


def test_one_method_after_another():
    model = shared("llama")
    with method("pi").on(model, to=TARGET):
        first = logits(model, LONG)
    with method(HARPE).on(model, to=TARGET):
        logits(model, LONG)
    with method("pi").on(model, to=TARGET):
        assert torch.equal(logits(model, LONG), first)


@pytest.mark.parametrize("family", NESTED)
@pytest.mark.parametrize("spelling", STATIC)
def test_sliding_layers_keep_their_bits(spelling, family):
    model = shared(family)
    sliding, full = sorted(live.rotaries(model), key=lambda rotary: rotary.layer_type, reverse=True)
    before = sliding.inv_freq.clone(), full.inv_freq.clone()
    with made(spelling, model).on(model, to=TARGET):
        assert torch.equal(sliding.inv_freq, before[0])
        assert spelling in ("none", "abf(rule='bound')") or not torch.equal(full.inv_freq, before[1])


@pytest.mark.parametrize("family", NESTED)
@pytest.mark.parametrize("spelling", RUNTIME)
def test_sliding_layers_keep_their_frequencies_at_attention_time(spelling, family):
    layers = ["sliding_attention", "sliding_attention"]
    model = tiny(family, layer_types=[*layers, "full_attention"], num_hidden_layers=3)
    seen = []
    model.model.layers[2].register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    logits(model, LONG)
    with method(spelling).on(model, to=TARGET):
        logits(model, LONG)
    assert torch.allclose(seen[0], seen[-1], atol=1e-5)


def test_pi_reads_position_4m_as_m():
    model = shared("llama")
    plain = logits(model, SHORT)
    with method("pi").on(model, to=4 * WINDOW):
        positions = 4 * torch.arange(WINDOW)[None]  # with a mask, or the gaps would be read as packed documents
        stretched = logits(model, SHORT, position_ids=positions, attention_mask=torch.ones_like(SHORT))
    assert torch.allclose(stretched, plain, atol=1e-4)


def test_longrope_with_factors_s_is_pi():
    model = shared("llama")
    with method("pi").on(model, to=TARGET):
        expected = logits(model, LONG)
    with method(f"longrope(factors={[4.0] * 8}, attention_factor=1.0)").on(model, to=TARGET):
        assert torch.equal(logits(model, LONG), expected)


def test_the_target_defaults_to_the_promised_length():
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    model = tiny("llama", max_position_embeddings=256, rope_parameters=yarn)
    with method("pi").on(model):
        assert torch.allclose(live.rotaries(model)[0].inv_freq, 10000 ** (-torch.arange(0, 16, 2) / 16) / 4)


# Models whose rotary module recomputes its frequencies in every forward


def recomputing(rope_type):
    half = {"short_factor": [1.0] * 8, "long_factor": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]}
    special = {"factor": 2.0} if rope_type == "dynamic" else {**half, "original_max_position_embeddings": 64}
    length = 64 if rope_type == "dynamic" else 128
    return tiny(
        "llama", max_position_embeddings=length, rope_parameters={"rope_type": rope_type, "rope_theta": 1e4, **special}
    )


@pytest.mark.parametrize("spelling", ["none", "yarn", "dynamic-ntk", HARPE])
@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_recomputing_models_are_restored(rope_type, spelling):
    model = recomputing(rope_type)
    before, short = buffers(model), logits(model, SHORT)
    with method(spelling).on(model, to=TARGET):
        logits(model, LONG)
    assert same(buffers(model), before)
    assert torch.equal(logits(model, SHORT), short)
    assert torch.equal(logits(model, LONG), logits(recomputing(rope_type), LONG))


@pytest.mark.parametrize("spelling", ["yarn", "dynamic-ntk", HARPE])
@pytest.mark.parametrize("rope_type", ["dynamic", "longrope"])
def test_what_a_recomputing_model_saw_before_does_not_matter(rope_type, spelling):
    fresh, used = recomputing(rope_type), recomputing(rope_type)
    logits(used, LONG)  # leaves grown (dynamic) or long (longrope) frequencies in the module
    with method(spelling).on(fresh, to=TARGET), method(spelling).on(used, to=TARGET):
        assert torch.equal(logits(used, LONG), logits(fresh, LONG))


@pytest.mark.parametrize("spelling, to", [("pi", WINDOW), ("yarn", WINDOW), ("dynamic-ntk", TARGET)])
def test_short_inputs_of_dynamic_models_stay_exact_after_long_ones(spelling, to):
    model = recomputing("dynamic")
    plain = logits(model, SHORT)
    logits(model, LONG)
    with method(spelling).on(model, to=to):
        assert torch.equal(logits(model, SHORT), plain)


# Fingerprints: results are stored under them


def test_fingerprints_tell_methods_apart():
    model = shared("llama")
    prints = {spelling: made(spelling, model).fingerprint(model, TARGET) for spelling in METHODS + VARIANTS}
    aliases = {
        "giraffe(basis='linear')",
        "abf(rule='bound')",
    }  # pi; and none, as the bound for 256 lies below the base
    assert len({prints[spelling] for spelling in prints if spelling not in aliases}) == len(prints) - 2
    assert prints["giraffe(basis='linear')"] == prints["pi"]


@pytest.mark.parametrize("spelling", RUNTIME)
def test_a_runtime_method_that_does_not_act_has_another_fingerprint(spelling):
    chosen = method(spelling)
    assert chosen.fingerprint(shared("llama"), WINDOW) != chosen.fingerprint(shared("llama"), TARGET)


# DroPE, by what a rotation is


@torch.no_grad()
def test_drope_is_no_cosine_but_one_and_no_sine_but_zero_and_so_is_its_export(tmp_path):
    model, ids = tiny("llama").double(), tokens(2, 90)
    rotary = model.model.rotary_emb
    hook = rotary.register_forward_hook(lambda _, given, out: (torch.ones_like(out[0]), torch.zeros_like(out[1])))
    dropped = model(ids).logits
    hook.remove()
    rotated = model(ids).logits
    with method("drope").on(model, to=TARGET):
        assert torch.equal(model(ids).logits, dropped)
    assert not torch.allclose(rotated, dropped, atol=1e-2)

    written = tiny("llama")
    method("drope").extend(written, to=TARGET)
    written.save_pretrained(tmp_path)
    parameters = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    assert parameters["long_factor"] == parameters["short_factor"] == [1e30] * 8
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path).double()(ids).logits, dropped)


@pytest.mark.parametrize(("layers", "order"), [(1, False), (2, True)])
@torch.no_grad()
def test_under_drope_one_layer_does_not_know_the_order_and_two_do(layers, order):
    model, ids = tiny("llama", num_hidden_layers=layers).double(), tokens(1, 90)
    other = torch.cat([ids[:, torch.randperm(89, generator=torch.Generator().manual_seed(0))], ids[:, -1:]], 1)
    with method("drope").on(model, to=TARGET):
        moved = (model(ids).logits[0, -1] - model(other).logits[0, -1]).abs().max()
    assert (moved > 1e-3) == order and (order or moved < 1e-12)
