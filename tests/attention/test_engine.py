"""Frequencies chosen at run time: against a dense reference; one forward against chunks, tokens, padding, packing."""

import math

import pytest
import torch
from transformers import DynamicCache, StaticCache

from ropewalk import method
from ropewalk.attention.engine import attending_plainly
from ropewalk.methods.frequencies.harpe import HARPE
from ropewalk.rope import config as rope_config
from ropewalk.rope.rotation import rotate, tables
from tests.attention.dense import dense_logits
from tests.matrix import FAMILY_NAMES, LONG, RUNTIME, SHORT, TARGET, WINDOW, left_padded, logits, near
from tests.models import in_pieces, shared, step, tiny, tokens

SINKS = ("gpt_oss",)  # softmax with a learned sink, which transformers writes out: equal up to rounding
N = 150  # beyond the window of 64
FIXED = [name for name in RUNTIME if not method(name).length_dependent]
families = pytest.mark.parametrize("family", FAMILY_NAMES)
runtime = pytest.mark.parametrize("spelling", RUNTIME)
fixed = pytest.mark.parametrize("spelling", FIXED)


def in_chunks(model, ids, *sizes):
    """Logits read on top of a cache; the last size is repeated to the end."""
    missing = ids.shape[1] - sum(sizes)
    more = [min(sizes[-1], missing - done) for done in range(0, missing, sizes[-1])]
    return in_pieces(model, ids, *sizes, *more)


def ntk(length, d=16, base=1e4, window=WINDOW):
    """The card's formula: base * max(1, n / L) ** (d / (d - 2))."""
    base *= max(1.0, length / window) ** (d / (d - 2))
    return base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)


# The identity


@families
def test_the_models_own_base_gives_the_models_own_logits(family):
    model = shared(family)
    base = rope_config.read(model.config)
    base = next(spec.base for spec in base.values() if not spec.sliding)
    plain = logits(model, LONG)
    with HARPE(base_min=base, base_max=base).on(model, to=TARGET):
        assert near(logits(model, LONG), plain)


# Against the dense reference


def test_the_dense_reference_is_the_plain_model():
    model = shared("llama")
    assert near(logits(model, LONG[:, :N])[0], dense_logits(model, LONG[0, :N], lambda m: ntk(1)))


def test_dynamic_ntk_in_one_forward_uses_the_base_of_the_whole_length():
    model = shared("llama")
    with method("dynamic-ntk").on(model, to=TARGET):
        assert near(logits(model, LONG[:, :N])[0], dense_logits(model, LONG[0, :N], lambda m: ntk(N)))


def test_dynamic_ntk_token_by_token_uses_the_base_of_every_moment():
    model = shared("llama")
    with method("dynamic-ntk").on(model, to=TARGET):
        assert near(in_chunks(model, LONG[:, :N], 1)[0], dense_logits(model, LONG[0, :N], lambda m: ntk(m + 1)))


