"""``inspect file.gguf``: the rope that llama.cpp derives, what is wrong in the file, where it leaves its checkpoint."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

pytest.importorskip("gguf")

from ropewalk.checkpoint.gguf.from_gguf import read
from ropewalk.checkpoint.gguf_inspection import inspect_gguf
from ropewalk.cli.main import run
from ropewalk.common.extras import install
from ropewalk.engines.gguf.to_gguf import write_gguf
from tests.engines.gguf.checkpoints import checkpoint, configuration, foreign

YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
        "context_length": 256}  # fmt: skip


def codes(path, against=None):
    return {problem.code: problem for problem in inspect_gguf(path, against).problems}


@pytest.mark.parametrize(
    ("architecture", "keys", "factors", "code", "key"),
    [
        ("llama", {"rope.scaling.type": "longrope"}, None, "factors-missing", "rope.scaling.type"),
        ("phi3", {"context_length": 256, "rope.scaling.original_context_length": 64}, None, "factors-missing",
         "rope.scaling.original_context_length"),
        ("qwen2", {"context_length": 32768}, None, "freq-base-missing", "rope.freq_base"),
        ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 0.25}, None, "factor-invalid",
         "rope.scaling.factor"),
        ("qwen2", {}, [2.0] * 8, "factors-not-used", "rope_freqs"),
        ("phi3", {}, [2.0] * 8, "factors-not-used", "rope_freqs"),
        ("llama", {"rope.scaling.type": "longrope"}, [2.0] * 8, "factors-not-used", "rope_freqs"),
        ("llada", {}, [2.0] * 8, "factors-not-used", "rope_freqs"),
        ("llama", {"rope.scaling.factor": 4.0}, None, "scaling-type-missing", "rope.scaling.type"),
        ("qwen3", {**YARN, "context_length": 512}, None, "length-contradicts-factor", "context_length"),
        ("qwen3", {**YARN, "context_length": 32}, None, "length-contradicts-factor", "context_length"),
        ("qwen3", {"rope.scaling.type": "yarn"}, None, "factor-invalid", "rope.scaling.factor"),
        ("llama", {"rope.scaling.type": "linear", "context_length": 256, "rope.scaling.original_context_length": 64},
         None, "factor-invalid", "rope.scaling.factor"),
        ("llama", {"attention.head_count": 5}, None, "head-count-invalid", "attention.head_count"),
        ("llama", {"attention.head_count_kv": 3}, None, "head-count-invalid", "attention.head_count_kv"),
        ("qwen3", {**YARN, "rope.scaling.yarn_ext_factor": 4.0}, None, "yarn-ext-factor",
         "rope.scaling.yarn_ext_factor"),
        ("qwen3", {**YARN, "rope.scaling.yarn_attn_factor": 1.2}, None, "attention-factor-unread",
         "rope.scaling.yarn_attn_factor"),
        ("qwen3", {**YARN, "rope.scaling.yarn_beta_fast": 16.0}, None, "beta-unread", "rope.scaling.yarn_beta_fast"),
        ("llama", {"rope.scaling.type": "dynamic", "rope.scaling.factor": 4.0}, None, "scaling-type-unknown",
         "rope.scaling.type"),
        ("phi3", {"attention.sliding_window": 32}, None, "key-not-understood", "attention.sliding_window"),
        ("qwen2", {"attention.causal": False}, None, "key-not-understood", "attention.causal"),
        ("llama", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}, None, "original-length-missing",
         "rope.scaling.original_context_length"),
    ],
)  # fmt: skip
def test_each_misconfiguration_is_found_alone_and_a_sound_file_has_none(
    architecture, keys, factors, code, key, tmp_path
):
    found = codes(foreign(tmp_path / "m.gguf", architecture, keys, factors))
    assert set(found) == {code} and found[code].key == f"{architecture}.{key}"
    assert codes(foreign(tmp_path / "sound.gguf", "llama", YARN)) == {}


@pytest.mark.parametrize(
    "keys",
    [
        {**YARN, "context_length": 512},
        {"rope.scaling.type": "yarn"},
        {"rope.scaling.type": "yarn", "context_length": 256, "rope.scaling.original_context_length": 64},
        {**YARN, "rope.scaling.yarn_ext_factor": 4.0},
        {**YARN, "rope.scaling.yarn_attn_factor": 1.2},
        {**YARN, "rope.scaling.yarn_beta_slow": 2.0},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 0.25},
        {"attention.sliding_window": 32},
        {"logit_scale": 0.5, "attention.rope_pattern": "x"},
        {"rope.scaling.factor": 4.0},
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0},
    ],
)
def test_the_mend_that_is_printed_mends(keys, tmp_path, capsys):
    path = foreign(tmp_path / "m.gguf", "llama", keys)
    before = len(inspect_gguf(path).problems)
    for left in range(before - 1, -1, -1):
        words = shlex.split(inspect_gguf(path).problems[0].mend.partition("   (")[0])
        assert run(words[1:]) == (1 if left else 0)
        path = Path(words[-1])


@pytest.mark.parametrize("length", [64, 128])
def test_a_factor_for_more_than_the_file_states_is_a_note_whose_command_raises_the_promise(length, tmp_path, capsys):
    path = foreign(tmp_path / "m.gguf", "llama", {**YARN, "context_length": length})
    found = inspect_gguf(path)
    assert found.sound and (found.window, found.length) == (64, length) and YARN["context_length"] == 256
    [note] = found.notes
    assert f"{length} tokens are promised" in note and "is for 256" in note
    words = shlex.split(note.partition("promise these: ")[2])
    assert run(words[1:]) == 0
    raised = inspect_gguf(Path(words[-1]))
    assert (raised.length, raised.notes) == (256, []) and raised.specs["all"].factors == found.specs["all"].factors


@pytest.mark.parametrize("keys", [{}, YARN, {"rope.scaling.type": "none"}])
def test_the_printed_rope_is_llama_cpps(keys, tmp_path):
    path = foreign(tmp_path / "m.gguf", "llama", keys)
    spec, reading = inspect_gguf(path).specs["all"], read(path).reading()
    assert spec.inv_freq.tolist() == pytest.approx(reading.inv_freq.tolist(), rel=1e-12)
    assert (spec.window, spec.length) == (64, reading.max_length)


def test_a_file_is_compared_with_a_checkpoint_by_what_it_means(tmp_path):
    yarn = str(configuration(tmp_path / "yarn", "llama", "yarn"))
    assert codes(foreign(tmp_path / "native.gguf", "llama", YARN), yarn) == {}
    plain = [(p.code, p.key) for p in inspect_gguf(foreign(tmp_path / "plain.gguf", "llama"), yarn).problems]
    assert plain == [
        ("differs-from-checkpoint", f"llama.{key}")
        for key in ("rope_freqs", "rope.scaling.attn_factor", "context_length")
    ]
    ntk = str(configuration(tmp_path / "ntk", "llama", "ntk-aware"))
    assert codes(tmp_path / "plain.gguf", ntk)
    assert inspect_gguf(tmp_path / "plain.gguf", ntk).problems[0].key == "llama.rope.freq_base"


def test_the_command_line_finds_a_difference_mends_it_and_agrees(tmp_path, capsys):
    extended = checkpoint(tmp_path, spelling="resonance+yarn")
    plain = write_gguf(tmp_path / "source", tmp_path / "plain.gguf").path
    assert run(["inspect", str(plain)]) == 0
    assert run(["inspect", str(plain), "--against", str(extended), "--json"]) == 1
    problem = json.loads(capsys.readouterr().out.partition("no problems found")[2])["problems"][0]
    assert problem["code"] == "differs-from-checkpoint"
    assert run(shlex.split(problem["mend"])[1:]) == 0
    assert run(["inspect", str(tmp_path / "plain-patched.gguf"), "--against", str(extended)]) == 0
    assert "resonance" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--set", "rope.freq_base=1e6"], "--patch OUT.gguf"),
        (["--patch", "out.gguf"], "--against CHECKPOINT"),
        (["--set", "rope.freq_base=1e6", "--against", "demo", "--patch", "out.gguf"], "without --against"),
    ],
)
def test_options_that_do_not_go_together_are_said(more, named, tmp_path, capsys):
    path = foreign(tmp_path / "m.gguf", "llama")
    assert run(["inspect", str(path), *more]) == 2
    assert named in capsys.readouterr().err


def test_gguf_options_on_a_checkpoint_are_said(capsys):
    assert run(["inspect", "demo", "--patch", "out.gguf"]) == 2
    assert "'demo' is none" in capsys.readouterr().err


def test_without_the_library_the_extra_is_named(tmp_path, monkeypatch, capsys):
    import sys

    path = foreign(tmp_path / "m.gguf", "llama")
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert run(["inspect", str(path)]) == 2
    assert install("gguf") in capsys.readouterr().err
