"""Attention methods on every family of models: caches, padding, generation, and leaving no trace."""

import json
import math

import pytest
import torch

from ropewalk import method
from ropewalk.attention.cache_argument import as_argument
from ropewalk.methods.attention.streaming import StreamingLLM
from tests.matrix import FAMILY_NAMES, LONG, TARGET, buffers, left_padded, logits, near, same, traces
from tests.models import in_pieces, shared, step, tiny, tokens

families = pytest.mark.parametrize("family", FAMILY_NAMES)


@torch.no_grad()
def greedy(model, ids, n):
    """The next n tokens, each from a forward pass over the whole text."""
    text = ids
    for _ in range(n):
        text = torch.cat([text, logits(model, text)[:, -1:].argmax(-1)], 1)
    return text


# Identities


@families
@pytest.mark.parametrize("spelling", ["self-extend(group=1)", "leaky-rerope(slope_divisor=1.0)", "rerope(window=63)"])
def test_options_that_change_no_distance_change_nothing(spelling, family):
    model, ids = shared(family), tokens(2, 64)
    plain = logits(model, ids)
    with method(spelling).on(model, to=64):
        assert near(logits(model, ids), plain, 1e-5)


# Caches, padding, packing


@torch.no_grad()
@families
def test_a_padded_row_gives_what_it_gives_alone(family):
    model, ids, pad = shared(family), tokens(2, 100), 30
    mask = left_padded(ids, pad)
    with method("dca").on(model, to=TARGET):
        first, cache = step(model, ids[:, :95], attention_mask=mask[:, :95])
        later, _ = step(model, ids[:, 95:], cache, attention_mask=mask)
        both = torch.cat([first, later], 1)
        assert near(both[0, pad:], logits(model, ids[:1, pad:])[0])
        assert near(both[1], logits(model, ids[1:])[0])


@torch.no_grad()
@families
def test_beams_may_take_each_others_place(family):
    model, ids, new = shared(family), tokens(2, 90), tokens(2, 2, seed=1)
    with method("dca").on(model, to=TARGET):
        _, cache = step(model, ids)
        step(model, ids[:, -1:], cache)
        cache.reorder_cache(torch.tensor([1, 0]))
        got, _ = step(model, new, cache)
        text = torch.cat([ids, ids[:, -1:]], 1)[[1, 0]]
        assert near(got, logits(model, torch.cat([text, new], 1))[:, -2:])


@torch.no_grad()
def test_rows_of_a_cache_may_be_repeated():
    model, ids, new = shared("llama"), tokens(2, 90), tokens(4, 2, seed=1)
    with method("dca").on(model, to=TARGET):
        _, cache = step(model, ids)
        cache.batch_repeat_interleave(2)
        got, _ = step(model, new, cache)
        assert near(got, logits(model, torch.cat([ids.repeat_interleave(2, 0), new], 1))[:, -2:])


# Generation

OPTIONS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1}


@families
def test_generate_gives_the_tokens_of_whole_forward_passes(family):
    model, ids = shared(family), tokens(1, 80)
    with method("dca").on(model, to=TARGET):
        got = model.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS)
        assert torch.equal(got, greedy(model, ids, 5))


@families
def test_so_does_a_static_cache(family):
    model, ids = shared(family), tokens(2, 80)
    mask = left_padded(ids, 20)
    static = {"cache_implementation": "static", "disable_compile": True}
    with method("dca").on(model, to=TARGET):
        got = model.generate(ids, attention_mask=mask, **OPTIONS, **static)
        assert torch.equal(got[1:], greedy(model, ids[1:], 5))
        assert torch.equal(got[:1, 20:], greedy(model, ids[:1, 20:], 5))


@families
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_so_do_beams(cache, family):
    model, ids = shared(family), tokens(1, 80)
    options = {"attention_mask": torch.ones_like(ids), "num_beams": 3, "disable_compile": True}
    options |= OPTIONS | {"max_new_tokens": 4}
    with method("dca").on(model, to=TARGET):
        got = model.generate(ids, cache_implementation=cache, **options)
        assert torch.equal(got, model.generate(ids, use_cache=False, **options))


# StreamingLLM's own cache


@torch.no_grad()
@families
@pytest.mark.parametrize("sizes", [[1] * 30, [70, 1, 1, 20, 1]], ids=["tokens", "chunks"])
def test_the_sink_cache_gives_the_same_in_constant_memory(sizes, family):
    chosen = StreamingLLM(sinks=3, recent=10)
    model, ids = shared(family), tokens(2, sum(sizes))
    cache = chosen.cache(model)
    with chosen.on(model, to=TARGET):
        assert near(in_pieces(model, ids, *sizes, cache=cache), logits(model, ids))
    sliding = getattr(model.config, "sliding_window", None) or 0
    assert all(layer.keys.shape[2] <= max(3 + 10, sliding) for layer in cache.layers)


def test_generate_with_the_sink_cache():
    chosen = StreamingLLM(sinks=3, recent=10)
    model, ids = shared("llama"), tokens(2, 80)
    with chosen.on(model, to=TARGET):
        cache = chosen.cache(model)
        got = model.generate(ids, attention_mask=torch.ones_like(ids), **as_argument(model, cache), **OPTIONS)
        assert torch.equal(got, greedy(model, ids, 5))
    assert {layer.keys.shape[2] for layer in cache.layers} == {3 + 10 - 1}


# Nothing stays behind


@families
def test_the_model_is_as_before_after_an_exception(family):
    model = tiny(family)
    state, before, plain = buffers(model), traces(model), logits(model, LONG)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), method("dca").on(model, to=TARGET):
        logits(model, LONG)
        raise KeyboardInterrupt
    assert same(buffers(model), state) and traces(model) == before
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert torch.equal(logits(model, LONG), plain)


@families
def test_an_exception_inside_a_forward_pass_leaves_no_trace_either(family):
    model = tiny(family)
    before, plain = traces(model), logits(model, LONG)
    with pytest.raises(IndexError), method("dca").on(model, to=TARGET):
        logits(model, torch.full((1, 8), 10**6))
    assert traces(model) == before and torch.equal(logits(model, LONG), plain)


@families
def test_nothing_reaches_the_saved_model(family, tmp_path):
    model = tiny(family)
    model.save_pretrained(tmp_path / "before")
    with method("dca").on(model, to=TARGET):
        model.save_pretrained(tmp_path / "within")
    before, within = ((tmp_path / name / "config.json").read_text() for name in ("before", "within"))
    assert json.loads(before) == json.loads(within) and "ropewalk" not in within
    assert (tmp_path / "before/model.safetensors").read_bytes() == (tmp_path / "within/model.safetensors").read_bytes()


def test_two_models_may_have_methods_of_their_own():
    a, b = tiny("llama"), tiny("llama")
    with method("dca").on(a, to=TARGET):
        alone = logits(a, LONG)
    with method("dca").on(a, to=TARGET), method("rerope").on(b, to=TARGET):
        assert torch.equal(logits(a, LONG), alone) and not near(logits(b, LONG), alone, 1e-2)


# Temperatures and windows


def test_a_temperature_is_a_longer_query():
    model, factor = tiny("llama"), (0.1 * math.log(4) + 1) ** 2
    with method("yarn-temperature").on(model, to=TARGET):
        got = logits(model, LONG)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(factor)
    assert near(got, logits(model, LONG))


def test_an_effective_window_stands_for_the_trained_one():
    model = shared("llama")
    with method("rerope(effective_window=32)").on(model, to=TARGET):
        got = logits(model, LONG)
    with method("rerope(window=8)").on(model, to=TARGET):
        assert torch.equal(got, logits(model, LONG))
