"""``export`` and ``check-export``: lines that say everything, folders that need no more, and refusals."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3Config

from ropewalk.checkpoint.write import extend
from ropewalk.cli.main import run
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD
from ropewalk.engines import launch, vllm
from ropewalk.engines.agreement import Asked, check_export, fix
from ropewalk.engines.handover import export
from ropewalk.engines.reading import Files
from ropewalk.methods.catalogue import method
from ropewalk.rope import config as rope_config
from tests import cases
from tests.matrix import LONG, SHORT, logits
from tests.models import config, tiny

WINDOW, TARGET = 64, 256


@pytest.fixture
def model(tmp_path):
    tiny("llama").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def saved(family, tmp_path):
    tiny(family).save_pretrained(tmp_path / family)
    return str(tmp_path / family)


def option(line: str, name: str) -> str:
    words = shlex.split(line)
    return words[words.index(name) + 1]


def loaded(folder, **keys):
    return AutoModelForCausalLM.from_pretrained(folder, **keys).eval()


def listing(folder):
    return {file: file.read_bytes() for file in sorted(folder.iterdir())}


def test_a_line_carries_the_whole_rope_dict_and_writes_nothing(model):
    before = listing(model)
    done = export(str(model), "vllm", TARGET)
    native, long = done.profiles
    assert (native.name, native.length, long.name, long.length) == ("native", WINDOW, "long", TARGET)
    assert native.line == f"vllm serve {model} --max-model-len {WINDOW}"
    overrides = json.loads(option(long.line, "--hf-overrides"))
    assert overrides["rope_parameters"]["rope_theta"] == 10000.0
    seen = vllm.read(Files.load(model).replaced(overrides), TARGET)
    assert {reading.max_length for reading in seen.values()} == {TARGET}
    assert listing(model) == before


def test_what_the_line_says_is_what_extend_writes(model, tmp_path):
    extended = extend(str(model), TARGET, method("resonance+yarn"), tmp_path / "out").folder
    line = export(str(model), "sglang", TARGET, method("resonance+yarn")).profiles[-1].line
    overrides = json.loads(option(line, "--json-model-override-args"))
    assert torch.equal(logits(loaded(model, **overrides), LONG), logits(loaded(extended), LONG))
    assert option(line, "--context-length") == str(TARGET)


def test_the_native_profile_of_an_extended_folder_brings_the_old_model_back(model, tmp_path):
    extended = extend(str(model), TARGET, method("yarn"), tmp_path / "out").folder
    native = export(str(extended), "vllm").profiles[0]
    assert (native.name, native.length) == ("native", WINDOW)
    overrides = json.loads(option(native.line, "--hf-overrides"))
    assert torch.equal(logits(loaded(extended, **overrides), SHORT), logits(loaded(model), SHORT))


def test_a_tokenizers_limit_is_named_on_the_line(model):
    (model / "tokenizer_config.json").write_text(json.dumps({"model_max_length": WINDOW}))
    native, long = export(str(model), "vllm", TARGET).profiles
    assert long.line.startswith("VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 vllm serve")
    assert native.line.startswith("vllm serve")


def test_flags_of_llama_cpp(model):
    lines = {
        spelling: export(str(model), "llama.cpp", TARGET, method(spelling)).profiles[-1].line
        for spelling in ("yarn", "pi", "ntk-aware", "yarn(beta_fast=2.0)")
    }
    assert lines["yarn"].endswith(f"-c {TARGET} --rope-scaling yarn --rope-scale 4.0 --yarn-orig-ctx {WINDOW}")
    assert "--rope-scaling linear --rope-scale 4.0 --override-kv llama.context_length=int:256" in lines["pi"]
    assert f"--rope-freq-base {10000.0 * 4 ** (16 / 14):.6f}"[:-4] in lines["ntk-aware"]
    assert "--yarn-beta-fast 2.0" in lines["yarn(beta_fast=2.0)"]


def test_what_llama_cpp_has_no_flags_for_is_refused(model):
    with pytest.raises(UserError, match="no flags for rope_type 'longrope'") as refusal:
        export(str(model), "llama.cpp", TARGET, method("resonance+yarn"))
    assert "yarn, ntk-aware or pi" in refusal.value.mend


def test_folding_makes_a_folder_that_every_engine_reads(model, tmp_path):
    spelling = "yarn(attention_factor=1.3)"
    done = export(str(model), "llama.cpp", TARGET, method(spelling), out=tmp_path / "out", fold=True)
    assert done.fold_error is not None and done.fold_error < 1e-3
    assert len(done.folded) == 2
    assert all(row.sound and row.same_length for row in check_export(tmp_path / "out"))
    keyed = extend(str(model), TARGET, method(spelling), tmp_path / "keyed").folder
    difference = logits(loaded(tmp_path / "out"), LONG) - logits(loaded(keyed), LONG)
    assert float(difference.abs().max()) < 1e-3
    assert torch.equal(logits(loaded(model), SHORT), logits(tiny("llama"), SHORT))  # the source is as it was


def test_a_folded_folder_knows_its_way_back(model, tmp_path):
    export(str(model), "vllm", TARGET, method("yarn(attention_factor=1.3)"), out=tmp_path / "out", fold=True)
    native = export(str(tmp_path / "out"), "vllm").profiles[0]
    overrides = json.loads(option(native.line, "--hf-overrides"))
    difference = logits(loaded(tmp_path / "out", **overrides), SHORT) - logits(loaded(model), SHORT)
    assert float(difference.abs().max()) < 1e-4
    again = extend(str(tmp_path / "out"), TARGET, method("yarn"), tmp_path / "again").folder
    plain = extend(str(model), TARGET, method("yarn"), tmp_path / "plain").folder
    assert float((logits(loaded(again), LONG) - logits(loaded(plain), LONG)).abs().max()) < 1e-3


def test_nothing_to_fold_is_said_and_nothing_stays(model, tmp_path):
    with pytest.raises(UserError, match="nothing to fold"):
        export(str(model), "vllm", TARGET, out=tmp_path / "out", fold=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_two_profiles_share_their_weights(model, tmp_path):
    done = export(str(model), "vllm", TARGET, out=tmp_path / "out", two_profiles=True)
    native, long = (profile.folder for profile in done.profiles)
    assert (native, long) == (tmp_path / "out" / "native", tmp_path / "out" / "long")
    assert (native / "model.safetensors").samefile(long / "model.safetensors")
    assert torch.equal(logits(loaded(native), SHORT), logits(loaded(model), SHORT))
    assert rope_config.read(loaded(long).config)["all"].length == TARGET


def test_two_profiles_of_an_extended_folder(model, tmp_path):
    extended = extend(str(model), TARGET, method("yarn"), tmp_path / "extended").folder
    export(str(extended), "sglang", out=tmp_path / "out", two_profiles=True)
    assert torch.equal(logits(loaded(tmp_path / "out" / "native"), SHORT), logits(loaded(model), SHORT))
    assert torch.equal(logits(loaded(tmp_path / "out" / "long"), LONG), logits(loaded(extended), LONG))


def test_keys_for_an_engine_are_added(tmp_path):
    folder = tmp_path / "phi3"
    tiny("phi3").save_pretrained(folder)
    done = export(str(folder), "sglang", TARGET, out=tmp_path / "out")
    assert done.keys == {"partial_rotary_factor": 0.75}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["partial_rotary_factor"] == 0.75


def test_gpt_oss_gets_its_betas_for_vllm_and_other_methods_are_refused(tmp_path):
    folder = saved("gpt_oss", tmp_path)
    done = export(folder, "vllm", TARGET, out=tmp_path / "out")
    assert {key.rpartition(".")[2] for key in done.keys} == {"beta_fast", "beta_slow"}
    with pytest.raises(UserError, match="always applies yarn"):
        export(folder, "vllm", TARGET, method("resonance+yarn"))


def test_neighbour_rotating_models_run_transformers_code_where_the_engine_cannot(tmp_path):
    line = export(saved("cohere", tmp_path), "vllm", TARGET, method("resonance+yarn")).profiles[-1].line
    assert line.endswith("--model-impl transformers")


@pytest.mark.parametrize(
    ("engine", "flag"), [("vllm", "--no-enable-chunked-prefill"), ("sglang", "--chunked-prefill-size -1")]
)
def test_factors_that_go_by_the_forward_are_served_one_prompt_at_a_time_and_whole(engine, flag, tmp_path):
    """Seen in vLLM: pieces of a prompt had the factors of their own last position, 8.9 off in a log-probability."""
    for name, long in (("two sets", 4.0), ("one set", 1.0)):
        rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": WINDOW, "factor": 4.0,
                "short_factor": [1.0] * 8, "long_factor": [long] * 8}  # fmt: skip
        folder = tmp_path / name
        cases.write(
            folder, cases.of("smollm3", max_position_embeddings=TARGET, rope_parameters=rope, no_rope_layers=[1, 1])
        )
        assert (flag in export(folder, engine).profiles[-1].line) == (name == "two sets")
        row = next(row for row in check_export(folder) if row.engine == engine)
        assert ("longest of what it reads at once" in row.note) == (name == "two sets")


def test_per_layer_type_overrides_are_complete(tmp_path):
    line = export(saved("gemma3", tmp_path), "vllm", TARGET).profiles[-1].line
    rope = json.loads(option(line, "--hf-overrides"))["rope_parameters"]
    assert rope["sliding_attention"] == {"rope_type": "default", "rope_theta": 10000.0}
    assert rope["full_attention"]["rope_type"] == "yarn"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "MODEL", "-e", "tgi"], "engine is 'tgi'\nSay --engine transformers, vllm, sglang or llama.cpp."),
        (["export", "MODEL", "-e", "vllm", "--to", "256", "--fold"], "Name a folder to write with -o."),
        (["check-export", "MODEL", "--overrides", "{"], "--overrides is not valid JSON"),
        (["check-export", "MODEL", "--overrides", "[1]"], "--overrides holds a JSON list"),
        (["check-export", "MODEL", "--version", "tgi=1"], "Write --version vllm=0.11.2"),
    ],
)
def test_wrong_words_are_explained(model, capsys, arguments, message):
    assert run([str(model) if word == "MODEL" else word for word in arguments]) == 2
    assert message in capsys.readouterr().err


def test_the_verbs_print_for_people_and_programs(model, tmp_path, capsys):
    assert run(["export", str(model), "-e", "vllm", "--to", "256"]) == 0
    assert "vllm serve" in capsys.readouterr().out
    assert run(["export", str(model), "-e", "vllm", "--to", "256", "-o", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["profiles"][-1]["row"]["loads"] is True
    assert run(["check-export", str(tmp_path / "out"), "--json"]) == 0
    assert [row["engine"] for row in json.loads(capsys.readouterr().out)["rows"]][-1] == "llama.cpp"
    assert run(["check-export", str(tmp_path / "out")]) == 0
    assert "vllm 0.33.0" in capsys.readouterr().out


@pytest.fixture
def multimodal(tmp_path):
    """The configuration of a tiny Gemma 3 with a vision tower; lines need no weights."""
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    whole = Gemma3Config(text_config=config("gemma3").to_dict(), vision_config=vision)
    whole.architectures = ["Gemma3ForConditionalGeneration"]
    whole.save_pretrained(tmp_path / "mm")
    return tmp_path / "mm"


def test_multimodal_overrides_go_inside_the_text_configuration(multimodal):
    line = export(str(multimodal), "vllm", TARGET).profiles[-1].line
    overrides = json.loads(option(line, "--hf-overrides"))
    assert set(overrides) == {"text_config"}
    assert overrides["text_config"]["rope_parameters"]["full_attention"]["rope_type"] == "yarn"
    rows = check_export(multimodal, Asked(overrides))
    assert next(row for row in rows if row.engine == "vllm").sound
    with pytest.raises(UserError, match="replaces 'text_config' whole"):
        export(str(multimodal), "transformers", TARGET)


def test_multimodal_keys_are_written_inside_the_text_configuration(multimodal):
    file = multimodal / "config.json"
    content = json.loads(file.read_text())
    content["text_config"]["rope_parameters"]["full_attention"] |= {"rope_type": "linear", "factor": 4}
    file.write_text(json.dumps(content))
    written = fix(multimodal, engines=["vllm"])
    assert written == {"text_config.rope_parameters.full_attention.factor": 4.0}
    assert json.loads(file.read_text())["text_config"]["rope_parameters"]["full_attention"]["factor"] == 4.0


@pytest.mark.parametrize(
    ("name", "engine", "spelling"),
    [("gpt-oss as published", "vllm", "resonance+yarn"), ("gpt-oss as published", "vllm", "ntk-aware"),
     ("alpha base", "sglang", "yarn")],
)  # fmt: skip
def test_a_refusal_prints_no_line(name, engine, spelling, tmp_path):
    folder = cases.write(tmp_path / "m", cases.SOUND[name])
    with pytest.raises(UserError, match="would not rotate as meant") as refusal:
        export(folder, engine, 262144, method(spelling))
    assert refusal.value.mend and not any(launch.is_line(line) for line in str(refusal.value).splitlines())


def test_every_line_is_known_for_one(tmp_path):
    lines = launch.launch_lines(tmp_path, config("llama"), {}, 8)
    lines |= {"told": launch.vllm_line(tmp_path, 8, past_derived=True)}
    assert all(map(launch.is_line, lines.values()))
    assert not any(map(launch.is_line, ["ropewalk export m --engine vllm", "Extend with yarn", ""]))


SCALED = {
    "yarn": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW},
    "linear": {"type": "linear", "factor": 4.0},
    "dynamic": {"type": "dynamic", "factor": 4.0},
}


def scaled(model, kind, length=None):
    """The model with a scaling as people add it: in the keys of older files."""
    file = model / "config.json"
    content = json.loads(file.read_text())
    del content["rope_parameters"]
    length = length or (WINDOW if kind == "dynamic" else 4 * WINDOW)
    file.write_text(
        json.dumps({**content, "rope_theta": 1e4, "rope_scaling": SCALED[kind], "max_position_embeddings": length})
    )
    return model


@pytest.mark.parametrize("kind", SCALED)
def test_the_native_profile_is_without_a_scaling_that_was_added(model, kind, tmp_path):
    plain = logits(loaded(model), SHORT)
    scaled(model, kind)
    names = {"vllm": "--hf-overrides", "sglang": "--json-model-override-args"}
    for engine, name in names.items():
        native = export(str(model), engine, 8 * WINDOW).profiles[0]
        assert (native.name, native.length) == ("native", WINDOW)
        overrides = json.loads(option(native.line, name))
        assert torch.equal(logits(loaded(model, **overrides), SHORT), plain), engine
    line = export(str(model), "transformers", 8 * WINDOW).profiles[0].line
    assert torch.equal(logits(eval(line, {"AutoModelForCausalLM": AutoModelForCausalLM}).eval(), SHORT), plain)
    export(str(model), "vllm", 8 * WINDOW, out=tmp_path / "out", two_profiles=True)
    assert torch.equal(logits(loaded(tmp_path / "out" / "native"), SHORT), plain)


@pytest.mark.parametrize("length", [WINDOW + 16, 4 * WINDOW])
def test_llama_cpp_is_told_to_scale_nothing(model, length):
    native = export(str(scaled(model, "yarn", length)), "llama.cpp", 8 * WINDOW).profiles[0]
    assert native.name == "native" and "--rope-scaling none" in native.line and native.row.sound


def test_two_profiles_of_a_scaling_that_was_added_are_two(model, tmp_path):
    plain = logits(loaded(model), SHORT)
    done = export(str(scaled(model, "yarn")), "vllm", out=tmp_path / "out", two_profiles=True)
    assert [profile.length for profile in done.profiles] == [WINDOW, 4 * WINDOW]
    assert torch.equal(logits(loaded(tmp_path / "out" / "native"), SHORT), plain)
    assert "without yarn x4 of 64 tokens" in done.notes[0]


def test_what_was_trained_in_is_native(model):
    native = export(str(scaled(model, "yarn")), "vllm", 8 * WINDOW, on_top=True).profiles[0]
    assert native.length == 4 * WINDOW and "overrides" not in native.line


def test_a_native_profile_that_no_line_reaches_is_said(model, tmp_path):
    spelling = "yarn(attention_factor=1.3)"
    done = export(str(model), "llama.cpp", TARGET, method(spelling), out=tmp_path / "out", fold=True)
    assert [profile.name for profile in done.profiles] == ["long"]
    assert any("no line brings the native window of 64 tokens back" in note for note in done.notes)


@pytest.mark.parametrize("engine", ["transformers", "vllm", "sglang", "llama.cpp"])
@pytest.mark.parametrize("how", [{"trained": "pose"}, {"merged": "adapter"}], ids=str)
def test_weights_that_were_trained_to_be_long_have_no_native_profile(engine, how, model, tmp_path, capsys):
    """They read short texts by the rope of their training too; its copies and extensions are no other."""
    folder = extend(str(model), TARGET, method("yarn"), tmp_path / "trained").folder
    record = json.loads((folder / RECORD).read_text())
    (folder / RECORD).write_text(json.dumps({**record, **how}))
    longer = extend(str(folder), 2 * TARGET, method("yarn"), tmp_path / "longer").folder
    copied = export(str(folder), engine, out=tmp_path / "copied")
    for done in (copied, *(export(str(one), engine) for one in (folder, longer, tmp_path / "copied"))):
        assert [one.name for one in done.profiles] == ["long"]
        assert "short text" not in repr(done)
    if engine != "llama.cpp":
        assert [one.name for one in export(str(folder), engine, 2 * TARGET).profiles] == ["long"]
    with pytest.raises(UserError, match="has no native profile"):
        export(str(folder), engine, out=tmp_path / "two", two_profiles=True)


@pytest.mark.parametrize(
    "record", [{"trained": "own", "method": "none"}, {"merged": "adapter", "method": None}], ids=str
)
def test_weights_that_were_trained_by_the_pretrained_rope_have_one(record, model):
    (model / RECORD).write_text(json.dumps(record))
    assert [one.name for one in export(str(model), "vllm", TARGET).profiles] == ["native", "long"]
