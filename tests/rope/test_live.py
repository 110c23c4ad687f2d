"""The rotary modules of live models: they are what the configuration says, or the difference is named."""

import pytest
import torch
from torch import nn

from ropewalk import Frequencies, UserError, method
from ropewalk.methods.frequencies.frequency_method import check_live
from ropewalk.rope import config as rope_config
from ropewalk.rope import live
from tests.matrix import FAMILY_NAMES, LONG, TARGET, buffers, logits, same
from tests.models import shared, tiny

families = pytest.mark.parametrize("family", FAMILY_NAMES)
FAR = 131071


def test_a_configuration_changed_after_loading_is_seen():
    model = tiny("llama")
    model.config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    message = r"layer type 'all' \(LlamaRotaryEmbedding\): inv_freq\[0\] is 1, .* gives 0\.25 \(8 of 8 differ\)"
    with pytest.raises(UserError, match=message) as error:
        check_live(model)
    assert "Reload the model" in error.value.mend


def test_a_change_of_one_layer_type_is_seen():
    model = tiny("gemma3")
    model.config.rope_parameters["full_attention"]["rope_theta"] = 1e5
    with pytest.raises(UserError, match=r"layer type 'full_attention' .*: inv_freq\[1\]"):
        check_live(model)


def test_a_single_changed_frequency_is_seen():
    model = tiny("llama")
    live.rotaries(model)[0].inv_freq[5] *= 1 + 1e-5
    with pytest.raises(UserError, match=r"inv_freq\[5\] .* \(1 of 8 differ\)"):
        check_live(model)


def test_a_changed_attention_factor_is_seen():
    model = tiny("llama")
    live.rotaries(model)[0].attention_scaling = 1.1
    with pytest.raises(UserError, match=r"attention factor is 1\.1, the configuration gives 1"):
        check_live(model)


def test_a_changed_rotary_dimension_is_seen():
    model = tiny("gpt_neox")
    model.config.rope_parameters["partial_rotary_factor"] = 1.0
    with pytest.raises(UserError, match="rotates 8 dimensions, the configuration says 16"):
        check_live(model)


def test_a_missing_layer_type_is_seen():
    with pytest.raises(UserError, match=r"'full_attention' has no live rotary module; live: \['all'\]"):
        live.check(tiny("llama"), {"full_attention": rope_config.read(tiny("llama").config)["all"]})


def test_frequencies_rounded_by_a_cast_are_seen():
    with pytest.raises(UserError, match=r"inv_freq\[1\]") as error:
        check_live(tiny("llama").bfloat16())
    assert "inv_freq is torch.bfloat16, expected float32" in error.value.mend


def test_models_without_a_rotary_module_are_refused():
    with pytest.raises(UserError, match="Linear has no rotary module with an 'inv_freq' buffer"):
        live.rotaries(nn.Linear(2, 2))


@pytest.mark.parametrize("spelling", ["yarn", "resonance", "abf"])
def test_check_sees_that_a_method_is_on(spelling):
    model = shared("llama")
    with method(spelling).on(model, to=TARGET), pytest.raises(UserError, match="differ"):
        check_live(model)
    check_live(model)


# Angles


@families
def test_angles_are_exact_at_the_last_position(family):
    assert live.check_angles(shared(family), FAR) < FAR * 2.0**-23


@families
def test_angles_of_an_extended_model_are_exact(family):
    model = shared(family)
    with method("yarn").on(model, to=FAR + 1):
        assert live.check_angles(model, FAR) < FAR * 2.0**-23


def test_tables_in_half_precision_are_seen():
    model = tiny("llama")
    rotary = live.rotaries(model)[0].module
    forward = rotary.forward
    rotary.forward = lambda x, ids, **more: forward(x, ids.bfloat16(), **more)  # neighbouring positions collapse
    assert live.check_angles(model, 256) < 1e-4  # still exact
    with pytest.raises(UserError, match="cos/sin at position 1023 are off by"):
        live.check_angles(model, 1023)


@pytest.mark.parametrize(
    "rope, length",
    [
        ({"rope_type": "dynamic", "factor": 2.0}, 64),
        ({"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8,
          "original_max_position_embeddings": 64}, 128),
    ],
    ids=["dynamic", "longrope"],
)  # fmt: skip
def test_checking_angles_of_recomputing_models_leaves_no_trace(rope, length):
    model = tiny("llama", max_position_embeddings=length, rope_parameters={**rope, "rope_theta": 1e4})
    before = buffers(model)
    assert live.check_angles(model, 1000) < 1e-3
    assert same(buffers(model), before)


# Writing


def test_writing_keeps_the_bits_of_what_does_not_change():
    model = tiny("llama")
    rotary, spec = live.rotaries(model)[0], rope_config.read(model.config)
    rotary.inv_freq.copy_(before := torch.nextafter(rotary.inv_freq, torch.zeros(8)))  # another engine's rounding
    rotary.original_inv_freq.copy_(before)
    wanted = spec["all"].inv_freq.clone()
    wanted[3:] /= 2
    live.write(model, {"all": Frequencies(wanted)}, spec)
    assert torch.equal(rotary.inv_freq[:3], before[:3])
    assert torch.equal(rotary.inv_freq[3:], wanted[3:].float())


def test_writing_reaches_the_copy_that_transformers_restores_from():
    model = tiny("llama")
    live.write(model, {"all": Frequencies(torch.ones(8, dtype=torch.float64), 1.5)}, rope_config.read(model.config))
    rotary = live.rotaries(model)[0]
    assert rotary.original_inv_freq.tolist() == [1.0] * 8 and rotary.attention_scaling == 1.5


def test_writing_keeps_the_buffer():
    model = tiny("llama")
    buffer = live.rotaries(model)[0].inv_freq
    method("pi").extend(model, to=TARGET)
    assert live.rotaries(model)[0].inv_freq is buffer


def test_writing_refuses_another_shape():
    model = tiny("llama")
    with pytest.raises(
        UserError, match=r"rotates 16 dimensions per head, the method gives frequencies of shape \(4,\)"
    ):
        live.write(model, {"all": Frequencies(torch.ones(4))}, rope_config.read(model.config))


def test_writing_refuses_a_layer_type_that_is_not_there():
    model = tiny("llama")
    with pytest.raises(UserError, match=r"\['full_attention'\] have no rotary module"):
        live.write(model, {"full_attention": Frequencies(torch.ones(8))}, rope_config.read(model.config))


def test_rebuilding_equals_loading_again():
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    model = tiny("llama")
    model.config.rope_parameters = rope
    live.rebuild(model, ["all"])
    assert torch.equal(logits(model, LONG), logits(tiny("llama", rope_parameters=dict(rope)), LONG))


def test_restoring_is_exact():
    model = tiny("gemma3")
    before = buffers(model)
    with live.restored(model):
        for rotary in live.rotaries(model):
            rotary.inv_freq.zero_()
            rotary.original_inv_freq.zero_()
            rotary.attention_scaling, rotary.rope_type = 2.0, "yarn"
    assert same(buffers(model), before)
