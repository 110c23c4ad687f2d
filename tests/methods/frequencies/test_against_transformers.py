"""Where transformers has a function for a method, both give the same numbers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ropewalk import RopeSpec, YaRN, method
from ropewalk.methods.frequencies.dynamic_ntk import DynamicNTK
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.rope.live import TOLERANCE

POINTS = st.tuples(
    st.sampled_from([16, 32, 48, 64, 80, 96, 128, 256]),  # d
    st.floats(1e3, 1e8),  # b
    st.integers(256, 131072),  # L
    st.floats(1.01, 64),  # s
)


def theirs(rope, rope_type, target, seq_len=None, **parameters):
    config = LlamaConfig(
        hidden_size=rope.rotary_dim,
        num_attention_heads=1,
        num_key_value_heads=1,
        max_position_embeddings=rope.window if rope_type == "dynamic" else target,
        rope_parameters={"rope_type": rope_type, "rope_theta": rope.base, **parameters},
    )
    return ROPE_INIT_FUNCTIONS[rope_type](config, torch.device("cpu"), seq_len=seq_len)


def at(point):
    d, base, window, s = point
    return RopeSpec.plain(base, d, window), max(window + 1, round(window * s))


def assert_equal(ours, reference, blend=1.0):
    """Equal within what the live check allows: transformers' float32 rounding, more where it blends w and w / s."""
    inv_freq, attention_factor = reference
    assert torch.allclose(ours.inv_freq, inv_freq.double(), rtol=TOLERANCE * blend, atol=0)
    assert ours.attention_factor == pytest.approx(attention_factor, rel=1e-12)


@given(POINTS)
def test_pi_is_linear(point):
    rope, target = at(point)
    assert_equal(method("pi").frequencies(rope, target), theirs(rope, "linear", target, factor=rope.scale(target)))


@given(POINTS, st.floats(1, 16), st.floats(0.1, 40))
def test_dynamic_ntk_at_any_length(point, factor, growth):
    rope, _ = at(point)
    length = max(1, round(rope.window * growth))
    ours = DynamicNTK(form="hf", factor=factor).frequencies(rope, length)
    assert_equal(ours, theirs(rope, "dynamic", 0, seq_len=length, factor=factor))


@given(POINTS, st.floats(8, 128), st.floats(0.25, 4), st.booleans())
def test_yarn(point, fast, slow, truncate):
    rope, target = at(point)
    parameters = {
        "factor": rope.scale(target),
        "original_max_position_embeddings": rope.window,
        "beta_fast": fast,
        "beta_slow": slow,
        "truncate": truncate,
    }
    ours = YaRN(beta_fast=fast, beta_slow=slow, truncate=truncate).frequencies(rope, target)
    assert_equal(ours, theirs(rope, "yarn", target, **parameters), blend=rope.scale(target))


def test_yarn_with_an_attention_factor():
    rope, target = RopeSpec.plain(1e4, 128, 4096), 16384
    parameters = {"factor": 4.0, "original_max_position_embeddings": 4096, "attention_factor": 1.3}
    assert_equal(YaRN(attention_factor=1.3).frequencies(rope, target), theirs(rope, "yarn", target, **parameters))


@pytest.mark.parametrize(
    "spelling, low, high", [("llama3", 1, 4), ("ntk-by-parts", 1, 32), ("ntk-by-parts(low=2.0, high=9.0)", 2, 9)]
)
@given(POINTS)
def test_by_parts_is_llama3(spelling, low, high, point):
    rope, target = at(point)
    parameters = {
        "factor": rope.scale(target),
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": rope.window,
    }
    ours = method(spelling).frequencies(rope, target)
    assert_equal(ours, theirs(rope, "llama3", target, **parameters), blend=rope.scale(target))


@given(POINTS, st.randoms(use_true_random=False))
def test_longrope(point, random):
    rope, target = at(point)
    factors = sorted(random.uniform(1, 64) for _ in range(rope.rotary_dim // 2))
    parameters = {
        "short_factor": factors,
        "long_factor": factors,
        "original_max_position_embeddings": rope.window,
    }
    assert_equal(LongRoPE(tuple(factors)).frequencies(rope, target), theirs(rope, "longrope", target, **parameters))


@pytest.mark.parametrize("spelling", ["pi", "ntk-aware", "ntk-by-parts", "llama3", "yarn", "abf", "longembed-rope"])
@given(POINTS)
def test_native_parameters_say_what_the_method_does(spelling, point):
    rope, target = at(point)
    chosen = method(spelling)
    native = {"rope_theta": rope.base, **chosen.native(rope, target)}
    if native["rope_type"] == "default":
        rebuilt = RopeSpec.plain(native["rope_theta"], rope.rotary_dim, rope.window)
        assert torch.allclose(chosen.frequencies(rope, target).inv_freq, rebuilt.inv_freq, rtol=1e-12)
    else:
        reference = theirs(rope, native.pop("rope_type"), target, **native)
        assert_equal(chosen.frequencies(rope, target), reference, blend=rope.scale(target))
