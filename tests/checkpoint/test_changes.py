"""``inspect --set`` as a user meets it: what would be a problem, or what nobody reads, is not written."""

from __future__ import annotations

import json
import shlex
import time

import pytest

from ropewalk.cli.main import run
from ropewalk.rope.keys import BESIDE
from ropewalk.rope.trial import RUNS, reached
from tests import cases
from tests.architectures import ARCHITECTURES, build
from tests.models import tiny

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
        ("rms_norm_eps=a", "rms_norm_eps would be 'a', expected a number from 0 to below 1"),
        ("attention_bias=a", "could not be read any more: config.json: attention_bias is 'a', expected true or false"),
        ("eos_token_id=a", "eos_token_id"),
        ("rope_theta=-1", "rope_theta"),
        ('model_type="nope"', "could not be read any more"),
        ("rope_parameters.factor=", "null removes a key"),
        ("rope_parameters.factor=8", "rope-type-missing: rope_parameters.rope_type would be 'default'"),
        ("rope_parameters.rope_type=yran", "rope_type would be 'yran', expected yarn"),
        ("rope_parameters.rope_type=yarn", "What belongs together goes in one line"),
        ('rope_theta="10000"', "rope_theta would be '10000', expected a number"),
        ("num_attention_heads=-1", "num_attention_heads would be -1, expected a whole number from 1"),
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


GPT_OSS = cases.of("gpt_oss", head_dim=16, num_local_experts=2, num_experts_per_tok=1, layer_types=cases.SLIDING,
                   sliding_window=64, max_position_embeddings=16384, rope_parameters=YARN)  # fmt: skip
SMOLLM3 = cases.of("smollm3", no_rope_layers=[1, 0], max_position_embeddings=4096, rope_parameters=ROPE)
MIXTRAL = cases.mixtral()
NO_MODEL = [
    (cases.llama(rope_parameters=ROPE), "num_key_value_heads=3", "expected a divisor of num_attention_heads"),
    (cases.llama(rope_parameters=ROPE), 'hidden_act="foo"', "LlamaForCausalLM cannot be made: KeyError: 'foo'"),
    (cases.llama(rope_parameters=ROPE), "intermediate_size=0", "mlp.gate_proj.weight, [0, 64]"),
    (cases.llama(rope_parameters=ROPE), "dtype=7", "expected the name of a type of numbers"),
    (cases.llama(rope_parameters=ROPE), 'dtype="int8"', "not a floating-point dtype"),
    (cases.llama(rope_parameters=ROPE), "rms_norm_eps=-1", "expected a number from 0 to below 1"),
    (cases.multimodal(), "text_config.num_key_value_heads=3", "expected a divisor of num_attention_heads"),
    (GPT_OSS, "rope_parameters.truncate=x", "rope_parameters.truncate would be 'x', expected true or false"),
    (GPT_OSS, "num_experts_per_tok=9", "GptOssForCausalLM does not run: RuntimeError"),
    (GPT_OSS, "num_experts_per_tok=0", "expected a whole number from 1"),
    (
        SMOLLM3,
        "no_rope_layers=[1]",
        "no_rope_layers would be [1] (it is [1, 0]): config.json could not",
    ),
    (MIXTRAL, "num_key_value_heads=3", "expected a divisor of num_attention_heads"),
    (cases.deepseek(first_k_dense_replace=0), "topk_group=3", "does not run"),
    (cases.deepseek(), "qk_rope_head_dim=7", "qk_rope_head_dim"),
]


@pytest.mark.parametrize(("raw", "word", "said"), NO_MODEL)
def test_what_no_model_can_have_is_not_written(raw, word, said, tmp_path, capsys):
    folder = cases.write(tmp_path, raw)
    before = (tmp_path / "config.json").read_bytes()
    assert run(["inspect", folder, "--set", word]) == 2
    error = capsys.readouterr().err
    assert said in error and word.partition("=")[0] in error and "Nothing was written" in error
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


@pytest.fixture
def trained(tmp_path):
    """A model with weights."""
    tiny("llama").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize("word", ["num_hidden_layers=1", "num_hidden_layers=3", "vocab_size=98", "head_dim=8",
                                  "intermediate_size=48", "attention_bias=true", "num_key_value_heads=4"])  # fmt: skip
def test_what_the_weights_are_not_is_not_written(word, trained, capsys):
    assert run(["inspect", str(trained), "--set", word]) == 2
    assert "expected what the weights beside it are of" in capsys.readouterr().err
    assert not list(trained.glob("*.bak"))
    (trained / "model.safetensors").unlink()
    assert run(["inspect", str(trained), "--set", word]) == 0, "a model of its own where no weights say another"


def edit(folder, **keys):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_can_be_made_and_runs(name):
    assert reached(build(name).config) == (RUNS, "")


def test_a_model_of_thousands_of_layers_takes_no_longer(tmp_path):
    folder = cases.write(tmp_path, cases.llama(rope_parameters=ROPE))
    began = time.monotonic()
    assert run(["inspect", folder, "--set", "num_hidden_layers=4096"]) == 0
    assert time.monotonic() - began < 5


def test_a_model_that_could_not_be_made_before_can_be_mended(trained, caplog):
    edit(trained, num_key_value_heads=3)
    assert run(["inspect", str(trained), "--set", "hidden_act=foo"]) == 2, "it could be made, and did not run"
    assert run(["inspect", str(trained), "--set", "rms_norm_eps=1e-5"]) == 1, "what is still wrong is said"
    assert "it is no model yet: LlamaForCausalLM does not run" in caplog.text
    caplog.clear()
    assert run(["inspect", str(trained), "--set", "num_key_value_heads=4"]) == 0
    assert "it is no model yet" in caplog.text, "the weights have 2"
    caplog.clear()
    assert run(["inspect", str(trained), "--set", "num_key_value_heads=2"]) == 0
    assert caplog.text == ""


