"""What architectures do with a rope: an extension does what it says on each of them, or is refused with the reason."""

import copy
import json
import shlex
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, modeling_rope_utils
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ropewalk import UserError, method
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.write import extend, extended_config
from ropewalk.cli.main import run
from ropewalk.engines.agreement import check_export
from ropewalk.methods.frequencies.frequency_method import check_live
from ropewalk.rope import architecture, live
from ropewalk.rope import config as rope_config
from ropewalk.rope.probe import probe
from tests import architectures, cases
from tests.architectures import ARCHITECTURES, LATENT, LOCAL, MIXED, ROUTED

TARGET = 512
FULL = {"layer_types": ["full_attention", "full_attention"], "sliding_window": 16}
DELTA = {"linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4}
LARA = {**DELTA, "num_experts": 2, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32}  # fmt: skip
MIMO = {**ROUTED, **FULL, "v_head_dim": 8, "mlp_layer_types": ["dense", "dense"]}
MSCALE = {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0,
                              "mscale_all_dim": 0.8, "original_max_position_embeddings": 64},
          "max_position_embeddings": 256}  # fmt: skip
FLAT = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8,
        "short_mscale": 1.3, "long_mscale": 1.3, "original_max_position_embeddings": 64}  # fmt: skip
PHIMOE = {**LOCAL, "sliding_window": None, "head_dim": None, "original_max_position_embeddings": 64}


def mimo(share):
    rope = {"rope_type": "default", "rope_theta": 1e4, **share}
    return {**MIMO, "head_dim": 16, "rope_parameters": {"full_attention": rope, "sliding_attention": rope}}


WORK = {
    "granite_swa, one base": ("granite_swa", {**MIXED, "layer_rope_theta": [1e4, 1e4]}),
    "granite_swa, a layer without": ("granite_swa", {**MIXED, "layer_rope_theta": [0, 1e4]}),
    "granitemoe_swa": ("granitemoe_swa", {**MIXED, **LOCAL}),
    "sarvam_mla": ("sarvam_mla", {**LATENT, **ROUTED, "first_k_dense_replace": 1}),
    "sarvam_mla, its pair": ("sarvam_mla", {**LATENT, **ROUTED, "first_k_dense_replace": 1, **MSCALE}),
    "mimo, a share that the code knows": ("mimo_v2_flash", mimo({}) | {"head_dim": 48}),
    "cohere2_moe, rotating everywhere": ("cohere2_moe", {
        **MIXED, "num_experts": 2, "num_experts_per_tok": 1, "prefix_dense_sliding_window_pattern": 1,
        "mlp_layer_types": ["dense", "dense"]}),
    "phimoe, one set of factors": ("phimoe", {**PHIMOE, "rope_parameters": FLAT, "max_position_embeddings": 256}),
}  # fmt: skip
REFUSED = {
    "granite_swa, two bases": ("granite_swa", {**MIXED, "layer_rope_theta": [1e4, 1e6]}, "the bases 10000, 1e[+]06"),
    "granite_swa, a base of no layer": ("granite_swa", {**MIXED, "layer_rope_theta": [1e6, 1e6]}, "no layer of this"),
    "granite_swa, none rotates": ("granite_swa", {**MIXED, "layer_rope_theta": [0, 0]}, "none of its layers rotates"),
    "granite_swa, the near rotate": ("granite_swa", {**MIXED, "layer_rope_theta": [1e4, 0]}, "see 16 tokens at most"),
    "flint": ("flint", MIXED, "see 16 tokens at most"),
    "flint without a window": ("flint", FULL, "none of its layers rotates"),
    "lara_mini": ("lara_mini", {**MIXED, **LARA}, "see 16 tokens at most"),
    "lara_mini without a window": ("lara_mini", {**LARA, **FULL}, "none of its layers rotates"),
    "afmoe": ("afmoe", {**MIXED, "num_experts": 2, "num_experts_per_tok": 1, "num_dense_layers": 2}, "16 tokens at"),
    "mimo, an odd share": ("mimo_v2_flash", mimo({"partial_rotary_factor": 0.334}), "5 dimensions of a head rotate"),
    "phimoe, as published": ("phimoe", {**PHIMOE, "max_position_embeddings": 256, "rope_parameters": {
        **FLAT, "long_factor": [1.0, 1.1, 1.3, 1.8, 2.2, 3.0, 3.6, 4.0]}}, "by short_factor at every length"),
    "phimoe, two amplitudes": ("phimoe", {**PHIMOE, "max_position_embeddings": 256, "rope_parameters": {
        **FLAT, "long_mscale": 1.5}}, "short_mscale is 1.3 and long_mscale 1.5"),
}  # fmt: skip


@torch.no_grad()
def build(kind, more):
    if kind not in CONFIG_MAPPING_NAMES:
        pytest.skip("not in this version of transformers")
    torch.manual_seed(0)
    given = {"rope_parameters": dict(architectures.THETA), **architectures.COMMON, **copy.deepcopy(more)}
    config = AutoConfig.for_model(kind, **{key: value for key, value in given.items() if value is not None})
    config.sliding_window = given.get("sliding_window", getattr(config, "sliding_window", None))
    return filled(AutoModelForCausalLM.from_config(config).eval())


