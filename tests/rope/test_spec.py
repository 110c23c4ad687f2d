"""The numbers of a RopeSpec, and what an extension starts from."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ropewalk import Frequencies, RopeSpec
from ropewalk.rope.config import spec_from_json, spec_to_json

PLAIN = RopeSpec.plain(10000.0, 16, 64)
SCALED = replace(PLAIN, factors=(1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0), length=256, attention_factor=1.1)


def test_frequencies_are_those_of_the_base_over_the_factors():
    expected = torch.tensor([10000 ** (-i / 8) / f for i, f in enumerate(SCALED.factors)], dtype=torch.float64)
    assert torch.allclose(SCALED.inv_freq, expected, rtol=1e-15)


def test_factors_of_frequencies_are_relative_to_the_base():
    assert Frequencies(SCALED.inv_freq).factors(PLAIN).tolist() == pytest.approx(SCALED.factors)


@pytest.mark.parametrize("target, s", [(1, 1.0), (64, 1.0), (96, 1.5), (256, 4.0)])
def test_scale_never_shrinks(target, s):
    assert PLAIN.scale(target) == s


@pytest.mark.parametrize("change", [{"factors": SCALED.factors}, {"attention_factor": 1.1}, {"rope_type": "dynamic"},
                                    {"long_factors": (1.0,) * 8}])  # fmt: skip
def test_plain_means_that_nothing_is_scaled(change):
    assert PLAIN.is_plain and not replace(PLAIN, **change).is_plain


@pytest.mark.parametrize("turns", [0.5, 1, 2, 5])
def test_index_of_turns_inverts_turns(turns):
    index = replace(PLAIN, length=256).index_of_turns(turns)  # the window counts, not the promised length
    wavelength = 2 * torch.pi * 10000 ** (2 * index / 16)
    assert 64 / wavelength == pytest.approx(turns)


@given(st.floats(1.1, 1000), st.integers(0, 6), st.floats(0.01, 0.99))
def test_index_of_turns_of_scaled_frequencies_lies_between_its_neighbours(stretch, i, share):
    spec = RopeSpec.plain(10000.0, 16, 4096, factors=tuple(stretch ** (j / 8) for j in range(8)))
    between = float(spec.turns[i] ** (1 - share) * spec.turns[i + 1] ** share)
    assert spec.index_of_turns(between) == pytest.approx(i + share)


@pytest.mark.parametrize("rope_type", ["linear", "dynamic", "yarn"])
def test_replaced_types_start_from_the_plain_frequencies(rope_type):
    assert replace(SCALED, rope_type=rope_type).to_extend() == PLAIN


@pytest.mark.parametrize("rope_type", ["llama3", "longrope"])
def test_trained_in_types_stay_below(rope_type):
    start = replace(SCALED, rope_type=rope_type).to_extend()
    assert (start.window, start.factors, start.attention_factor) == (256, SCALED.factors, 1.1)


def test_of_two_factor_sets_the_long_one_stays_below():
    start = replace(PLAIN, rope_type="longrope", length=256, long_factors=SCALED.factors).to_extend()
    assert (start.window, start.factors, start.long_factors) == (256, SCALED.factors, None)


@pytest.mark.parametrize(
    "rope_type, on_top, window", [("yarn", True, 256), ("llama3", False, 64), ("longrope", False, 64)]
)
def test_on_top_overrides_the_choice(rope_type, on_top, window):
    start = replace(SCALED, rope_type=rope_type).to_extend(on_top)
    assert start.window == window and start.is_plain == (not on_top)


SPECS = st.builds(
    RopeSpec,
    base=st.floats(2, 1e9),
    rotary_dim=st.just(8),
    head_dim=st.integers(8, 256),
    window=st.integers(1, 2**20),
    length=st.integers(1, 2**24),
    factors=st.tuples(*[st.floats(0.1, 1e30)] * 4),
    long_factors=st.none() | st.tuples(*[st.floats(0.1, 1e30)] * 4),
    attention_factor=st.floats(0.1, 3),
    rope_type=st.sampled_from(["default", "yarn", "longrope"]),
    style=st.sampled_from(["half", "interleaved"]),
    kv_heads=st.integers(1, 64),
    layer_type=st.sampled_from(["all", "full_attention"]),
    sliding=st.booleans(),
)


@given(SPECS)
def test_specs_survive_json(spec):
    assert spec_from_json(json.loads(json.dumps(spec_to_json(spec)))) == spec


def test_on_top_of_a_rope_that_is_for_more_than_is_promised_starts_from_what_it_is_for():
    spec = replace(SCALED, rope_type="yarn", factor=4.0, length=SCALED.window + 1)
    start = spec.to_extend(on_top=True)
    assert start.window == start.length == spec.made_for == 4 * SCALED.window
    assert start.to_extend() == start, "decided once"
    assert spec.to_extend(on_top=False).window == SCALED.window
