"""Numbers worked out by hand or by the authors' own code, at one point: d = 128, b = 10000, L = 4096, T = 16384."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from ropewalk import RopeSpec, UserError, method
from ropewalk.methods.frequencies.abf import bound_base, critical_base
from ropewalk.methods.frequencies.clex import CLEX
from ropewalk.methods.frequencies.dprope import DistributionalRoPE
from ropewalk.methods.frequencies.dynamic_ntk import DynamicNTK
from ropewalk.methods.frequencies.entropy_abf import EntropyABF
from ropewalk.methods.frequencies.harpe import HARPE
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.frequencies.ntk import NTKAware, ntk_base
from tests.methods.oracles import AT, FACTORS

ROPE = RopeSpec.plain(10000.0, 128, 4096)
TARGET = 16384


def factors(spelling, rope=ROPE, target=TARGET):
    return method(spelling).frequencies(rope, target).factors(rope)


def near(values):
    return pytest.approx(values, abs=6e-7)  # the oracles have six decimals


@pytest.mark.parametrize("spelling", FACTORS)
def test_factors(spelling):
    found = factors(spelling)[..., AT].flatten().tolist()
    stated = [(a, b) for a, b in zip(found, FACTORS[spelling], strict=True) if not math.isnan(b)]
    assert [a for a, _ in stated] == near([b for _, b in stated])


def test_frequencies_wavelengths_and_turns():
    assert ROPE.inv_freq[AT].tolist() == pytest.approx([1, 0.1, 0.01, 0.00316228, 0.001, 0.000115478], rel=1e-5)
    wavelengths = [6.283185, 62.831853, 628.318531, 1986.917653, 6283.185307, 54410.143]
    assert [ROPE.wavelengths[i] for i in AT] == pytest.approx(wavelengths, rel=1e-7)
    assert [ROPE.turns[i] for i in AT] == near([651.898647, 65.189865, 6.518986, 2.061485, 0.651899, 0.075280])


@pytest.mark.parametrize(
    "rope, critical",
    [(ROPE, 46), (RopeSpec.plain(1e4, 96, 2048), 31), (RopeSpec.plain(5e5, 128, 8192), 35)],
    ids=["llama2", "phi3-mini", "llama3"],
)
def test_critical_dimension(rope, critical):
    assert rope.critical_dimension == critical


def test_ntk_base():
    assert NTKAware().base(ROPE, TARGET) == near(40889.942432)


@pytest.mark.parametrize("ramp_end, turns", [(20.944482, 32), (45.026881, 1)])
def test_yarn_ramp_ends(ramp_end, turns):
    assert ROPE.index_of_turns(turns) == near(ramp_end)


@pytest.mark.parametrize("s, t", [(2, 1.069315), (4, 1.138629), (8, 1.207944), (16, 1.277259), (32, 1.346574)])
def test_yarn_attention_factor(s, t):
    assert method("yarn").frequencies(ROPE, 4096 * s).attention_factor == near(t)


@pytest.mark.parametrize(
    ("spelling", "s", "expected"),
    [  # pairs 20, 21, 25, 30, 35, 40, 45, 46
        ("mr-rope", 16, [1, 1.007930, 1.125792, 1.544115, 2.580269, 5.253076, 13.029445, 16]),
        ("mr-rope", 4, [1, math.nan, 1.061033, 1.242624, 1.606322, 2.291959, 3.609632, 4]),
        ("mr-rope(rise='uniform')", 16, [1, 1.112531, 1.704361, 2.904846, 4.950905, 8.438129, 14.381616, 16]),
    ],
)
def test_mr_rope_against_the_official_code(spelling, s, expected):
    found = factors(spelling, target=4096 * s)[[20, 21, 25, 30, 35, 40, 45, 46]].tolist()
    stated = [(a, b) for a, b in zip(found, expected, strict=True) if not math.isnan(b)]
    assert [a for a, _ in stated] == near([b for _, b in stated])
    assert method(spelling).frequencies(ROPE, 4096 * s).attention_factor == near(0.1 * math.log(s) + 1)


@pytest.mark.parametrize("rise", ["progressive", "uniform"])
def test_mr_rope_with_one_bound_is_a_step(rise):
    found = factors(f"mr-rope(beta_fast=4, beta_slow=4, rise={rise})").tolist()
    assert found == near([1] * 36 + [4] * 28)  # 35.4 turns into a step between 35 and 36


def test_mr_rope_does_not_reach_s_where_every_pair_turns_often():
    last = factors("mr-rope", RopeSpec.plain(10000.0, 128, 131072), 4 * 131072)[-1]
    assert 1 < last < 4


def test_paper_ramp_is_ntk_by_parts_with_a_temperature():
    paper, parts = (method(m).frequencies(ROPE, TARGET) for m in ("yarn(ramp='paper')", "ntk-by-parts"))
    assert torch.allclose(paper.inv_freq, parts.inv_freq, rtol=1e-14)
    assert (paper.attention_factor, parts.attention_factor) == (near(1.138629), 1.0)


def test_llama3():
    f = factors("llama3", RopeSpec.plain(5e5, 128, 8192), 65536)
    assert f[AT].tolist() == near([1, 1, 2.694530, 8, 8, 8])
    assert int((f > 1 + 1e-12).int().argmax()) == 29
    assert int((f > 8 - 1e-12).int().argmax()) == 35


@pytest.mark.parametrize(
    "length, base", [(4096, 10000), (6144, 30527.736749), (8192, 51293.787268), (16384, 135401.973042)]
)
def test_dynamic_ntk_base_in_the_form_of_transformers(length, base):
    assert DynamicNTK(form="hf", factor=4.0).base(ROPE, length) == near(base)


def test_dynamic_ntk_base_in_the_form_of_the_paper_is_the_ntk_base_of_the_length():
    assert DynamicNTK().base(ROPE, TARGET) == near(40889.942432)


def test_abf_critical_base():
    assert critical_base(10000.0, 4096, TARGET) == near(71738.436200)


def test_abf_critical_base_keeps_the_critical_dimension():
    raised = RopeSpec.plain(critical_base(10000.0, 4096, TARGET), 128, TARGET)
    assert raised.index_of_turns(1) == pytest.approx(ROPE.index_of_turns(1), abs=1e-9)


@pytest.mark.parametrize(
    "target, base",
    [
        (1024, 4329),
        (2048, 1.449e4),
        (4096, 2.897e4),
        (8192, 8.441e4),
        (16384, 3.444e5),
    ],
)
def test_abf_bound_base(target, base):
    assert bound_base(128, target) == pytest.approx(base, rel=0.041)  # two steps of the grid


def test_abf_bound_base_is_the_first_on_the_grid_whose_sum_of_cosines_stays_positive():
    def lowest(base):
        return float(torch.outer(torch.arange(2049.0), base ** (-torch.arange(0, 128, 2) / 128)).cos().sum(1).min())

    base = bound_base(128, 2048)
    assert lowest(base / 1.02) < 0 <= lowest(base)


def test_abf_bound_never_lowers_the_base():
    rope = RopeSpec.plain(1e6, 128, 4096)
    assert method("abf(rule='bound')").new_base(rope, 8192) == 1e6


@pytest.mark.parametrize(
    "position, temperature", [(0, 1), (4094, 1), (4096, 1.000029), (8191, 1.083333), (16383, 1.166667)]
)
def test_entropy_abf_temperature(position, temperature):
    assert EntropyABF().temperature(ROPE, torch.tensor([[position]])).item() == near(temperature)


@pytest.mark.parametrize("s, t", [(2, 1.040833), (4, 1.080123), (8, 1.118034), (16, 1.154701), (32, 1.190238)])
def test_longrope_attention_factor(s, t):
    assert LongRoPE((2.0,) * 64).frequencies(ROPE, 4096 * s).attention_factor == near(t)


def test_longrope_with_constant_factors_is_pi():
    assert torch.equal(
        LongRoPE((4.0,) * 64).frequencies(ROPE, TARGET).inv_freq, method("pi").frequencies(ROPE, TARGET).inv_freq
    )


def test_longrope_without_factors_says_how_to_give_them():
    with pytest.raises(UserError, match=r"longrope has 0 factors, expected 64 numbers above 0\n.*factors=\[") as error:
        method("longrope").frequencies(ROPE, TARGET)
    assert "longrope(factors=" in error.value.mend


@pytest.mark.parametrize("bad", [0.0, -1.0, "a"])
def test_longrope_refuses_factors_that_are_no_positive_numbers(bad):
    with pytest.raises(UserError, match="64 numbers above 0"):
        LongRoPE((1.0,) * 63 + (bad,)).frequencies(ROPE, TARGET)


@pytest.mark.parametrize("spelling", ["resonance", "resonance+yarn", "resonance+ntk-aware"])
def test_resonance_wavelengths_are_whole_numbers(spelling):
    wavelengths = 2 * math.pi / method(spelling).frequencies(ROPE, TARGET).inv_freq
    assert torch.allclose(wavelengths, wavelengths.round(), rtol=1e-14, atol=0)


def test_giraffe_truncated_bands():
    frequencies = method("giraffe(period=2048)").frequencies(ROPE, TARGET).inv_freq
    assert torch.equal(frequencies[:41], ROPE.inv_freq[:41])
    assert frequencies[41:55].tolist() == pytest.approx([1.917476e-4] * 14, rel=1e-6)
    assert frequencies[55:].tolist() == [0.0] * 9


def test_a_dimension_that_does_not_rotate_has_the_factor_1e30():
    assert factors("giraffe(period=2048)")[55:].tolist() == [1e30] * 9


def test_dprope_interpolates_slow_dimensions():
    assert factors("dprope")[40:].tolist() == [4.0] * 24  # faster ones are chosen by rounding noise


@pytest.mark.parametrize(
    "factor, expected",
    [(1.0, [2.388671e-5, 8.734621e-4, 3.827267e-3]), (4.0, [9.418682e-6, 1.104575e-6, 1.546219e-8])],
)
def test_dprope_divergences(factor, expected):
    divergence = DistributionalRoPE().divergence(ROPE, TARGET, factor)[[40, 48, 63]]
    assert divergence.tolist() == pytest.approx(expected, rel=2e-3, abs=2e-8)  # the oracle was computed in float32


def test_dprope_monotone_has_one_switch():
    f = factors("dprope(monotone=True)")
    assert bool((f.diff() >= 0).all()) and set(f.tolist()) == {1.0, 4.0}


def test_harpe_bases_are_evenly_spaced():
    rope = RopeSpec.plain(10000.0, 128, 4096, kv_heads=32)
    second = HARPE(1e6, 5e6).frequencies(rope, TARGET).inv_freq[:, 1]  # = base ** (-2 / d)
    bases = second ** (-128 / 2)
    assert bases.tolist() == pytest.approx(torch.linspace(1e6, 5e6, 32, dtype=torch.float64).tolist(), rel=1e-9)
    assert bases[1].item() == pytest.approx(1129032.258065, rel=1e-9)


@pytest.mark.parametrize("scale, base", [(2, 30527.736749), (4, 72195.860087)])
def test_clex_without_weights_is_ntk(scale, base):
    assert ntk_base(10000.0, 128, 2 * scale - 1) == near(base)
    got = CLEX("zero").frequencies(ROPE, 4096 * scale).inv_freq
    assert torch.allclose(got, RopeSpec.plain(base, 128, 4096).inv_freq, rtol=1e-6)


def test_clex_rounds_the_scale_up_and_stops_at_the_trained_factor():
    clex = CLEX("zero")

    def at(scale, method=clex):
        return method.frequencies(ROPE, int(4096 * scale)).inv_freq

    assert torch.equal(at(3 + 1 / 4096), at(4))
    assert torch.equal(at(16), at(40)) and not torch.equal(at(15), at(16))
    assert torch.equal(at(9, CLEX("zero", max_factor=4)), at(4))


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_clex_flow_equals_a_dense_integration(tmp_path, base):
    d, scale, torch_rng = 16, 4, torch.Generator().manual_seed(0)
    up, down = (0.3 * torch.randn(shape, generator=torch_rng) for shape in [(d // 2, 2 * d), (2 * d, d // 2)])
    save_file({"up": up, "down": down}, tmp_path / "clex.safetensors")
    rope = RopeSpec.plain(base, d, 64)

    def ntk(t):  # w_ntk of the official code, which knows no base but 10,000
        return (10000.0 * (2 * t - 1) ** (d / (d - 2))) ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)

    def slope(t, z):
        drift = (ntk(t + 1e-6) - ntk(t - 1e-6)) / 2e-6 / ntk(t)
        return torch.tanh((z + ntk(t).log()) @ up.double()) @ down.double() + drift

    z, steps = rope.inv_freq.log(), 1500
    h = (scale - 1) / steps
    for i in range(steps):  # midpoint rule
        z = z + h * slope(1 + (i + 0.5) * h, z + h / 2 * slope(1 + i * h, z))
    got = CLEX(weights=str(tmp_path / "clex.safetensors")).frequencies(rope, 64 * scale).inv_freq
    assert torch.allclose(got, z.exp(), rtol=1e-5, atol=0)
    assert not torch.allclose(got, CLEX("zero").frequencies(rope, 64 * scale).inv_freq, rtol=0.1)  # the weights matter


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"up": torch.ones(8, 2)}, r"expected up \[8, k\] and down \[k, 8\]"),
        ({"up": torch.ones(4, 2), "down": torch.ones(2, 4)}, r"\(4, 2\).*expected up \[8, k\]"),
    ],
)
def test_clex_refuses_weights_that_do_not_fit(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=message):
        CLEX(weights=str(tmp_path / "w.safetensors")).frequencies(RopeSpec.plain(1e4, 16, 64), 256)


def test_clex_refuses_what_is_no_safetensors_file(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not a tensor")
    with pytest.raises(UserError, match="is not a safetensors file"):
        CLEX(weights=str(tmp_path / "w.safetensors")).frequencies(ROPE, TARGET)


def test_clex_names_a_missing_file():
    with pytest.raises(UserError, match="'/nowhere/w' does not exist"):
        CLEX(weights="/nowhere/w").frequencies(ROPE, TARGET)


# What holds at every point


SPECS = st.builds(
    lambda half, base, window: RopeSpec.plain(base, 2 * half, window),
    st.integers(2, 128),
    st.floats(1e3, 1e8),
    st.integers(512, 131072),
)
SCALES = st.floats(1, 64)


INTERPOLATING = ["pi", "ntk-aware", "ntk-by-parts", "llama3", "yarn", "yarn(ramp='paper')", "mr-rope"]


@given(SPECS, SCALES, st.sampled_from(INTERPOLATING))
def test_interpolating_methods_stretch_by_at_most_s(rope, s, spelling):
    target = round(rope.window * s)
    f = factors(spelling, rope, target)
    assert float(f.min()) >= 1 - 1e-9 and float(f.max()) <= rope.scale(target) * (1 + 1e-9)


STRETCHING = ["ntk-aware", "ntk-by-parts", "yarn", "mr-rope", "abf", "longembed-rope", "clex(weights='zero', step=0.5)"]


@given(SPECS, SCALES, st.sampled_from(STRETCHING))
def test_slow_dimensions_are_stretched_no_less_than_fast_ones(rope, s, spelling):
    f = factors(spelling, rope, round(rope.window * s))
    assert bool((f.diff() >= -1e-9 * f[1:]).all())


@given(SPECS, SCALES)
def test_dynamic_ntk_follows_ntk_aware_at_every_length(rope, s):
    length = round(rope.window * s)
    assert torch.equal(
        method("dynamic-ntk").frequencies(rope, length).inv_freq,
        method("ntk-aware").frequencies(rope, length).inv_freq,
    )


STILL = [s for s in FACTORS if method(s).exact_near and (method(s).length_dependent or not method(s).runtime)]


@pytest.mark.parametrize("spelling", STILL)
def test_nothing_changes_inside_the_window(spelling):
    found = method(spelling).at(ROPE, 4096)
    assert torch.equal(found.inv_freq, ROPE.inv_freq) and found.attention_factor == 1.0


@pytest.mark.parametrize("spelling", ["pi", "yarn", "abf", "llama3"])
def test_scalings_on_top_of_a_trained_one_multiply(spelling):
    trained = RopeSpec.plain(1e4, 8, 4096, factors=(1.0, 2.0, 3.0, 4.0), attention_factor=1.1, rope_type="longrope")
    over, alone = method(spelling).at(trained, TARGET), method(spelling).frequencies(trained, TARGET)
    assert over.attention_factor == pytest.approx(1.1 * alone.attention_factor)
    assert torch.equal(over.inv_freq, alone.inv_freq)
    assert bool((over.inv_freq <= trained.inv_freq * (1 + 1e-12)).all())


# CoPE, at values worked out from the paper's formula; the rule for n was run on published configurations


@pytest.mark.parametrize(
    ("base", "dim", "window", "faded"),
    [(1e4, 128, 4096, 18), (5e5, 128, 8192, 29), (8e6, 128, 65536, 26), (1e6, 128, 32768, 24), (1e5, 64, 8192, 12)],
)
def test_cope_fades_what_never_finishes_a_turn(base, dim, window, faded):
    rope = RopeSpec.plain(base, dim, window)
    kept = factors("cope", rope, 2 * window) == 1
    assert int((~kept).sum()) == faded - 1 and bool(kept[: dim // 2 - faded + 1].all())


def test_cope_is_a_raised_cosine():
    mask = 1 / factors(f"cope(n={20})")[-20:]
    expected = [1, 0.993181, 0.838641, 0.541290, 0.458710, 0.105430, 0.006819, 0]
    assert mask[[0, 1, 5, 9, 10, 15, 18, 19]].tolist() == near(expected)
    smollm = factors("cope", RopeSpec.plain(1e5, 64, 8192), 16384)[-12:]
    expected = [1, 1.020672, 1.086217, 1.208561, 1.413013, 1.750831, 2.331858, 3.421231, 5.794762, 12.598706, 49.374150]
    assert smollm[:-1].tolist() == near(expected) and smollm[-1] == 1e30


def test_cope_refuses_to_do_nothing():
    with pytest.raises(UserError, match="0 pairs with a period beyond the window"):
        factors("cope", RopeSpec.plain(100.0, 16, 4096), 8192)  # every pair turns often
    with pytest.raises(UserError, match="expected 2 to the 64 pairs"):
        factors("cope(n=65)")
