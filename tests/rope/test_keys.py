"""What the keys of a configuration can hold, and what passes the gate."""

from __future__ import annotations

import json

import pytest

from ropewalk.common.errors import UserError
from ropewalk.rope.keys import WHOLE, read_config
from tests.models import config


def read(tmp_path, content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    return read_config(tmp_path / "config.json")


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("value", [-1, 1.5, "x", "", True, 10**18, 1e30, float("nan"), float("inf"), 10**39])
@pytest.mark.parametrize("key", WHOLE)
def test_counts_are_whole_and_within_reason(key, value, inside, tmp_path):
    content = {"text_config": {key: value}} if inside else {key: value}
    with pytest.raises(UserError, match=f"config.json: {'text_config.' * inside}{key} is .*, expected a whole number"):
        read(tmp_path, content)


@pytest.mark.parametrize("key", [key for key, (least, _) in WHOLE.items() if least])
def test_what_must_be_there_is_not_nothing(key, tmp_path):
    with pytest.raises(UserError, match=f"{key} is 0, expected a whole number from"):
        read(tmp_path, {key: 0})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("architectures", "Llama", "a list of names"),
        ("architectures", [], "a list of names"),
        ("architectures", [None], "a list of names"),
        ("architectures", {"a": 1}, "a list of names"),
        ("layer_types", 7, "a list of names"),
        ("layer_types", [["full_attention"]], "a list of names"),
        ("model_type", ["llama"], "a name"),
        ("text_config", ["x"], "an object"),
        ("rope_parameters", 3, "an object"),
        ("rope_scaling", "yarn", "an object"),
        ("eos_token_id", 2**63, "a number of at most 64 bits"),
        ("head_dim", 1, "a whole number from 2"),
        ("sliding_window", {"a": 1}, "a whole number from 0"),
        ("num_hidden_layers", [1], "a whole number from 1"),
    ],
)
def test_wrong_types_are_named(key, value, expected, tmp_path):
    with pytest.raises(UserError, match=f"{key} is .*, expected {expected}"):
        read(tmp_path, {key: value})


def test_numbers_of_any_depth_fit_an_engine(tmp_path):
    with pytest.raises(UserError, match=r"rope_parameters\.full_attention\.factor is .*64 bits"):
        read(tmp_path, {"rope_parameters": {"full_attention": {"factor": 10**39}}})


@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3", "qwen3"])
def test_sound_configurations_pass(family, tmp_path):
    content = json.loads(config(family).to_json_string())
    assert read(tmp_path, content) == content


def test_what_an_architecture_has_of_its_own_passes(tmp_path):
    own = {"num_key_value_heads": [2, 4], "intermediate_size": [8, 9], "sliding_window": None, "limit": float("inf")}
    assert read(tmp_path, own) == own