def filled(model):
    for weight in model.parameters():
        weight.normal_(0, 0.15) if weight.ndim > 1 else weight.uniform_(0.5, 1.5)
    return model


@torch.no_grad()
def logits(model):
    ids = torch.randint(3, 97, (1, 150), generator=torch.Generator().manual_seed(1))
    return model(ids, use_cache=False).logits


def does_what_it_says(model, spelling):
    """On for a while, written into the configuration, and loaded from that: one model, and not the plain one."""
    check_live(model)
    plain, before = logits(model), model.config.to_dict()
    with method(spelling).on(model, to=TARGET):
        there = logits(model)
    assert torch.equal(logits(model), plain) and model.config.to_dict() == before
    largest = plain.abs().max()
    assert (there - plain).abs().max() > 1e-4 * largest
    loaded = type(model)(copy.deepcopy(extended_config(model.config, method(spelling), TARGET)[0])).eval()
    loaded.load_state_dict(model.state_dict())
    assert (logits(loaded) - there).abs().max() < 1e-4 * largest
    method(spelling).extend(model, to=TARGET)
    assert (logits(model) - there).abs().max() < 1e-4 * largest
    check_live(model)
    with method("pi").on(model, to=2 * TARGET):
        assert (logits(model) - there).abs().max() > 1e-4 * largest
    assert (logits(model) - there).abs().max() < 1e-4 * largest


@pytest.mark.parametrize("spelling", ["yarn", "ntk-aware"])
@pytest.mark.parametrize("name", WORK)
def test_an_extension_does_what_it_says(name, spelling):
    does_what_it_says(build(*WORK[name]), spelling)


ALWAYS = ("phimoe", "llama", "deepseek_v3")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in ALWAYS else pytest.mark.slow) for name in ARCHITECTURES]
)
def test_an_extension_does_what_it_says_on_every_architecture(name):
    """Or nothing that rotates and looks far is there, which watching the model shows."""
    if name.split(" ")[0] not in CONFIG_MAPPING_NAMES:
        pytest.skip("not in this version of transformers")
    model = architectures.build(name)
    try:
        check_live(model)
        extended_config(model.config, method("yarn"), TARGET)
    except UserError as refused:
        assert any(text in refused.message for text in ("no rotary", "code of its own", "no layer of this")), refused
        if "no layer of this" in refused.message:
            kinds = architecture.layers(rope_config.text_config(model.config))
            far = [one for one in probe(model) if architecture.bound(model.config, kinds[one.index]) is None]
            assert not [one.index for one in far if one.rotary is not None]
        return
    does_what_it_says(model, "yarn")


@pytest.mark.parametrize("name", REFUSED)
def test_what_an_extension_cannot_say_or_do_is_refused_everywhere(name):
    kind, more, reason = REFUSED[name]
    model = build(kind, more)
    before, plain = model.config.to_dict(), logits(model)
    for way in (lambda: method("yarn").on(model, to=TARGET).__enter__(),
                lambda: method("yarn").extend(model, to=TARGET),
                lambda: extended_config(model.config, method("yarn"), TARGET),
                lambda: method("self-extend+yarn").on(model, to=TARGET).__enter__()):  # fmt: skip
        with pytest.raises(UserError, match=reason):
            way()
    assert model.config.to_dict() == before and torch.equal(logits(model), plain)


def test_a_list_of_bases_says_which_layers_rotate():
    if "muse_glimmer_text" not in CONFIG_MAPPING_NAMES:
        pytest.skip("not in this version of transformers")
    more = {**MIXED, "num_hidden_layers": 2}
    for bases, reach in (([1e4, 0], 16), ([1e4, 1e4], None), ([0, 1e4], None)):  # sliding, full
        assert architecture.reach(AutoConfig.for_model("muse_glimmer_text", layer_rope_theta=bases, **more)) == reach


def test_a_model_without_a_rotary_module_is_not_written():
    raw = cases.of("gptj", n_embd=64, n_head=4, n_layer=2, n_positions=64, rotary_dim=16, rope_parameters={
        "rope_type": "default", "rope_theta": 1e4}, max_position_embeddings=64)  # fmt: skip
    with pytest.raises(UserError, match=r"no rotary module|code of its own"):
        extended_config(AutoConfig.for_model(**raw), method("yarn"), TARGET)


def test_what_is_read_of_phimoe_is_what_it_does():
    """The same factors and the same amplitude at all lengths, whatever is published beside them."""
    model = build(*REFUSED["phimoe, as published"][:2])
    spec = rope_config.read(model.config)["all"]
    assert spec.attention_factor == 1.3 and not spec.switches
    for last in (1, 63, 64, 255):
        frequencies, amplitude = live.forwarded(live.rotaries(model)[0], last)
        assert torch.allclose(frequencies, spec.inv_freq, rtol=1e-6) and amplitude == pytest.approx(1.3, rel=1e-6)


