"""``inspect --set`` as a user meets it: what would be a problem, or what nobody reads, is not written."""

from __future__ import annotations

import json

import pytest

from ropewalk.cli.main import run
from tests import cases

ROPE = {"rope_type": "default", "rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096, "rope_theta": 1e4}


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("max_position_embedings=4096", "did you mean 'max_position_embeddings'?"),
        ("rope_parameter.factor=8", "did you mean 'rope_parameters'?"),
        ("rope_parameters.factr=8", "did you mean 'factor'?"),
        ("rope_scale=8", "did you mean 'rope_scaling'?"),
        ("head_dims=8", "did you mean 'head_dim'?"),
        ("rms_norm_epps=1e-5", "did you mean 'rms_norm_eps'?"),
        ("rms_norm_eps=a", "config.json could not be read any more: transformers cannot read config.json"),
        ("eos_token_id=a", "eos_token_id"),
        ("rope_theta=-1", "rope_theta"),
        ('model_type="nope"', "could not be read any more"),
        ("rope_parameters.factor=", "null removes a key"),
        ("rope_parameters.factor=8", "rope-type-missing: rope_parameters.rope_type would be 'default'"),
        ("rope_parameters.rope_type=yran", "rope_type would be 'yran', expected yarn"),
        ("rope_parameters.rope_type=yarn", "What belongs together goes in one line"),
        ('rope_theta="10000"', "rope_theta would be '10000', expected a number"),
        ("num_attention_heads=-1", "num_attention_heads is"),
        ("tokenizer_config.json:model_max_lenght=8", "did you mean 'model_max_length'?"),
    ],
)
def test_what_would_be_wrong_is_not_written(word, said, tmp_path, capsys):
    folder = cases.write(tmp_path, cases.llama(rope_parameters=ROPE))
    (tmp_path / "tokenizer_config.json").write_text("{}")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert run(["inspect", folder, "--set", word]) == 2
    assert said in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_is_written_is_named_with_its_copy(tmp_path, capsys):
    folder = cases.write(tmp_path, cases.llama(rope_parameters=ROPE, note="ours"))
    words = [f"rope_parameters.{key}={json.dumps(value)}" for key, value in YARN.items()]
    words += ["max_position_embeddings=16384", "note=also", "hidden_act=relu"]  # the file's own key, and the class's
    assert run(["inspect", folder, *(part for word in words for part in ("--set", word))]) == 0
    file = tmp_path / "config.json"
    assert f"wrote {file}; what it was is in {file}.bak" in capsys.readouterr().out.replace("\n", " ")
    assert json.loads(file.read_text())["rope_parameters"] == YARN
    assert run(["inspect", folder, "--set", "note=null", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["wrote"] == {str(file): f"{file}.bak.1"}


@pytest.mark.parametrize(
    "word", ["my_note=hello", 'quantization_config={"quant_method":"bitsandbytes","load_in_4bit":true}']
)
def test_notes_and_what_transformers_itself_reads_may_be_set(word, tmp_path):
    folder = cases.write(tmp_path, cases.llama(rope_parameters=ROPE))
    assert run(["inspect", folder, "--set", word]) == 0


def test_a_model_that_was_wrong_before_can_be_mended_in_steps(tmp_path):
    rope = {"rope_type": "yarm", "rope_theta": 1e4}
    folder = cases.write(tmp_path, cases.llama(16384, rope_parameters=rope))
    assert run(["inspect", folder, "--set", "rope_parameters.rope_type=yarn"]) == 1  # the factor is missing now
    assert run(["inspect", folder, "--set", "rope_parameters.rope_type=yran"]) == 2
    assert run(["inspect", folder, "--set", "hidden_act=relu"]) == 1, "the same problems as before"


def test_keys_of_the_language_model_inside_another(tmp_path, capsys):
    folder = cases.write(tmp_path, cases.multimodal())
    assert run(["inspect", folder, "--set", "text_config.max_position_embeding=8"]) == 2
    assert "did you mean 'max_position_embeddings'?" in capsys.readouterr().err
    assert run(["inspect", folder, "--set", "rope_scalling.factor=8"]) == 2
    assert run(["inspect", folder, "--set", "text_config.max_position_embeddings=8192"]) == 0
