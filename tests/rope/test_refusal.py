"""What transformers refuses is told by the key that it stands in, whatever code of a class stumbled over it."""

from __future__ import annotations

import json
import shlex
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from ropewalk.cli.main import run
from ropewalk.common.errors import UserError
from ropewalk.rope.config import load_config

FAMILIES = ("qwen3_moe", "falcon", "deepseek_v3")
WRONG: tuple[Any, ...] = ("four", {"a": 1}, 1.5)


def written(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def content_of(family: str) -> dict[str, Any]:
    return json.loads(AutoConfig.for_model(family).to_json_string(use_diff=False))


@pytest.mark.parametrize(
    ("family", "steps", "value", "said", "mend"),
    [
        ("llama", ["num_attention_heads"], [1, "a"], "expected a whole number from 1", ""),
        ("llama", ["attention_bias"], "yes", "expected true or false", ""),
        ("llama", ["initializer_range"], "0.02", "expected a number with a point", "initializer_range=0.02"),
        ("llama", ["bos_token_id"], "8", "expected a whole number or null", "bos_token_id=8"),
        ("llama", ["id2label"], "four", "expected an object or null", ""),
        ("llama", ["hidden_size"], 65, "which transformers refuses: The hidden size (65) is not a multiple", ""),
        ("gpt_neox", ["layer_norm_eps"], 0, "expected a number with a point", "layer_norm_eps=0.0"),
        ("falcon", ["alibi"], 0, "expected true or false or null", ""),
        ("qwen2", ["layer_types"], ["x"], "which transformers refuses: The `layer_types` entries must be in", ""),
        ("gemma3_text", ["rope_parameters", "full_attention"], "four", "expected an object", ""),
        ("llama", ["model_type"], "lama", "did you mean 'llama'", "pip install --upgrade transformers"),
    ],
)
def test_the_key_is_named_with_what_it_takes(family, steps, value, said, mend, tmp_path):
    content = content_of(family)
    reduce(lambda inner, step: inner[step], steps[:-1], content)[steps[-1]] = value
    with pytest.raises(UserError) as caught:
        load_config(str(written(tmp_path, content)))
    assert f"{'.'.join(steps)} is {value!r}" in caught.value.message and said in caught.value.message
    assert caught.value.mend.endswith(mend or "where the model came.")


@pytest.mark.parametrize("value", [[2, None], [2, "x"]])
def test_an_item_of_a_list_is_named(value, tmp_path):
    content = content_of("llama") | {"eos_token_id": value}
    with pytest.raises(UserError) as caught:
        load_config(str(written(tmp_path, content)))
    seen = f"eos_token_id holds {value[1]!r}, expected a whole number in its place"
    assert seen in caught.value.message and "class" not in caught.value.message
    assert run(shlex.split(caught.value.mend)[1:]) == 0
    assert load_config(str(tmp_path)).eos_token_id == [2]


def test_a_key_inside_another_configuration_is_named_by_its_path(tmp_path):
    content = {"model_type": "gemma3", "text_config": content_of("gemma3_text") | {"attention_bias": "x"}}
    with pytest.raises(UserError, match=r"text_config\.attention_bias is 'x', expected true or false"):
        load_config(str(written(tmp_path, content)))


def test_the_line_that_mends_mends(tmp_path, capsys):
    written(tmp_path, content_of("llama") | {"initializer_range": "0.02"})
    assert run(["inspect", str(tmp_path)]) == 2
    line = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert line[0] == "ropewalk" and run(line[1:]) == 0
    assert load_config(str(tmp_path)).initializer_range == 0.02


def test_of_several_one_is_named(tmp_path):
    content = content_of("llama") | {"attention_bias": "a", "mlp_bias": "b"}
    with pytest.raises(UserError, match=r"_bias is '[ab]', expected true or false"):
        load_config(str(written(tmp_path, content)))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_value_of_a_wrong_type_is_told_in_the_words_of_a_class(family, tmp_path):
    content, refused = content_of(family), 0
    for key in content:
        for value in WRONG:
            try:
                load_config(str(written(tmp_path, {**content, key: value})))
            except UserError as error:
                refused += 1
                assert f"config.json: {key}" in error.message, error.message
                assert "alidation error" not in error.message
    assert refused > len(content)