def test_dynamic_ntk_in_chunks_uses_the_base_at_the_end_of_each_chunk():
    model = shared("llama")
    with method("dynamic-ntk").on(model, to=TARGET):
        expected = dense_logits(model, LONG[0, :N], lambda m: ntk(50 * (m // 50 + 1)))
        assert near(in_chunks(model, LONG[:, :N], 50)[0], expected)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_harpe_gives_every_key_value_head_its_base(kv_heads):
    model = tiny("llama", num_key_value_heads=kv_heads)
    bases = torch.linspace(1e3, 1e5, kv_heads, dtype=torch.float64)
    inv_freq = bases[:, None] ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    with method("harpe(base_min=1e3, base_max=1e5)").on(model, to=TARGET):
        assert near(logits(model, LONG[:, :N])[0], dense_logits(model, LONG[0, :N], lambda m: inv_freq))


def test_entropy_abf_scales_the_scores_of_late_queries():
    model = shared("llama")
    inv_freq = 500000.0 ** (-torch.arange(0, 16, 2, dtype=torch.float64) / 16)
    expected = dense_logits(
        model, LONG[0, :N], lambda m: inv_freq, lambda m: max(1.0, math.log(m + 1) / math.log(WINDOW))
    )
    with method("entropy-abf").on(model, to=TARGET):
        assert near(logits(model, LONG[:, :N])[0], expected)


# Against static methods


@families
def test_harpe_with_equal_bases_is_abf(family):
    model = shared(family)
    with method("abf(base=3e6)").on(model, to=TARGET):
        expected = logits(model, LONG)
    with method("harpe(base_min=3e6, base_max=3e6)").on(model, to=TARGET):
        assert near(logits(model, LONG), expected)


@families
def test_entropy_abf_is_abf_on_short_inputs(family):
    model = shared(family)
    with method("abf(base=5e5)").on(model, to=TARGET):
        whole, first = logits(model, SHORT), logits(model, SHORT[:, :16])
    with method("entropy-abf").on(model, to=TARGET):
        assert near(logits(model, SHORT), whole) and near(logits(model, SHORT[:, :16]), first)


@families
def test_dynamic_ntk_is_the_plain_model_on_short_inputs(family):
    model = shared(family)
    whole, first = logits(model, SHORT), logits(model, SHORT[:, :16])
    with method("dynamic-ntk").on(model, to=TARGET):
        assert near(logits(model, SHORT), whole)
        assert family in SINKS or torch.equal(logits(model, SHORT[:, :16]), first)


def test_dynamic_ntk_is_the_same_whatever_the_target():
    model = shared("llama")
    with method("dynamic-ntk").on(model, to=TARGET):
        expected = logits(model, LONG)
    with method("dynamic-ntk").on(model, to=4096):
        assert torch.equal(logits(model, LONG), expected)


def test_dynamic_ntk_equals_transformers_dynamic_in_one_forward():
    model = tiny("llama", rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 3.0})
    expected = logits(model, LONG)
    with method("dynamic-ntk(form='hf', factor=3.0)").on(shared("llama"), to=TARGET):
        assert near(logits(shared("llama"), LONG), expected)


# With a cache


@families
@fixed
@pytest.mark.parametrize("sizes", [(70,), (130, 1)], ids=["chunks", "decoding"])
def test_a_cache_changes_nothing_where_frequencies_are_fixed(spelling, family, sizes):
    model, ids = shared(family), tokens(2, 140)
    with method(spelling).on(model, to=TARGET):
        assert near(in_chunks(model, ids, *sizes), logits(model, ids))


@families
def test_dynamic_ntk_chunks_equal_one_forward_inside_the_window(family):
    model = shared(family)
    with method("dynamic-ntk").on(model, to=TARGET):
        assert near(in_chunks(model, SHORT, 20), logits(model, SHORT))


@pytest.mark.parametrize("sizes", [(40,), (140, 1)], ids=["chunks", "decoding"])
@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gpt_neox", "cohere"])
def test_dynamic_ntk_of_one_layer_does_not_depend_on_the_cut(family, sizes):
    model, ids = tiny(family, num_hidden_layers=1), tokens(3, N)
    with method("dynamic-ntk").on(model, to=TARGET):
        assert near(in_chunks(model, ids, *sizes)[:, -1], logits(model, ids)[:, -1])


def test_transformers_dynamic_does_depend_on_the_cut():
    model = tiny(
        "llama", num_hidden_layers=1, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    )
    one = logits(model, LONG)[:, -1]
    fresh = tiny(
        "llama", num_hidden_layers=1, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    )
    assert not near(in_chunks(fresh, LONG, 1)[:, -1], one, 1e-2)  # it caches keys rotated by outgrown bases


@torch.no_grad()
@families
@fixed
def test_padded_rows_equal_unpadded_rows(spelling, family):
    model, ids, short = shared(family), tokens(2, 100), 70
    ids[0, : 100 - short] = 2
    mask = left_padded(ids, 100 - short)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with method(spelling).on(model, to=TARGET):
        first, cache = step(model, ids[:, :90], attention_mask=mask[:, :90], position_ids=positions[:, :90])
        later, _ = step(model, ids[:, 90:], cache, attention_mask=mask, position_ids=positions[:, 90:])
        padded = torch.cat([first, later], 1)
        assert near(padded[1], logits(model, ids[1:])[0])
        assert near(padded[0, 100 - short :], logits(model, ids[:1, 100 - short :])[0])


@torch.no_grad()
def test_the_longest_row_of_a_batch_sets_the_length():
    model, ids = shared("llama"), tokens(2, 100)
    mask = left_padded(ids, 60)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    with method("dynamic-ntk").on(model, to=TARGET):
        both = logits(model, ids, attention_mask=mask, position_ids=positions)
        assert near(both[1], logits(model, ids[1:])[0])
    assert near(both[0, 60:], dense_logits(model, ids[0, 60:], lambda m: ntk(100)))


# Generation


@fixed
def test_generate_does_not_see_padding(spelling):
    model, ids = shared("llama"), tokens(2, 80)
    ids[0, :30] = 2
    mask = left_padded(ids, 30)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": -1}
    with method(spelling).on(model, to=TARGET):
        both = model.generate(ids, attention_mask=mask, **options)
        alone = model.generate(ids[:1, 30:], attention_mask=mask[:1, 30:], **options)
    assert torch.equal(both[0, 80:], alone[0, 50:])


@fixed
def test_generate_when_every_row_is_padded(spelling):
    model, ids = shared("llama"), tokens(1, 80)
    mask = (torch.arange(80) >= 40).long()[None]
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": -1}
    with method(spelling).on(model, to=TARGET):
        padded = model.generate(ids, attention_mask=mask, **options)
        alone = model.generate(ids[:, 40:], attention_mask=mask[:, 40:], **options)
    assert torch.equal(padded[0, 80:], alone[0, 40:])


@torch.no_grad()
@runtime
@pytest.mark.parametrize("size", [101, 150, 256])
def test_a_static_cache_gives_what_a_dynamic_one_gives(spelling, size):
    model = shared("llama")

    def read(cache):
        steps = [step(model, LONG[:, a:b], cache)[0] for a, b in ((0, 80), (80, 100), (100, 101))]
        return torch.cat(steps, 1)

    with method(spelling).on(model, to=TARGET):
        assert near(read(StaticCache(config=model.config, max_cache_len=size)), read(DynamicCache()))


# What surrounds it


@runtime
@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
def test_the_attention_implementation_is_put_back(spelling, implementation):
    model = tiny("llama")
    model.config._attn_implementation = implementation
    with pytest.raises(KeyboardInterrupt), method(spelling).on(model, to=TARGET):
        assert model.config._attn_implementation == "ropewalk"
        raise KeyboardInterrupt
    assert model.config._attn_implementation == implementation


@pytest.mark.parametrize("style", ["half", "interleaved"])
def test_autocast_does_not_touch_angles(style):
    x, positions, inv_freq = torch.randn(1, 4, 8, 16), torch.arange(99992, 100000)[None], ntk(1).float()
    expected = rotate(x, *tables(positions, inv_freq, 1.0), style)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rotate(x, *tables(positions, inv_freq, 1.0), style), expected)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [False, True])
