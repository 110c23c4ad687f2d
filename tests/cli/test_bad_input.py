"""Bad input of every kind ends in exit 2 and one sentence: no traceback, no hang, nothing left, nothing obeyed."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ropewalk.checkpoint.checkpoint import BUNDLED, Checkpoint
from ropewalk.cli.main import run
from ropewalk.common.errors import UserError
from ropewalk.common.terminal import UNSEEN

DIGITS, LONG, ESCAPE = "9" * 400, "n" * 5000, "\x1b[2J[/bold][/x]"
SECONDS = 20  # the slowest takes one; what waits takes for ever


def refused(capfd, *words: object) -> str:
    """What a command line says that exits with 2."""
    began = time.monotonic()
    code = run([str(word) for word in words])
    out, err = capfd.readouterr()
    assert code == 2, (out, err)
    assert time.monotonic() - began < SECONDS
    assert "error " in err and "Traceback" not in err and len(err) < 1000 and not UNSEEN.search(err)
    return err


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def model(place) -> Path:
    """The bundled model, whose files may be changed."""
    return Path(shutil.copytree(BUNDLED, place / "m"))


def change(file: Path, *keys: str, value: object) -> None:
    content = inner = json.loads(file.read_text())
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    file.write_text(json.dumps(content))


VERBS = {
    "inspect": ("inspect", "m"),
    "plan": ("plan", "m", "--to", "4k"),
    "extend": ("extend", "m", "--to", "4k", "-o", "out"),
    "export": ("export", "m", "--engine", "vllm", "--to", "4k"),
    "check-export": ("check-export", "m"),
}
BROKEN = {
    "nested": "[" * 200_000,
    "nested and closed": '{"a":' * 500 + "1" + "}" * 500,
    "digits": '{"model_type": "llama", "rope_theta": ' + "1" * 5000 + "}",
    "surrogate": r'{"model_type": "\ud800"}',
    "list": "[1]",
    "no text": "\x00",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("verb", VERBS)
def test_a_configuration_that_is_no_json(verb, kind, model, capfd):
    (model / "config.json").write_text(BROKEN[kind])
    assert "config.json" in refused(capfd, *VERBS[verb])
    assert os.listdir() == ["m"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architectures", True), ("architectures", {"a": 1}), ("text_config", ["x"]), ("text_config", {"a": 1}),
        ("model_type", 3),
        ("max_position_embeddings", 0), ("max_position_embeddings", -1), ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 0), ("num_hidden_layers", 1.5), ("head_dim", 1), ("head_dim", 3), ("head_dim", 10**9),
        ("head_dim", -1), ("hidden_size", 0), ("num_key_value_heads", 10**30), ("layer_types", 3),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 10**39}),
        ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": 1e30}),
        ("ropewalk", 3), ("ropewalk", {"window": 10**30}), ("ropewalk", {"window": 1, "pretrained": {"all": {}}}),
        ("transformers_version", 10**39),
    ],
)  # fmt: skip
def test_a_key_that_cannot_hold_its_value(key, value, model, capfd):
    change(model / "config.json", key, value=value)
    assert key in refused(capfd, *VERBS["extend"]).replace("rotary", key).replace("dimensions of a head", key)
    assert os.listdir() == ["m"]


@pytest.mark.parametrize("verb", VERBS)
def test_keys_of_another_architecture_are_passed_over(verb, model, capfd):
    change(model / "config.json", "kv_lora_rank", value=16)
    assert run(list(VERBS[verb])) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("verb", VERBS)
def test_text_of_a_file_is_not_obeyed(verb, model, capfd):
    change(model / "config.json", "architectures", value=[ESCAPE])
    change(model / "config.json", "dtype", value="bfloat16")
    assert run(list(VERBS[verb])) in (0, 1, 2)
    out, err = capfd.readouterr()
    assert not UNSEEN.search(out + err)
    if verb in ("inspect", "plan"):
        assert r"\x1b[2J[/bold][/x]" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("plan", "m", "--to", DIGITS), "to: "),
        (("plan", "m", "--to", "٤k"), "to: "),
        (("plan", "m", "--to", "4k", "--memory", DIGITS + "G"), "memory"),
        (("plan", "m", "--to", "4k", "--tokens", DIGITS), "tokens"),
        (("plan", "m", "--to", "4k", "--gpus", "1.5"), "gpus: '1.5' is no whole number"),
        (("plan", "m", "--to", "4k", "--mfu", DIGITS), "mfu"),
        (("extend", "m", "--to", "1e20", "-o", "out"), "to: "),
        (("extend", "m", "--to", "2k", "-o", "out", "-m", f"yarn(beta_fast={DIGITS})"), "beta_fast"),
        (("extend", "m", "--to", "2k", "-o", "out", "-m", f"yarn(beta_fast={'(' * 5000})"), "cannot read"),
        (("extend", "m", "--to", "2k", "-o", "out", "-m", LONG), "unknown method"),
        (("extend", "m", "--to", "2k", "-o", LONG), "out: "),
        (("extend", "m", "--to", "2k", "-o", "~nosuchuser/x"), "out: '~nosuchuser/x' cannot be a path"),
        (("extend", "~nosuchuser", "--to", "2k", "-o", "out"), "model: '~nosuchuser' cannot be a path"),
        (("inspect", LONG), "5,000 characters"),
        (("inspect", ESCAPE), r"\x1b[2J[/bold][/x]"),
        (("inspect", "m", "--set", f"max_position_embeddings={DIGITS}"), "400 digits"),
        (("inspect", "m", "--set", "rope_theta=" + "[" * 200_000), "nested too deep"),
        (("check-export", "m", "--overrides", "[" * 200_000), "nested too deep"),
        (("compare", "m", "--to", "1k", "--seeds", "²"), "seeds: '²' is no whole number"),
        (("compare", "m", "--to", "1k", "--samples", "1e20"), "samples: '1e20' is no whole number"),
        (("compare", "m", "--to", "1k", "--samples", "2.5"), "samples: '2.5' is no whole number"),
        (("compare", "m", "--to", "1k", "--samples", DIGITS), "samples: "),
        (("compare", "m", "--to", "1k", "--lengths", f"1k,{DIGITS}"), "lengths: "),
        (("compare", "m", "--to", "1k", "--data", "~nosuchuser"), "data: "),
        (("compare", "m", "--to", "1k", "-m", "tca(fitted=~nosuchuser)"), "cannot be a path"),
        (("inspect", "m", "--data", "topics"), "--data changes nothing without --weights"),
        (("inspect", "m", "--overwrite"), "--overwrite changes nothing without --patch"),
        (("compare", "m", "--to", "1k", "--served", "x"), "--served changes nothing about models that no server"),
        (("evaluate", "http://127.0.0.1:1/v1", "--dtype", "float16"), "--dtype changes nothing about models that a"),
        (("serve", "m", "--port", "70000"), "port: '70000' is no whole number from 0 to 65,535"),
    ],
)
def test_options_that_say_no_such_thing(words, said, model, capfd):
    assert said in refused(capfd, *words)
    assert os.listdir() == ["m"]


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "pipe"), ("inspect", "pipe.gguf"), ("inspect", "folder"), ("plan", "pipe", "--to", "4k"),
        ("inspect", "/dev/zero"), ("compare", "m", "--to", "1k", "--data", "pipe.jsonl", "--samples", "1"),
        ("compare", "m", "--to", "1k", "--data", "pipe.txt"), ("extend", "m", "--to", "2k", "-o", "pipe"),
        ("compare", "m", "--to", "1k", "--rows", "pipe.jsonl", "--tasks", "longbench/hotpotqa"),
        ("compare", "m", "--to", "1k", "-m", "tca(fitted=pipe)"),
    ],
)  # fmt: skip
def test_pipes_and_devices_are_not_waited_for(words, model, place, capfd):
    (place / "folder").mkdir()
    pipes = [place / name for name in ("pipe", "pipe.gguf", "pipe.txt", "pipe.jsonl", "folder/config.json")]
    for pipe in pipes:
        os.mkfifo(pipe)
    before = sorted(place.rglob("*"))
    refused(capfd, *words)
    assert sorted(place.rglob("*")) == before


OTHERS = ("generation_config.json", "tokenizer_config.json", "model.safetensors")


@pytest.mark.parametrize("name", OTHERS)
def test_no_file_of_a_model_is_waited_for(name, model):
    (model / name).unlink()
    os.mkfifo(model / name)
    with pytest.raises(UserError, match=name):
        Checkpoint("m").load()


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("name", OTHERS[:2])
def test_another_file_of_a_model_that_is_no_json(name, kind, model):
    (model / name).write_text(BROKEN[kind])
    with pytest.raises(UserError, match=name):
        Checkpoint("m").load()


@pytest.mark.parametrize(
    "content",
    [b"[" * 200_000, b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4' + b"0" * 5000 + b"]}}", b"\xff{}"],
)
def test_a_header_of_weights_that_is_a_trap(content, model, capfd):
    (model / "model.safetensors").write_bytes(len(content).to_bytes(8, "little") + content)
    assert "model.safetensors" in refused(capfd, *VERBS["extend"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value, model):
    weights = load_file(model / "model.safetensors")
    weights["model.layers.3.mlp.up_proj.weight"][0, 0] = torch.tensor(value)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"'model\.layers\.3\.mlp\.up_proj\.weight' holds NaN or infinite numbers"):
        Checkpoint("m").load()


@pytest.mark.parametrize("content", [*BROKEN.values(), '{"files": 3}', '{"files": {"x": "y"}}'])
def test_a_broken_record_protects_the_folder(content, model, capfd):
    assert run(["extend", "m", "--to", "2k", "-o", "out"]) == 0
    capfd.readouterr()
    Path("out/ropewalk.json").write_text(content)
    assert "ropewalk replaces only what it wrote" in refused(capfd, *VERBS["extend"], "--overwrite")
    assert Path("out/model.safetensors").exists()


NO_LIMITS = ["x", True, [64], -1, 0, 1.5, float("nan"), float("inf"), {"a": 1}]
NO_GENERATION = [[], {"max_length": "x"}, {"temperature": float("nan")}, {"eos_token_id": "x"}, {"do_sample": "x"},
                 {"pad_token_id": True}, {"max_new_tokens": -1}, {"any": [float("inf")]}]  # fmt: skip
EVERY = {**VERBS, "export --out": ("export", "m", "--engine", "vllm", "-o", "out"), "serve": ("serve", "m"),
         "compare": ("compare", "m", "--to", "1k"), "evaluate": ("evaluate", "m", "--to", "1k")}  # fmt: skip


def told_by_all(capfd, name: str, key: str) -> None:
    """Every verb refuses, in the same words."""
    told = {refused(capfd, *words).partition("error ")[2] for words in EVERY.values()}
    assert len(told) == 1 and name in min(told) and key in min(told)
    assert os.listdir() == ["m"]


@pytest.mark.parametrize("value", NO_LIMITS)
def test_a_limit_of_the_tokenizer_that_is_none(value, model, capfd):
    file = model / "tokenizer_config.json"
    change(file, "model_max_length", value=value)
    told_by_all(capfd, file.name, "model_max_length")
    assert run(["inspect", "m", "--set", "tokenizer_config.json:model_max_length=null"]) == 0
    assert run(list(VERBS["extend"])) == 0, "the mend that is printed"


@pytest.mark.parametrize("value", [None, 512, 512.0, 1e30, int(1e30)])
def test_limits_that_pass(value, model):
    change(model / "tokenizer_config.json", "model_max_length", value=value)
    assert run(["inspect", "m"]) == 0


@pytest.mark.parametrize("content", NO_GENERATION)
def test_a_generation_that_is_none(content, model, capfd):
    file = model / "generation_config.json"
    file.write_text(json.dumps(content))
    told_by_all(capfd, file.name, next(iter(content), "object"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json"])
def test_a_key_that_stands_twice(name, model, capfd):
    file = model / name
    file.write_text(file.read_text().replace("{", '{"use_cache": 1, "use_cache": 2, ', 1))
    told_by_all(capfd, name, "'use_cache' stands twice")


def test_a_tensor_of_the_index_that_stands_twice(model, capfd):
    (model / "model.safetensors").rename(model / "model-00001-of-00001.safetensors")
    (model / "model.safetensors.index.json").write_text('{"metadata": {}, "weight_map": {"a": "b", "a": "c"}}')
    told = refused(capfd, *VERBS["extend"])
    assert "model.safetensors.index.json" in told and "'a' stands twice" in told


@pytest.mark.parametrize("value", [LONG, "n " * 2500, [LONG], {"a": LONG}, LONG + "\n"])
@pytest.mark.parametrize("key", ["model_type", "architectures", "torch_dtype", "rope_type", "hidden_act"])
def test_a_long_value_is_cut(key, value, model, capfd):
    keys = ("rope_parameters", "rope_type") if key == "rope_type" else (key,)
    change(model / "config.json", *keys, value=value)
    for words in VERBS.values():
        run(list(words))
        out, err = capfd.readouterr()
        assert "n" * 400 not in out + err and "n " * 500 not in out + err and len(err) < 1500, words
