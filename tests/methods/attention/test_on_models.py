"""Attention methods on whole models of every family: identities, caches, padding, generation, and leaving no trace."""

import json
import math

import pytest
import torch

from ropewalk import method
from ropewalk.methods.attention.streaming import StreamingLLM
from tests.matrix import FAMILY_NAMES, LONG, TARGET, buffers, logits, same
from tests.models import shared, tiny, tokens

METHODS = [
    "self-extend(group=6, window=16)",
    "dca",
    "rerope",
    "leaky-rerope",
    "lm-infinite(window=24, sinks=3)",
    "streaming-llm(sinks=3, recent=20)",
    "log-n",
    "yarn-temperature",
    "s2-attention(group_size=16)",
    "dca+yarn-temperature(growing=True)",
    "harpe+self-extend",
    "yarn+rerope(effective_window=128)",
    "gali(local_window=16)",
]
IDENTICAL = {  # up to how many tokens the model is left alone; sliding layers of the families see 16 at least
    "self-extend(group=6, window=16)": 16,
    "dca": 40,
    "rerope": 16,
    "leaky-rerope": 16,
    "lm-infinite(window=24, sinks=3)": 24,
    "streaming-llm(sinks=3, recent=20)": 20,
    "gali(local_window=16)": 64,
    "log-n": 64,
    "yarn-temperature(growing=True)": 64,
    "s2-attention(group_size=16)": 8,
    "dca+log-n": 40,
}
SINKS = ("gpt_oss",)  # softmax with a learned sink, which transformers writes out: equal up to rounding
families = pytest.mark.parametrize("family", FAMILY_NAMES)
methods = pytest.mark.parametrize("spelling", METHODS)
ACROSS = [METHODS[i] for i in (0, 1, 5, 10)]  # on every family; all methods on a plain and on a mixed one
PAIRS = [(f, s) for f in FAMILY_NAMES for s in (METHODS if f in ("llama", "gemma3") else ACROSS)]
cases = pytest.mark.parametrize(("family", "spelling"), PAIRS)
FEW = [(f, s) for f in FAMILY_NAMES for s in (METHODS if f == "llama" else ["dca"])]
few = pytest.mark.parametrize(("family", "spelling"), FEW)


def near(a, b, tolerance=2e-5):
    return float((a - b).abs().max()) <= tolerance


@torch.no_grad()
def in_pieces(model, ids, *sizes, cache=None, **more):
    """Logits of all positions, read on top of a cache."""
    out, start = [], 0
    for size in sizes:
        step = model(ids[:, start : start + size], past_key_values=cache, use_cache=True, **more)
        start, cache = start + size, step.past_key_values
        out.append(step.logits)
    assert start == ids.shape[1]
    return torch.cat(out, 1)


@torch.no_grad()
def greedy(model, ids, n, **more):
    """The next n tokens, each from a forward pass over the whole text."""
    text = ids
    for _ in range(n):
        text = torch.cat([text, logits(model, text, **more)[:, -1:].argmax(-1)], 1)
    return text


# Identities


@families
@pytest.mark.parametrize("spelling", IDENTICAL)
def test_short_texts_are_read_as_by_the_plain_model_bit_for_bit(spelling, family):
    model = shared(family)
    shortest = 16 if "sliding_window" in model.config.to_dict() and model.config.sliding_window else 64
    ids = tokens(2, min(IDENTICAL[spelling], shortest))
    plain = logits(model, ids)
    with method(spelling).on(model, to=TARGET):
        got = logits(model, ids)
    assert near(got, plain, 1e-5) if family in SINKS else torch.equal(got, plain)


@families
@pytest.mark.parametrize("spelling", ["self-extend(group=1)", "leaky-rerope(slope_divisor=1.0)", "rerope(window=63)"])
def test_options_that_change_no_distance_change_nothing(spelling, family):
    model, ids = shared(family), tokens(2, 64)
    with method(spelling).on(model, to=64):
        assert near(logits(model, ids), logits_of_plain(family, ids), 1e-5)


def logits_of_plain(family, ids):
    return logits(tiny(family), ids)


@cases
def test_long_texts_are_not_read_as_by_the_plain_model(spelling, family):
    model = shared(family)
    plain = logits(model, LONG)
    with method(spelling).on(model, to=TARGET):
        assert not near(logits(model, LONG), plain, 1e-3 * float(plain.abs().max()))


# Caches, padding, packing


@cases
def test_pieces_and_single_tokens_give_what_one_forward_gives(spelling, family):
    model, ids = shared(family), tokens(2, 98)
    chosen = method(spelling)
    assert chosen.cache_exact and not chosen.length_dependent
    with chosen.on(model, to=TARGET):
        assert near(in_pieces(model, ids, 70, 22, *[1] * 6), logits(model, ids))


@methods
def test_token_by_token_from_the_first_gives_what_one_forward_gives(spelling):
    model, ids = shared("llama"), tokens(1, 70)
    with method(spelling).on(model, to=TARGET):
        assert near(in_pieces(model, ids, *[1] * 70), logits(model, ids))


@torch.no_grad()
@cases
def test_a_padded_row_gives_what_it_gives_alone(spelling, family):
    model, ids, pad = shared(family), tokens(2, 100), 30
    mask = torch.ones_like(ids)
    mask[0, :pad] = 0
    with method(spelling).on(model, to=TARGET):
        out = model(ids[:, :95], attention_mask=mask[:, :95], use_cache=True)
        later = model(ids[:, 95:], attention_mask=mask, past_key_values=out.past_key_values)
        both = torch.cat([out.logits, later.logits], 1)
        assert near(both[0, pad:], logits(model, ids[:1, pad:])[0])
        assert near(both[1], logits(model, ids[1:])[0])


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_oss"])
@methods
def test_packed_documents_do_not_see_each_other(spelling, family):
    model, ids = shared(family), tokens(2, 120)
    documents = (torch.arange(120) >= 50).long()[None].repeat(2, 1)
    places = torch.where(documents == 0, torch.arange(120), torch.arange(120) - 50)
    with method(spelling).on(model, to=TARGET):
        packed = logits(model, ids, document_ids=documents, position_ids=places)
        assert near(packed, torch.cat([logits(model, ids[:, :50]), logits(model, ids[:, 50:])], 1))


