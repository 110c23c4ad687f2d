"""Joining methods: what joins, what is refused, and that the order does not matter."""

from itertools import combinations

import pytest
import torch

from ropewalk import RopeSpec, UserError, compose, method
from tests.matrix import METHODS, buffers, made, same
from tests.models import shared, tiny, tokens

ROPE = RopeSpec.plain(10000.0, 128, 4096)
PARTNERS = [made(name, shared("llama")).id for name in METHODS if "refinement" not in method(name).axes]


@pytest.mark.parametrize("partner", PARTNERS)
def test_the_order_does_not_matter(partner):
    one, other = method(f"resonance+{partner}"), method(f"{partner}+resonance")
    assert one == other and one.id == other.id


@pytest.mark.parametrize("partner", PARTNERS)
def test_the_id_reads_back(partner):
    joined = method(f"resonance+{partner}")
    assert method(joined.id) == joined


def test_the_id_names_the_parts():
    assert compose(method("yarn(beta_fast=16)"), method("resonance")).id == "resonance+yarn(beta_fast=16.0)"


def test_one_method_stays_itself():
    assert compose(method("yarn")) == method("yarn")


@pytest.mark.parametrize(
    "a, b, axis",
    [("pi", "yarn", "frequencies"), ("entropy-abf", "abf", "frequencies"), ("resonance", "resonance", "refinement")],
)
def test_two_methods_on_one_axis_are_refused(a, b, axis):
    with pytest.raises(UserError, match=f"{a} and {b} both set the {axis}") as error:
        compose(method(a), method(b))
    assert error.value.mend == "Choose one of them."


def test_what_is_no_method_is_refused():
    with pytest.raises(UserError, match="'yarn' is no method"):
        compose("yarn")


def test_nothing_is_refused():
    with pytest.raises(UserError, match="nothing to compose"):
        compose()


def test_compositions_can_be_composed():
    nested = compose(compose(method("resonance")), compose(method("yarn")))
    assert nested == compose(method("resonance"), method("yarn"))
    with pytest.raises(UserError, match="resonance and resonance both set"):
        compose(nested, method("resonance"))


def test_the_temperature_of_yarn_stays():
    assert method("resonance+yarn").frequencies(ROPE, 16384).attention_factor == pytest.approx(1.138629, abs=6e-7)


def test_resonance_alone_refines_the_plain_frequencies():
    alone = method("resonance").at(ROPE, 16384)
    assert torch.equal(alone.inv_freq, method("resonance+none").at(ROPE, 16384).inv_freq)


@pytest.mark.parametrize("partner", PARTNERS)
def test_a_composition_is_as_dynamic_as_its_parts(partner):
    part, joined = method(partner), method(f"resonance+{partner}")
    assert (joined.runtime, joined.length_dependent) == (part.runtime, part.length_dependent)
    assert joined.axes == part.axes | {"refinement"}


def test_a_composition_keeps_the_temperature_of_positions():
    positions = torch.tensor([[16383]])
    assert method("resonance+entropy-abf").temperature(ROPE, positions).item() == pytest.approx(1.166667, abs=1e-6)
    assert method("resonance+yarn").temperature(ROPE, positions) is None


def test_a_frozen_composition_refines_the_frozen_part():
    frozen = method("resonance+dynamic-ntk").frozen(ROPE, 16384)
    expected = method("resonance+ntk-aware").at(ROPE, 16384).inv_freq
    assert not frozen.runtime and torch.equal(frozen.at(ROPE, 16384).inv_freq, expected)


@pytest.mark.parametrize("unsavable", ["harpe(base_min=1e6, base_max=5e6)", "entropy-abf"])
def test_a_composition_with_an_unsavable_part_is_not_frozen(unsavable):
    assert method(f"resonance+{unsavable}").frozen(ROPE, 16384) is None


# Frequencies with attention methods


@pytest.mark.parametrize(
    "spelling", ["yarn+dca", "ntk-aware+self-extend", "resonance+yarn+log-n", "dca+yarn-temperature"]
)
def test_attention_methods_join_in_any_order(spelling):
    joined = method(spelling)
    assert method("+".join(reversed(spelling.split("+")))) == joined
    assert method(joined.id) == joined
    assert compose(joined.parts[0], *joined.parts[1:]) == joined


@pytest.mark.parametrize(
    "a, b, axis",
    [
        ("dca", "self-extend", "positions"),
        ("lm-infinite", "s2-attention", "visibility"),
        ("log-n", "entropy-abf", "temp"),
    ],
)
def test_two_attention_methods_on_one_axis_are_refused(a, b, axis):
    with pytest.raises(UserError, match=f"both set the {axis}"):
        compose(method(a), method(b))


def test_two_sets_of_regions_are_refused():
    with pytest.raises(UserError, match="dca and s2-attention both say which keys are seen"):
        compose(method("dca"), method("s2-attention"))


@torch.no_grad()
def test_both_parts_are_applied():
    model, ids = shared("llama"), tokens(1, 200)
    answers = []
    for spelling in ("yarn", "dca", "yarn+dca"):
        with method(spelling).on(model, to=256):
            answers.append(model(ids, use_cache=False).logits)
    assert not any(torch.allclose(a, b, atol=1e-2) for a, b in combinations(answers, 2))


@torch.no_grad()
@pytest.mark.parametrize("to", [256, 128])
def test_frequencies_stretch_the_window_and_positions_do_the_rest(to):
    model, ids = shared("llama"), tokens(1, to - 56)
    with method("yarn+dca(effective_window=128)").on(model, to=to):
        joined = model(ids, use_cache=False).logits
    method("yarn").extend(stretched := tiny("llama"), to=128)
    with method("dca").on(stretched, to=to):
        assert torch.allclose(stretched(ids, use_cache=False).logits, joined, atol=1e-5)


def test_the_joined_method_leaves_nothing_behind():
    model = shared("llama")
    before = buffers(model)
    with pytest.raises(KeyboardInterrupt), method("yarn+dca").on(model, to=256):
        raise KeyboardInterrupt
    assert same(buffers(model), before) and model.config._attn_implementation == "sdpa"


def test_a_joined_method_is_on_alone():
    model = shared("llama")
    with (
        method("yarn+dca").on(model, to=256),
        pytest.raises(UserError, match=r"yarn\+dca is on this model already"),
        method("log-n").on(model, to=256),
    ):
        pass


def test_what_joins_code_cannot_be_saved():
    with pytest.raises(UserError, match="needs code at run time"):
        method("yarn+dca").extend(shared("llama"), to=256)
