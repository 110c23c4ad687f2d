"""From any config.json, of transformers 4 or 5, to RopeSpecs; and what is refused, by the name of its key."""

import json
import math

import pytest
import torch

from ropewalk import UserError, method
from ropewalk.methods.frequencies.frequency_method import check_live
from ropewalk.rope.config import RECORD, extension, load_config, read, starting_specs
from ropewalk.rope.live import rotaries
from tests.models import COMMON, FAMILIES, config, tiny

LLAMA = {key: value for key, value in COMMON.items() if key != "max_position_embeddings"} | {"model_type": "llama"}
RISING = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5]
LLAMA3 = {"factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LONGROPE = {"short_factor": [1.0] * 8, "long_factor": RISING, "original_max_position_embeddings": 64}
YARN = {"factor": 4.0, "original_max_position_embeddings": 64}


@pytest.fixture
def folder(tmp_path):
    """Writes config.json and gives its folder."""

    def write(content):
        (tmp_path / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return str(tmp_path)

    return write


def spec_of(folder, content):
    return read(load_config(folder(content)))["all"]


def llama(rope_type, length, **parameters):
    """The way of transformers 5."""
    rope = {"rope_type": rope_type, "rope_theta": 10000.0} | parameters
    return {**LLAMA, "max_position_embeddings": length, "rope_parameters": rope}


def legacy(rope_type, length, key="rope_type", **parameters):
    """The way of transformers 4: base outside; ``type`` in the oldest."""
    rope = None if rope_type == "default" else {key: rope_type, **parameters}
    return {**LLAMA, "max_position_embeddings": length, "rope_theta": 10000.0, "rope_scaling": rope}


KINDS = {
    "default": ("default", 64, {}),
    "linear": ("linear", 256, {"factor": 4.0}),
    "dynamic": ("dynamic", 64, {"factor": 4.0}),
    "yarn": ("yarn", 256, YARN),
    "llama3": ("llama3", 256, LLAMA3),
    "longrope": ("longrope", 256, LONGROPE),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@kinds
@pytest.mark.parametrize("key", ["rope_type", "type"])
def test_old_and_new_spellings_give_the_same_spec(kind, key, folder):
    rope_type, length, parameters = KINDS[kind]
    old = spec_of(folder, legacy(rope_type, length, key, **parameters))
    assert old == spec_of(folder, llama(rope_type, length, **parameters))


@kinds
def test_the_window_is_the_pretrained_length(kind, folder):
    rope_type, length, parameters = KINDS[kind]
    assert spec_of(folder, llama(rope_type, length, **parameters)).window == 64


LENGTHS = {"default": 64, "linear": 256, "dynamic": 256, "yarn": 256, "llama3": 256, "longrope": 256}


@pytest.mark.parametrize("kind, length", LENGTHS.items())
def test_the_promised_length(kind, length, folder):
    rope_type, written, parameters = KINDS[kind]
    assert spec_of(folder, llama(rope_type, written, **parameters)).length == length


@kinds
def test_the_frequencies_are_those_of_the_live_model(kind):
    rope_type, length, parameters = KINDS[kind]
    rope = {"rope_type": rope_type, "rope_theta": 10000.0, **parameters}
    model = tiny("llama", max_position_embeddings=length, rope_parameters=rope)
    spec, live = read(model.config)["all"], rotaries(model)[0]
    assert torch.allclose(spec.inv_freq, live.inv_freq.double(), rtol=1e-6)
    assert spec.attention_factor == pytest.approx(live.attention_scaling)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_reads_as_its_live_model_is(family):
    check_live(tiny(family))


@pytest.mark.parametrize("kind, window, factors", [
    ("linear", 64, [1.0] * 8), ("dynamic", 64, [1.0] * 8), ("yarn", 64, [1.0] * 8), ("longrope", 256, RISING),
])  # fmt: skip
def test_where_an_extension_starts(kind, window, factors, folder):
    rope_type, length, parameters = KINDS[kind]
    start = starting_specs(load_config(folder(llama(rope_type, length, **parameters))))["all"]
    assert start.window == window and list(start.factors) == factors


def test_an_extension_of_llama3_starts_from_its_factors(folder):
    content = load_config(folder(llama("llama3", 256, **LLAMA3)))
    start = starting_specs(content)["all"]
    assert (
        start.window == 256 and start.factors == read(content)["all"].factors and max(start.factors) == pytest.approx(4)
    )


def test_on_top_of_a_yarn_that_was_trained_in(folder):
    content = load_config(folder(llama("yarn", 256, **YARN)))
    start = starting_specs(content, on_top=True)["all"]
    assert start.window == 256 and start.factors == read(content)["all"].factors
    assert start.attention_factor == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize(
    "parameters, t",
    [
        ({}, 0.1 * math.log(4) + 1),
        ({"attention_factor": 1.25}, 1.25),
        ({"mscale": 0.707, "mscale_all_dim": 0.707}, 1.0),
        ({"mscale": 1.0, "mscale_all_dim": 0.5}, (0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1)),
    ],
)
def test_attention_factors_of_yarn(parameters, t, folder):
    assert spec_of(folder, llama("yarn", 256, **YARN, **parameters)).attention_factor == pytest.approx(t)


def test_attention_factor_of_longrope(folder):
    expected = math.sqrt(1 + math.log(4) / math.log(64))
    assert spec_of(folder, llama("longrope", 256, **LONGROPE)).attention_factor == pytest.approx(expected)


def test_equal_factor_sets_are_one(folder):
    spec = spec_of(folder, llama("longrope", 256, **{**LONGROPE, "short_factor": RISING}))
    assert spec.long_factors is None and list(spec.factors) == RISING


def test_phi3_keeps_its_window_outside_the_rope(folder):
    values = {key: value for key, value in LLAMA.items() if key != "head_dim"} | {"model_type": "phi3"}
    rope = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": RISING}
    content = {**values, "max_position_embeddings": 256, "original_max_position_embeddings": 64, "rope_theta": 1e4}
    spec = spec_of(folder, {**content, "rope_scaling": rope})
    assert (spec.window, spec.length, spec.long_factors) == (64, 256, tuple(RISING))


def test_partial_rotation(folder):
    spec = read(config("gpt_neox"))["all"]
    assert (spec.rotary_dim, spec.head_dim, len(spec.factors)) == (8, 16, 4)


@pytest.mark.parametrize("family", ["gemma3", "olmo3"])
def test_sliding_layers_are_marked(family):
    assert {key: spec.sliding for key, spec in read(config(family)).items()} == {
        "sliding_attention": True, "full_attention": False,
    }  # fmt: skip


@pytest.mark.parametrize("family, heads", [("llama", 2), ("gpt_neox", 4)])
def test_key_value_heads(family, heads):
    assert read(config(family))["all"].kv_heads == heads


def test_a_layer_type_without_rope_is_left_out():
    mixed = config("gemma3")
    mixed.rope_parameters["full_attention"] = None
    assert list(read(mixed)) == ["sliding_attention"]


@pytest.mark.parametrize("kind", ["full_attention", "sliding_attention"])
def test_a_layer_type_that_no_layer_has_is_left_out(kind):
    only = config("gemma3", layer_types=[kind] * 2)
    assert list(read(only)) == [kind]
    check_live(tiny("gemma3", layer_types=[kind] * 2))


# A folder that ropewalk wrote: its record says where it started


def test_a_record_brings_back_window_and_start(folder):
    start = spec_of(folder, llama("default", 64))
    record = json.loads(json.dumps(extension("abf", 64, {"all": start}, {}, 256)))
    extended = load_config(folder({**llama("default", 256, rope_theta=40000.0), RECORD: record}))
    assert (read(extended)["all"].window, read(extended)["all"].base) == (64, 40000.0)
    assert starting_specs(extended) == {"all": start}
    assert starting_specs(extended, on_top=True)["all"].base == 40000.0


# What is refused


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not valid JSON"),
        ("[1, 2]", "holds a JSON list, expected an object"),
        ("\ufeff{}", "begins with a byte order mark"),
        ({"hidden_size": 64}, "has no key 'model_type'"),
        ({"model_type": "lama"}, "does not know; did you mean 'llama'"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "code.Own"}}, "needs code of its own (key 'auto_map'"),
    ],
)
def test_files_that_are_no_configuration(content, message, folder):
    with pytest.raises(UserError) as error:
        load_config(folder(content))
    assert message in str(error.value) and "config.json" in str(error.value)


