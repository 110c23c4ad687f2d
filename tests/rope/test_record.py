"""A configuration that ropewalk extended and somebody changed: every verb says so, and the mend mends."""

from __future__ import annotations

import json
import shlex

import pytest

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.inspection import inspect
from ropewalk.checkpoint.write import extend
from ropewalk.cli.main import run
from ropewalk.engines.agreement import fix
from ropewalk.methods.catalogue import method
from tests import cases
from tests.models import tiny

TARGET = 256
CODE = "record-contradicted"


def extended(tmp_path, family="llama", name="yarn"):
    tiny(family).save_pretrained(tmp_path / "model")
    return extend(str(tmp_path / "model"), TARGET, method(name), tmp_path / "out").folder


def factor(raw):
    raw["rope_parameters"]["factor"] = raw["rope_scaling"]["factor"] = 2.0


def factor_and_length(raw):
    factor(raw)
    raw["max_position_embeddings"] = 128


def length(raw):
    raw["max_position_embeddings"] = 512


def base(raw):
    raw["rope_parameters"]["rope_theta"] = raw["rope_theta"] = 20000.0


def plain(raw):
    raw["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4}
    del raw["rope_scaling"]


def without(raw):
    for key in ("rope_parameters", "rope_scaling"):
        del raw[key]


def ramp(raw):
    raw["rope_parameters"]["beta_slow"] = raw["rope_scaling"]["beta_slow"] = 4


def noted(raw):
    raw["ropewalk"]["rope_parameters"]["all"]["factor"] = 2.0


CHANGES = [factor, factor_and_length, length, base, plain, without, ramp, noted]


def change(folder, how):
    file = folder / "config.json"
    raw = json.loads(file.read_text())
    how(raw)
    file.write_text(json.dumps(raw))


@pytest.mark.parametrize("how", CHANGES)
def test_what_contradicts_the_record_is_named_and_its_mend_mends(how, tmp_path):
    folder = extended(tmp_path)
    as_written = Checkpoint(str(folder)).rope
    change(folder, how)
    found = [one for one in inspect(str(folder)).problems if one.code == CODE]
    assert len(found) == 1 and found[0].key and found[0].seen != found[0].expected
    mend = found[0].mend
    assert run(shlex.split(mend.split("   (")[0])[1:]) == 0
    if how is not noted:
        assert Checkpoint(str(folder)).rope == as_written


@pytest.mark.parametrize("how", [factor_and_length, base, plain])
def test_a_change_that_is_meant_is_kept_by_forgetting_the_record(how, tmp_path):
    folder = extended(tmp_path)
    change(folder, how)
    (found,) = inspect(str(folder)).problems
    _, flag, word = found.mend.rstrip(")").rpartition("--set ")
    assert flag and run(["inspect", str(folder), "--set", word]) == 0
    assert Checkpoint(str(folder)).record is None


def test_the_key_is_named_with_both_values(tmp_path):
    folder = extended(tmp_path)
    change(folder, factor)
    found = inspect(str(folder)).problems[0]
    assert (found.code, found.key, found.seen, found.expected) == (CODE, "rope_parameters.factor", 2.0, 4.0)


@pytest.mark.parametrize("words", [("plan", "--to", "1k"), ("export", "--engine", "vllm"),
                                   ("export", "--engine", "sglang", "--to", "1k"), ("check-export",),
                                   ("extend", "--to", "1k", "-o", "new"), ("compare", "--to", "1k"),
                                   ("evaluate", "--to", "1k"), ("serve",)])  # fmt: skip
def test_every_verb_refuses_it_and_prints_no_line(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = extended(tmp_path)
    change(folder, factor_and_length)
    verb, *options = words
    assert run([verb, str(folder), *options]) == 2
    out, err = capsys.readouterr()
    assert CODE in err and "ropewalk inspect" in err and not out
    assert not any(line in err for line in ("vllm serve", "sglang.launch", "llama-server", "from_pretrained"))
    assert not (tmp_path / "new").exists()


def test_set_does_not_part_record_and_rope(tmp_path, capsys):
    folder = extended(tmp_path)
    before = (folder / "config.json").read_bytes()
    words = ["--set", "rope_parameters.factor=2.0", "--set", "rope_scaling.factor=2.0"]
    words += ["--set", "max_position_embeddings=128"]
    assert run(["inspect", str(folder), *words]) == 2
    assert "--set ropewalk=null" in capsys.readouterr().err and (folder / "config.json").read_bytes() == before
    assert run(["inspect", str(folder), *words, "--set", "ropewalk=null"]) == 0
    assert Checkpoint(str(folder)).promised == 128


@pytest.mark.parametrize("name", ["pi", "ntk-aware", "yarn", "resonance+yarn"])
@pytest.mark.parametrize("family", ["llama", "gemma3", "phi3", "gpt_neox"])
def test_what_ropewalk_writes_contradicts_nothing(family, name, tmp_path):
    folder = extended(tmp_path, family, name)
    assert CODE not in {one.code for one in inspect(str(folder)).problems}
    fix(folder)
    assert CODE not in {one.code for one in inspect(str(folder)).problems}


def test_a_model_inside_another(tmp_path):
    cases.write(tmp_path / "model", cases.multimodal())
    checkpoint = Checkpoint(str(tmp_path / "model"))
    config = checkpoint.config
    method("yarn").write(config, 16384)
    config.save_pretrained(tmp_path / "out")
    assert not inspect(str(tmp_path / "out")).problems
    change(tmp_path / "out", lambda raw: raw["text_config"].update(max_position_embeddings=32768))
    found = inspect(str(tmp_path / "out")).problems[0]
    assert (found.code, found.key) == (CODE, "text_config.max_position_embeddings")
    assert run(shlex.split(found.mend.split("   (")[0])[1:]) == 0