@pytest.mark.parametrize("family", ["llama", "gemma3"])
@methods
def test_no_query_sees_what_follows_it(spelling, family):
    model, ids = shared(family), tokens(1, 120)
    other = ids.clone()
    other[0, 90] = (ids[0, 90] + 1) % 90 + 3
    with method(spelling).on(model, to=TARGET):
        a, b = logits(model, ids), logits(model, other)
    assert torch.equal(a[:, :90], b[:, :90]) and not torch.equal(a[:, 90], b[:, 90])


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "qwen3", "cohere"])
@methods
def test_a_cropped_cache_goes_on_with_another_text(spelling, family):
    model, first, second = shared(family), tokens(2, 90), tokens(2, 90, seed=1)
    joined = torch.cat([first[:, :70], second[:, 70:]], 1)
    with method(spelling).on(model, to=TARGET):
        cache = model(first, use_cache=True).past_key_values
        cache.crop(-20)
        assert near(in_pieces(model, joined[:, 70:], 10, 10, cache=cache), logits(model, joined)[:, 70:])


@torch.no_grad()
@cases
def test_beams_may_take_each_others_place(spelling, family):
    model, ids, new = shared(family), tokens(2, 90), tokens(2, 2, seed=1)
    with method(spelling).on(model, to=TARGET):
        cache = model(ids, use_cache=True).past_key_values
        model(ids[:, -1:], past_key_values=cache)
        cache.reorder_cache(torch.tensor([1, 0]))
        got = model(new, past_key_values=cache).logits
        text = torch.cat([ids, ids[:, -1:]], 1)[[1, 0]]
        assert near(got, logits(model, torch.cat([text, new], 1))[:, -2:])


@torch.no_grad()
def test_rows_of_a_cache_may_be_repeated():
    model, ids, new = shared("llama"), tokens(2, 90), tokens(4, 2, seed=1)
    with method("dca").on(model, to=TARGET):
        cache = model(ids, use_cache=True).past_key_values
        cache.batch_repeat_interleave(2)
        got = model(new, past_key_values=cache).logits
        assert near(got, logits(model, torch.cat([ids.repeat_interleave(2, 0), new], 1))[:, -2:])


@torch.no_grad()
def test_texts_with_caches_of_their_own_may_take_turns():
    model, texts = shared("llama"), [tokens(1, 90), tokens(1, 90, seed=1)]
    with method("self-extend").on(model, to=TARGET):
        wanted = [logits(model, ids) for ids in texts]
        caches = [model(ids[:, :80], use_cache=True).past_key_values for ids in texts]
        for i in range(80, 90):
            for ids, cache, whole in zip(texts, caches, wanted, strict=True):
                assert near(model(ids[:, i : i + 1], past_key_values=cache).logits, whole[:, i : i + 1])


# Generation

OPTIONS = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": -1}


@few
def test_generate_gives_the_tokens_of_whole_forward_passes(spelling, family):
    model, ids = shared(family), tokens(1, 80)
    with method(spelling).on(model, to=TARGET):
        got = model.generate(ids, attention_mask=torch.ones_like(ids), **OPTIONS)
        assert torch.equal(got, greedy(model, ids, 5))


@families
@pytest.mark.parametrize("spelling", ["dca"])
def test_so_does_a_static_cache(spelling, family):
    model, ids = shared(family), tokens(2, 80)
    mask = torch.ones_like(ids)
    mask[0, :20] = 0
    static = {"cache_implementation": "static", "disable_compile": True}
    with method(spelling).on(model, to=TARGET):
        got = model.generate(ids, attention_mask=mask, **OPTIONS, **static)
        assert torch.equal(got[1:], greedy(model, ids[1:], 5))
        assert torch.equal(got[:1, 20:], greedy(model, ids[:1, 20:], 5))


@families
@pytest.mark.parametrize(
    ("cache", "spelling"),
    [
        ("dynamic", "dca"),
        ("static", "dca"),
        ("dynamic", "streaming-llm(sinks=3, recent=20)"),
        ("static", "leaky-rerope"),
    ],
)
def test_so_do_beams(cache, spelling, family):
    model, ids = shared(family), tokens(1, 80)
    options = {"attention_mask": torch.ones_like(ids), "num_beams": 3, "disable_compile": True}
    options |= OPTIONS | {"max_new_tokens": 4}
    with method(spelling).on(model, to=TARGET):
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
        got = model.generate(ids, attention_mask=torch.ones_like(ids), past_key_values=cache, **OPTIONS)
        assert torch.equal(got, greedy(model, ids, 5))
    assert {layer.keys.shape[2] for layer in cache.layers} == {3 + 10 - 1}


# Nothing stays behind


def traces(model):
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    attributes = [name for m in model.modules() for name in vars(m) if "ropewalk" in name]
    return hooks, attributes, model.config._attn_implementation, model.config.to_dict()


@few
def test_the_model_is_as_before_after_an_exception(spelling, family):
    model = tiny(family)
    state, before, plain = buffers(model), traces(model), logits(model, LONG)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), method(spelling).on(model, to=TARGET):
        logits(model, LONG)
        raise KeyboardInterrupt
    assert same(buffers(model), state) and traces(model) == before and before[1] == []
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