def test_far_positions_stay_apart_under_autocast(use_cache):
    model, ids = tiny("llama"), tokens(1, 8)
    far, mask = 60000 + torch.arange(8)[None], torch.ones_like(ids)  # in bfloat16 all of them are 59904
    expected = dense_logits(model, ids[0], lambda m: ntk(1))  # scores depend on distances only
    with HARPE(base_min=1e4, base_max=1e4).on(model, to=65536), torch.autocast("cpu", torch.bfloat16):
        got = model(ids, attention_mask=mask, position_ids=far, use_cache=use_cache).logits[0]
    assert (got - expected).abs().max() < 0.05 * expected.abs().max()


@families
def test_without_a_method_the_engine_is_the_model_itself(family):
    """Jumps, fractions, padding in front; sliding windows count tokens; packed documents are those alone."""
    model, ids, ones = tiny(family), tokens(2, 40), torch.ones(2, 40, dtype=torch.long)
    jump = torch.arange(40)[None] + 15 * (torch.arange(40) >= 25)
    padded = (torch.arange(40) >= torch.tensor([[9], [0]])).long()
    inputs = [
        {"attention_mask": ones, "position_ids": jump},
        {"attention_mask": ones, "position_ids": jump / 3},
        {"attention_mask": padded, "position_ids": (padded.cumsum(-1) - 1).clamp_min(0)},
    ]
    documents = (torch.arange(40) >= 18).long()[None]
    packed = {"document_ids": documents, "position_ids": torch.arange(40)[None] - 18 * documents}
    with torch.no_grad():
        expected = [model(ids, use_cache=False, **given).logits for given in inputs]
        alone = torch.cat([model(part, use_cache=False).logits for part in (ids[:, :18], ids[:, 18:])], 1)
        with attending_plainly(model):
            got = [model(ids, use_cache=False, **given).logits for given in inputs]
            torch.testing.assert_close(model(ids, use_cache=False, **packed).logits, alone, atol=2e-5, rtol=1e-4)
    expected[2][0, :9] = got[2][0, :9] = 0
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def test_where_a_method_is_on_the_engine_is_its_own():
    model = tiny("llama")
    with method("log-n").on(model), attending_plainly(model) as engine:
        assert [one.name for one in engine.methods] == ["log-n"]
