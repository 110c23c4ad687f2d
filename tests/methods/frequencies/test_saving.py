"""``method.extend`` and ``save_pretrained``: what is loaded again computes the same, bit for bit."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

import ropewalk
from ropewalk import UserError, method
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.inspection import inspect
from ropewalk.checkpoint.write import extend
from ropewalk.cli.main import run
from ropewalk.methods.frequencies.frequency_method import check_live
from ropewalk.rope import config as rope_config
from ropewalk.rope import live
from tests.matrix import (
    FAMILY_NAMES,
    LONG,
    NESTED,
    NOT_SAVED,
    SAVED,
    SHORT,
    TARGET,
    THREE,
    WINDOW,
    across,
    extended_layer_type,
    logits,
    made,
)
from tests.models import config, shared, tiny

families = pytest.mark.parametrize("family", FAMILY_NAMES)


def extended(spelling, family, to=TARGET, **more):
    model = tiny(family, **more)
    made(spelling, model).extend(model, to=to)
    return model


def parameters(model):
    """The rope parameters of the extended layer type, as written."""
    return rope_config.rope_parameters(model.config)[extended_layer_type(model)]


@pytest.mark.parametrize(
    ("spelling", "family"),
    [pytest.param(*case, marks=() if case[1] in THREE else pytest.mark.slow) for case in across(SAVED)],
)
def test_what_is_extended_saved_and_loaded_is_the_method(spelling, family, tmp_path):
    model, plain = extended(spelling, family), shared(family)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    check_live(loaded)
    assert loaded.config.max_position_embeddings == TARGET
    short, long = logits(model, SHORT), logits(model, LONG)
    assert torch.equal(logits(loaded, SHORT), short) and torch.equal(logits(loaded, LONG), long)
    if not method(spelling).length_dependent:
        with made(spelling, plain).on(plain, to=TARGET):
            assert torch.equal(long, logits(plain, LONG))


@families
def test_in_half_precision_too_the_saved_model_computes_what_was_measured(family, tmp_path):
    model = tiny(family).to(torch.bfloat16)
    for rotary in live.rotaries(model):  # as from_pretrained(dtype=...) leaves them
        rotary.module.to(torch.float32)
    live.rebuild(model, [rotary.layer_type for rotary in live.rotaries(model)])
    with method("yarn").on(model, to=TARGET):
        measured = logits(model, LONG)
    method("yarn").extend(model, to=TARGET)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert torch.equal(logits(loaded, LONG), measured)


@pytest.mark.parametrize("spelling", ["dynamic-ntk", "dynamic-ntk(form='hf')"])
def test_dynamic_ntk_is_frozen_at_the_target(spelling):
    model = extended(spelling, "llama")
    rope = rope_config.read(tiny("llama").config)["all"]
    assert parameters(model) == {"rope_type": "default", "rope_theta": method(spelling).base(rope, TARGET)}


@families
@pytest.mark.parametrize("spelling", NOT_SAVED)
def test_methods_that_cannot_be_saved_are_refused(spelling, family):
    model = tiny(family)
    before, plain = model.config.to_dict(), logits(model, LONG)
    with pytest.raises(UserError, match=r"cannot be saved in a configuration: .*(head|position)") as error:
        method(spelling).extend(model, to=TARGET)
    assert "at run time" in error.value.mend
    assert model.config.to_dict() == before and torch.equal(logits(model, LONG), plain)


def test_a_composition_with_an_unsavable_part_names_it():
    with pytest.raises(UserError, match=r"entropy-abf\+resonance cannot be saved .*: entropy-abf: its logit scale"):
        method("resonance+entropy-abf").extend(tiny("llama"), to=TARGET)


NATIVE = {
    "pi": "linear",
    "giraffe(basis='linear')": "linear",
    "yarn": "yarn",
    "yarn(beta_fast=2.0)": "yarn",
    "llama3": "llama3",
    "ntk-by-parts": "llama3",
    "ntk-aware": "default",
    "abf": "default",
    "longembed-rope": "default",
    # engines differ in whether they read these options, or no type says them
    "yarn(truncate=False)": "longrope",
    "yarn(attention_factor=1.3)": "longrope",
    "yarn(ramp='paper')": "longrope",
    "resonance+yarn": "longrope",
    "giraffe": "longrope",
    "dprope": "longrope",
    "clex": "longrope",
    "longrope": "longrope",
}


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox"])
@pytest.mark.parametrize("spelling", NATIVE)
def test_a_native_type_is_used_where_one_says_the_same(spelling, family):
    assert parameters(extended(spelling, family))["rope_type"] == NATIVE[spelling]


@pytest.mark.parametrize("spelling", [m for m in NATIVE if NATIVE[m] not in ("default", "longrope")])
def test_phi3_reads_only_default_and_longrope(spelling):
    assert parameters(extended(spelling, "phi3"))["rope_type"] == "longrope"


def test_flat_longrope_has_every_key_that_an_engine_reads():
    found = parameters(extended("yarn(attention_factor=1.3)", "llama"))
    assert found["short_factor"] == found["long_factor"]
    assert found["original_max_position_embeddings"] == TARGET and found["factor"] == 1.0
    assert found["attention_factor"] == found["short_mscale"] == found["long_mscale"] == 1.3


def test_dimensions_that_do_not_rotate_survive_json(tmp_path):
    model = extended("giraffe", "llama")
    model.save_pretrained(tmp_path)
    text = (tmp_path / "config.json").read_text()
    assert 1e30 in json.loads(text)["rope_parameters"]["long_factor"] and "Infinity" not in text


@pytest.mark.parametrize("family", ["phi3", "gpt_neox"])
@pytest.mark.parametrize("spelling", ["yarn", "ntk-aware", "resonance+yarn"])
def test_partial_rotation_stays_partial(spelling, family):
    before = rope_config.read(shared(family).config)["all"]
    after = rope_config.read(extended(spelling, family).config)["all"]
    assert (after.rotary_dim, after.head_dim) == (before.rotary_dim, before.head_dim)
    assert after.rotary_dim < after.head_dim


@pytest.mark.parametrize("head_dim, rotary_dim", [(44, 30), (88, 60), (80, 32), (96, 72)])
def test_partial_rotary_factors_survive_truncation(head_dim, rotary_dim):
    spec = rope_config.RopeSpec.plain(1e4, rotary_dim, 64, head_dim=head_dim)
    assert int(head_dim * rope_config.partial_rotary(spec)["partial_rotary_factor"]) == rotary_dim


@pytest.mark.parametrize("family", NESTED)
@pytest.mark.parametrize("spelling", SAVED)
def test_sliding_layers_are_left_alone(spelling, family):
    model, plain = extended(spelling, family), shared(family)
    sliding, before = (
        next(rotary for rotary in live.rotaries(m) if rotary.layer_type == "sliding_attention") for m in (model, plain)
    )
    assert torch.equal(sliding.inv_freq, before.inv_freq)
    assert model.config.rope_parameters["sliding_attention"] == plain.config.rope_parameters["sliding_attention"]


def test_a_target_that_is_not_beyond_the_window_is_refused_in_memory_and_on_disk(tmp_path):
    model = tiny("llama")
    model.save_pretrained(tmp_path / "m")
    before = model.config.to_dict()
    for to in (WINDOW - 1, WINDOW):
        for refused in (lambda to=to: method("yarn").extend(model, to=to),
                        lambda to=to: extend(tmp_path / "m", to, method("yarn"), tmp_path / "out")):  # fmt: skip
            with pytest.raises(UserError, match=f"target of {to} tokens is not beyond the window of 64"):
                refused()
    assert model.config.to_dict() == before and torch.equal(logits(model, LONG), logits(shared("llama"), LONG))


@pytest.mark.parametrize("first", ["pi", "yarn"])
def test_a_second_extension_replaces_the_first(first):
    once, twice = extended("yarn", "llama", to=512), extended(first, "llama")
    method("yarn").extend(twice, to=512)
    assert twice.config.rope_parameters == once.config.rope_parameters
    assert torch.equal(logits(twice, LONG), logits(once, LONG))


def test_an_extension_on_top_of_llama3_multiplies_its_factors():
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    model = tiny("llama", max_position_embeddings=256, rope_parameters=rope)
    before = live.rotaries(model)[0].inv_freq.clone()
    method("pi").extend(model, to=1024)
    assert torch.allclose(live.rotaries(model)[0].inv_freq, before / 4, rtol=1e-6)


@pytest.mark.parametrize("s", [2, 16, 64])
@pytest.mark.parametrize("spelling", ["llama3", "ntk-by-parts", "yarn"])
def test_rounding_of_transformers_blends_does_not_stop_an_extension(spelling, s):
    rope = {"rope_type": "default", "rope_theta": 638983.5}  # a base at which a blend loses six digits
    model = tiny("llama", head_dim=80, max_position_embeddings=101992, rope_parameters=rope)
    method(spelling).extend(model, to=101992 * s)
    assert parameters(model)["factor"] == s


def test_extending_a_model_whose_configuration_was_changed_after_loading_is_refused():
    model = tiny("llama")
    model.config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    with pytest.raises(UserError, match=r"inv_freq\[0\] is 1, the configuration gives 0.25"):
        method("yarn").extend(model, to=TARGET)


# What a plain save_pretrained keeps: where the extension started


@pytest.mark.parametrize("spelling", ["yarn", "resonance+yarn", "ntk-aware"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3"])
def test_a_plain_save_is_known_as_an_extension(spelling, family, tmp_path):
    """What is extended in memory and saved by transformers is, to every reader, what ``extend -o`` writes."""
    tiny(family).save_pretrained(tmp_path / "source")
    written = Checkpoint.open(extend(tmp_path / "source", TARGET, method(spelling), tmp_path / "written").folder)
    live = tiny(family)
    method(spelling).extend(live, to=TARGET)
    live.save_pretrained(tmp_path / "plain")
    opened = Checkpoint.open(tmp_path / "plain")
    assert (opened.window, opened.promised, opened.record) == (WINDOW, TARGET, written.record)
    assert opened.specs == written.specs and opened.starting() == written.starting()
    found = inspect(opened)
    assert (found.window, found.length, found.extended_by) == (WINDOW, TARGET, method(spelling).id)
    assert found.problems == []
    again = [
        extend(source, 2 * TARGET, method("pi"), tmp_path / f"again from {source.name}")
        for source in (written.folder, tmp_path / "plain", tmp_path / "source")
    ]
    assert again[0].rope_parameters == again[1].rope_parameters == again[2].rope_parameters
    assert {done.scale for done in again} == {2 * TARGET / WINDOW}


def test_the_record_goes_where_the_configuration_goes(tmp_path):
    """Loaded, saved, extended again in memory: the pretrained window stays what it was."""
    source = tmp_path / "source"
    tiny("llama").save_pretrained(source)
    first = extend(source, TARGET, method("yarn"), tmp_path / "first").folder
    Checkpoint.open(first).load(device="cpu").save_pretrained(tmp_path / "second")
    live = Checkpoint.open(tmp_path / "second").load(device="cpu")
    method("ntk-aware").extend(live, to=2 * TARGET)
    assert rope_config.trained_window(live.config) == WINDOW
    assert rope_config.read(live.config)["all"].base == pytest.approx(10000.0 * (2 * TARGET / WINDOW) ** (16 / 14))


def test_a_refused_extension_leaves_no_record(monkeypatch):
    live_model, check = tiny("llama"), live.check
    calls = []

    def fails_once(*more, **keys):
        calls.append(keys)
        if "tolerance" in keys:
            raise UserError("off")
        check(*more, **keys)

    monkeypatch.setattr(live, "check", fails_once)
    before = live_model.config.to_dict()
    with pytest.raises(UserError, match="off"):
        method("yarn").extend(live_model, to=TARGET)
    assert live_model.config.to_dict() == before and rope_config.record_of(live_model.config) is None
    assert {"tolerance"} <= set().union(*calls)


def test_the_record_stands_beside_the_rope_of_a_model_in_a_model(tmp_path):
    whole = Gemma3Config(text_config=config("gemma3").to_dict(), vision_config={"num_hidden_layers": 1})
    method("yarn").write(whole, TARGET)
    whole.save_pretrained(tmp_path)
    opened = Checkpoint.open(tmp_path)
    assert opened.raw["text_config"]["ropewalk"]["window"] == WINDOW
    assert (opened.window, opened.promised, opened.record["method"]) == (WINDOW, TARGET, "yarn")


@pytest.mark.parametrize("record", [1, [], {}, {"window": 64}, {"window": "x", "pretrained": {}},
                                    {"window": 64, "pretrained": {"all": {"base": 1}}}])  # fmt: skip
def test_a_broken_record_is_named_and_its_mend_mends(record, tmp_path, capsys):
    source = tiny("llama")
    source.config.ropewalk = record
    source.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="key 'ropewalk', in which ropewalk notes the pretrained rope") as refusal:
        _ = Checkpoint.open(tmp_path).specs
    assert run(refusal.value.mend.partition("   (")[0].split()[1:]) == 0
    assert Checkpoint.open(tmp_path).window == WINDOW


def test_a_generation_limit_of_the_window_grows():
    for limit, after in ((WINDOW, TARGET), (WINDOW - 1, WINDOW - 1), (None, None)):
        model = tiny("llama")
        model.generation_config.max_length = limit
        method("yarn").extend(model, to=TARGET)
        assert model.generation_config.max_length == after


def test_the_lines_of_the_readme_make_a_sound_folder(tmp_path):
    model, tokenizer = ropewalk.load("demo", device="cpu")
    ropewalk.compose(ropewalk.Resonance(), ropewalk.YaRN()).extend(model, to=2048)
    model.save_pretrained(tmp_path)
    tokenizer.model_max_length = 2048
    tokenizer.save_pretrained(tmp_path)
    found = ropewalk.inspect(str(tmp_path))
    assert (found.sound, found.window, found.length, found.extended_by) == (True, 512, 2048, "resonance+yarn")
    assert ropewalk.load(str(tmp_path), device="cpu").tokenizer.model_max_length == 2048