@pytest.mark.parametrize("name", ["missing", "./missing", "a/b/c"])
def test_a_missing_folder_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no model at '{name}'"):
        load_config(name)


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(UserError, match=r"config\.json does not exist"):
        load_config(str(tmp_path))


def test_a_hub_id_without_the_hub():
    with pytest.raises(UserError, match="'nobody/nothing' is no local folder, and the hub did not give"):
        load_config("nobody/nothing")


@pytest.mark.parametrize("model_type", ["gpt2", "bert"])
def test_models_without_a_rotary_embedding(model_type, folder):
    with pytest.raises(UserError, match=f"'{model_type}' has no rotary position embedding"):
        read(load_config(folder({"model_type": model_type})))


@pytest.mark.parametrize(
    "rope, message",
    [
        ({"rope_type": "default", "rope_theta": None}, "rope_theta None, expected a number above 1"),
        ({"rope_type": "default", "rope_theta": "10000"}, "rope_theta '10000'"),
        ({"rope_type": "default", "rope_theta": 1.0}, "rope_theta 1.0"),
        (
            {"rope_type": "yern", "rope_theta": 1e4, "factor": 4.0},
            "rope_type 'yern' is unknown, expected one of default",
        ),
        ({"rope_type": "linear", "rope_theta": 1e4, "factor": "four"}, "the rope parameters cannot be read"),
    ],
)
def test_bad_rope_parameters(rope, message):
    bad = config("llama")
    bad.rope_parameters = rope
    with pytest.raises(UserError) as error:
        read(bad)
    assert message in str(error.value)


def test_a_missing_base_comes_with_its_place():
    bad = config("llama")
    bad.rope_parameters = {"rope_type": "default"}
    with pytest.raises(UserError) as error:
        read(bad)
    assert '"rope_theta": "<the base' in error.value.mend


def test_reading_changes_nothing(folder):
    content = load_config(folder(llama("yarn", 256, **YARN)))
    before = content.to_dict()
    read(content)
    method("yarn").saved(content, 512)
    assert content.to_dict() == before
