"""Command lines as people guess them: understood, or told how it is said."""

from __future__ import annotations

import json
import shutil
from unittest.mock import Mock

import pytest
import torch

from ropewalk.backends import local
from ropewalk.checkpoint.checkpoint import BUNDLED, Checkpoint
from ropewalk.cli.main import VERBS, run
from ropewalk.cli.spelling import understood
from ropewalk.common.errors import out_of_memory
from ropewalk.tasks.suites import chosen, suite
from tests.cli.test_main import refused


@pytest.mark.parametrize(("guessed", "meant"), [
    ("Inspect demo", "inspect demo"), ("ropewalk inspect demo", "inspect demo"), ("check_export demo",
    "check-export demo"), ("list-methods", "methods"), ("task", "tasks"), ("run_demo", "demo"), ("help", "--help"),
    ("help extend", "extend --help"), ("version", "--version"), ("-V", "--version"), ("", ""),
    ("extend demo --TO 2k --methods yarn", "extend demo --to 2k --method yarn"),
    ("compare demo --method yarn --length=512 --task ppl", "compare demo --methods yarn --lengths=512 --tasks ppl"),
    ("plan demo --trust_remote_code --GPU h100 --gpus 2", "plan demo --trust-remote-code --gpu h100 --gpus 2"),
    ("export demo --gguf", "export demo --gguf=."), ("export demo --gguf --overwrite",
    "export demo --gguf=. --overwrite"), ("export demo --gguf a.gguf", "export demo --gguf a.gguf"),
    ("extend demo --no-on-top --to 2k", "extend demo --no-on-top --to 2k"), ("evaluate d -l 1", "evaluate d -l 1"),
    ("nothing --To 3", "nothing --To 3"), ("Data Pack t --LENGTH 4k", "data pack t --length 4k"),
    ("pack_data t", "data pack t"), ("help data pack", "data pack --help"), ("data", "data"), ("help data",
    "data --help"),
])  # fmt: skip
def test_lines_are_understood(guessed, meant):
    assert understood(guessed.split(), VERBS) == meant.split()


@pytest.mark.parametrize("name", VERBS)
def test_no_two_options_of_a_verb_are_spelled_alike(name):
    flags = [option.flag for option in VERBS[name].options if not option.positional]
    for flag in flags:
        assert (
            understood([*name.split(), flag.upper().replace("-", "_").replace("__", "--", 1), "1"], VERBS)[-2] == flag
        )


@pytest.mark.parametrize(("line", "said"), [
    ("eval demo", "'eval' is no verb; did you mean 'evaluate'?"),
    ("data pak texts", "'data pak' is no verb; did you mean 'data pack'?"),
    ("list", "did you mean 'methods' or 'tasks' or 'recipes'?"),
    ("some/model", "ropewalk inspect some/model to look at a model"),
    ("--to 2k", "no verb before --to"),
    ("extend demo --length 2k", "did you mean '--to'"),
    ("extend demo --target 2k", "did you mean '--to'?"),
    ("export demo --vllm", "did you mean '--engine'?"),
    ("export demo", "Say --engine transformers, vllm, sglang or llama.cpp."),
    ("export demo --engine sglan", "did you mean 'sglang'?"),
    ("compare demo --suite smoke --to 1k", "did you mean '--tasks'"),
    ("compare demo --to 1k --methods yarn pi", "Commas join the values of an option"),
    ("inspect demo --jsn", "did you mean '--json'?"),
    ("extend demo", "--to: Target length in tokens"),
    ("plan demo --to", "--to needs a value\n--to: Target length in tokens"),
    ("plan demo --to 1k..2k", "for a range, write 512..8k where several lengths are taken"),
    ("plan demo --to 2k --gpu T4", "--memory 24G"),
    ("plan demo --to 2k --gpu 8xh100", "--gpus 8"),
    ("evaluate demo --suite perplexity", "did you mean 'ppl'?"),
    ("evaluate demo --suite needle", "did you mean 'niah'"),
    ("extend demo --to 2k --method ntk", "did you mean 'ntk-aware' or 'dynamic-ntk' or 'ntk-by-parts'?"),
    ("extend demo --to 2k --method linear", "did you mean 'pi'"),
    ("extend demo --to 2k --method yarn(truncate=maybe)", "option truncate is 'maybe', expected true or false"),
])  # fmt: skip
def test_others_are_told_how_it_is_said(capsys, line, said):
    assert said in refused(capsys, *line.split())


@pytest.mark.parametrize("method", ["YaRN", "yarn(Beta-Fast=32)", "YARN(truncate=true)"])
def test_methods_as_they_are_written_elsewhere(method, tmp_path, monkeypatch, capsys):
    """The folder's name is guessable too."""
    monkeypatch.chdir(tmp_path)
    assert run(["extend", "demo", "--to", "2_048", "--method", method, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["method"] == "yarn"
    assert (tmp_path / "demo-2k" / "model.safetensors").is_file()


def test_a_part_of_a_checkpoint_stands_for_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLED, "Tiny.v1")
    for model in ("Tiny.v1/", "Tiny.v1/config.json", "Tiny.v1/model.safetensors"):
        assert run(["extend", model, "--to", "1k"]) == 0, model
        shutil.rmtree("Tiny.v1-1k")
    assert run(["export", "Tiny.v1", "--gguf"]) == 0
    (tmp_path / "one").mkdir()
    (tmp_path / "Tiny.v1.gguf").rename(tmp_path / "one" / "a.gguf")
    capsys.readouterr()
    assert run(["inspect", "one", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"].endswith("a.gguf")
    shutil.copy("one/a.gguf", "one/b.gguf")
    err = refused(capsys, "inspect", "one")
    assert "one holds 2 GGUF files" in err and "one/a.gguf" in err


def test_suites_are_also_tasks():
    assert suite("NIAH").tasks == ("niah",) and suite("ppl, passkey").tasks == ("ppl", "passkey")
    assert suite("Ruler_Lite") is suite("ruler-lite") and suite("RULER").tasks == suite("ruler").tasks
    assert chosen(["niah-single-1", "NIAH_planted", "LongBench/hotpotqa"]) == (
        "niah_single_1", "niah-planted", "longbench/hotpotqa",
    )  # fmt: skip


def test_an_export_says_what_it_replaces(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["extend", "demo", "--to", "1k"]) == 0
    assert "replaces" not in capsys.readouterr().out
    for words in (["export", "demo-1k", "--to", "2k", "-e", "vLLM"], ["export", "demo-1k", "--to", "2k", "-e", "vllm",
                  "-o", "out"], ["extend", "demo-1k", "--to", "2k"]):  # fmt: skip
        assert run(words) == 0
        assert "replaces the extension that ropewalk wrote (yarn to 1,024 tokens)" in capsys.readouterr().out


def test_memory_that_is_used_up_is_said_in_words(tmp_path, monkeypatch, capsys):
    full = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
    others = [RuntimeError("DefaultCPUAllocator: can't allocate memory"), MemoryError()]
    assert all(map(out_of_memory, [full, *others])) and not any(map(out_of_memory, [RuntimeError("no"), KeyError()]))
    line = ["compare", "demo", "--to", 1024, "--methods", "yarn", "--tasks", "passkey", "-o", tmp_path]
    monkeypatch.setattr(local, "require_finite", Mock(side_effect=full))
    err = refused(capsys, *line)
    assert "the memory of cpu is used up: none was read with texts of up to 1,024 tokens" in err
    assert "ropewalk plan" in err and "--to 1k" in err
    monkeypatch.setattr(Checkpoint, "load", Mock(side_effect=full))
    assert "is used up" in refused(capsys, *line)