def test_a_module_that_does_not_read_its_buffer_is_seen():
    model = architectures.build("llama")
    module = live.rotaries(model)[0].module
    kept, own = module.inv_freq.clone(), module.forward

    def forward(x, position_ids):
        written = module.inv_freq.clone()
        module.inv_freq.copy_(kept)
        tables = own(x, position_ids)
        module.inv_freq.copy_(written)
        return tables

    module.forward = forward
    check_live(model)
    for way in (lambda: method("pi").on(model, to=TARGET).__enter__(), lambda: method("pi").extend(model, to=TARGET)):
        with pytest.raises(UserError, match=r"forward of the live rotary .*: frequency\[0\] is .* gives 0.125"):
            way()
    check_live(model)


@pytest.mark.parametrize("name", ["llama", "gemma3_text", "llama4_text", "deepseek_v3", "glm", "phimoe", "gpt_oss"])
def test_every_form_of_tables_is_understood(name):
    """Halves, neighbours, complex numbers, half tables: frequency and amplitude come back from each."""
    for rotary in live.rotaries(architectures.build(name)):
        frequencies, amplitude = live.forwarded(rotary, 1)
        assert torch.allclose(frequencies, rotary.inv_freq.double(), rtol=2e-6) and amplitude == pytest.approx(1.0)


def test_two_sets_of_factors_are_checked_on_both_sides():
    rope = {**FLAT, "long_factor": [2.0] * 8, "short_mscale": None, "long_mscale": None, "factor": 4.0}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**cases.llama(256, head_dim=16, rope_parameters={
        key: value for key, value in rope.items() if value is not None})))  # fmt: skip
    check_live(model)
    module = live.rotaries(model)[0].module
    assert not hasattr(module, "long_inv_freq")
    if 'hasattr(self, f"{layer_type}_long_inv_freq")' in Path(modeling_rope_utils.__file__).read_text("utf-8"):
        pytest.skip("this transformers computes the second set in every forward")
    module.long_inv_freq = module.inv_freq / 3
    with pytest.raises(UserError, match=r"forward of the .*: frequency\[0\] is 0.333"):
        check_live(model)


def test_cohere_names_its_rotation_after_gptj():
    raw = cases.hybrid("cohere2") | {"position_embedding_type": "rope_gptj"}
    assert architecture.rotates(AutoConfig.for_model(**raw)) == ""


def test_a_written_base_that_layers_do_not_take_is_refused(monkeypatch):
    """By a forward of what the written configuration builds, were the list of bases left behind."""
    model = build(*WORK["granite_swa, one base"])
    monkeypatch.setattr(architecture, "listed_bases", lambda *more: {})
    monkeypatch.setattr(architecture, "base", lambda text, stated: stated)
    for way in (lambda: extended_config(model.config, method("ntk-aware"), TARGET),
                lambda: method("ntk-aware").extend(model, to=TARGET)):  # fmt: skip
        with pytest.raises(UserError, match=r"GraniteSWARotaryEmbedding\): inv_freq\[1\] is 0.316"):
            way()


def test_engines_are_compared_by_the_bases_of_layers(tmp_path):
    build(*WORK["granite_swa, one base"]).save_pretrained(tmp_path / "m")
    out = extend(tmp_path / "m", TARGET, method("ntk-aware"), tmp_path / "out").folder
    assert check_export(out)[0].sound
    written = json.loads((out / "config.json").read_text())
    assert written["layer_rope_theta"] == [written["rope_parameters"]["rope_theta"]] * 2
    (out / "config.json").write_text(json.dumps({**written, "layer_rope_theta": [1e4, 1e4]}))
    row = check_export(out)[0]
    assert not row.sound and "'layer_rope_theta' gives them 10000" in row.note


def test_a_base_of_no_layer_is_mended_without_a_change(tmp_path):
    model = build(*REFUSED["granite_swa, a base of no layer"][:2])
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(UserError) as refused:
        extend(tmp_path / "m", TARGET, method("pi"), tmp_path / "out")
    assignment = shlex.split(refused.value.mend.split("   (")[0])[-1]
    assert run(["inspect", str(tmp_path / "m"), "--set", assignment]) == 0
    mended = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    assert torch.equal(logits(mended), logits(model))
    does_what_it_says(mended, "pi")


def test_a_dynamic_rope_that_promises_nothing_has_a_mend_that_mends(tmp_path, capsys):
    rope = {"type": "dynamic", "alpha": 1000.0, "factor": 1.0}
    cases.build(tmp_path / "m", cases.llama(64, rope_theta=1e4, rope_scaling=rope))
    (problem,) = Checkpoint.open(tmp_path / "m", sound=False).problems
    assert run(shlex.split(problem.mend.split("   (")[0])[1:]) == 0
    assert Checkpoint.open(tmp_path / "m").problems == []