def test_of_several_values_that_no_model_can_have_one_can_be_mended(trained, capsys):
    edit(trained, rms_norm_eps="x", dtype=7)
    assert run(["inspect", str(trained)]) == 2
    assert run(["inspect", str(trained), "--set", "rms_norm_eps=-2"]) == 2, "one wrong value for another"
    run(["inspect", str(trained), "--set", "rms_norm_eps=1e-5"])
    assert "dtype is 7" in capsys.readouterr().err, "what is left is said"
    assert run(["inspect", str(trained), "--set", "dtype=float32"]) == 0


def test_weights_that_cannot_be_compared_do_not_stand_in_the_way(trained):
    (trained / "model.safetensors").write_bytes(b"x")
    assert run(["inspect", str(trained), "--set", "num_hidden_layers=3"]) == 0


def test_code_of_its_own_is_not_made(tmp_path):
    own = {"model_type": "of_its_own", "auto_map": {"AutoConfig": "its.Own"}, "num_key_value_heads": 2}
    folder = cases.write(tmp_path, own)
    before = (tmp_path / "config.json").read_text()
    assert run(["inspect", folder, "--set", "num_key_value_heads=7"]) in (1, 2)
    assert json.loads((tmp_path / "config.json").read_text()) == {**json.loads(before), "num_key_value_heads": 7}


@pytest.mark.parametrize("word", ["tokenizer_config.json:model_max_length=[1]", "generation_config.json:max_length=x",
                                  "generation_config.json:eos_token_id=x", "generation_config.json:do_sample=3",
                                  "generation_config.json:temperature=hot"])  # fmt: skip
def test_files_beside_pass_their_gate_too(word, tmp_path, capsys):
    folder = cases.write(tmp_path, cases.llama(rope_parameters=ROPE))
    for name in BESIDE:
        (tmp_path / name).write_text("{}")
    assert run(["inspect", folder, "--set", word]) == 2
    assert word.partition(":")[2].partition("=")[0] in capsys.readouterr().err
    assert (tmp_path / word.partition(":")[0]).read_text() == "{}"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ('quantization_config={"quant_method":"foo"}', "quant_method would be 'foo', expected one of"),
        ("quantization_config=foo", "expected an object"),
        ("torch_dtype=float99", "the name of a type of numbers"),
        ("dtype=Linear", "the name of a type of numbers"),
        ("eos_token_id=99999", "a number below the vocabulary's"),
        ("eos_token_id=[1,99999]", "a number below the vocabulary's"),
        ("vocab_size=1", "a number below the vocabulary's"),
        ("generation_config.json:eos_token_id=99999", "a number below the vocabulary's"),
        ('architectures=["Foo"]', "names of classes of transformers"),
        ("attention_dropout=3", "a share from 0 to 1"),
        ("attention_dropout=-0.1", "a share from 0 to 1"),
    ],
)
def test_values_that_nothing_runs_with_are_not_written(word, expected, tmp_path, capsys):
    folder = cases.write(tmp_path, cases.llama(rope_parameters=ROPE, eos_token_id=2, dtype="float32"))
    (tmp_path / "generation_config.json").write_text("{}")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    assert run(["inspect", folder, "--set", word]) == 2
    assert expected in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


BAD = {
    "tokenizer_config.json": {"tokenizer_class": 7, "eos_token": [1], "chat_template": 5, "padding_side": "up"},
    "generation_config.json": {"temperature": "hot", "eos_token_id": "x", "do_sample": 3},
    "special_tokens_map.json": {"bos_token": 3, "additional_special_tokens": "x"},
}


@pytest.mark.parametrize("name", BAD)
def test_one_line_mends_all_faults_of_a_file_beside(name, tmp_path, capsys):
    tiny("llama").save_pretrained(tmp_path / "m")
    (tmp_path / "m" / name).write_text(json.dumps(BAD[name]))
    assert run(["inspect", str(tmp_path / "m")]) == 2
    said, mend = capsys.readouterr().err.split("\n", 1)
    assert all(f"{key} is {value!r}" in said for key, value in BAD[name].items())
    words = shlex.split(mend.partition("   (")[0])
    assert run(words[1:]) == 0
    assert not set(BAD[name]) & set(json.loads((tmp_path / "m" / name).read_text()))


def test_a_fault_that_is_mended_alone_is_written_and_the_others_are_said(tmp_path, capsys):
    tiny("llama").save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "generation_config.json"
    file.write_text(json.dumps(BAD[file.name]))
    assert run(["inspect", str(tmp_path / "m"), "--set", f"{file.name}:temperature=null"]) == 2
    said = capsys.readouterr().err
    assert "is written as said" in said and "do_sample is 3" in said and "temperature" not in said
    assert "temperature" not in json.loads(file.read_text())


@pytest.mark.parametrize("text", ["{}", '{"model": 5}', "[]", "", '{"model": null, "added_tokens": []}'])
@pytest.mark.parametrize("verb", [["inspect"], ["evaluate"]])
def test_a_tokenizer_that_is_none_is_named(text, verb, tmp_path, capsys):
    tiny("llama").save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "tokenizer.json").write_text(text)
    assert run([*verb, str(tmp_path / "m")]) == 2
    said = capsys.readouterr().err
    assert "tokenizer.json" in said and "expected" in said
    assert "Restore the file" in said


def test_added_tokens_are_numbered(tmp_path, capsys):
    tiny("llama").save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "added_tokens.json").write_text('{"<a>": "x"}')
    assert run(["inspect", str(tmp_path / "m")]) == 2
    assert "<a> is 'x', expected the number of a token" in capsys.readouterr().err
