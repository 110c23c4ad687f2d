"""The traps that engines and libraries set: each wrong file or line goes in, its message and its mend come out."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import torch
from transformers import AutoModelForCausalLM

from ropewalk.checkpoint.inspection import inspect
from ropewalk.checkpoint.write import extend
from ropewalk.cli.main import run
from ropewalk.common.errors import UserError
from ropewalk.engines.agreement import Asked, check_export, fix
from ropewalk.engines.launch import launch_lines
from ropewalk.methods.catalogue import method
from ropewalk.methods.frequencies.frequency_method import check_live
from ropewalk.rope.config import load_config
from tests.models import config, tiny

WINDOW, TARGET = 64, 256


@pytest.fixture
def checkpoint(tmp_path):
    """A function that saves a tiny model of a family; keyword arguments replace keys of its config.json."""

    def save(family: str = "llama", **keys):
        folder = tmp_path / family
        tiny(family).save_pretrained(folder)
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))
        return folder

    return save


def rows(folder, **asked):
    return {row.engine: row for row in check_export(folder, Asked(**asked))}


def problem(folder, code):
    (found,) = [problem for problem in inspect(str(folder)).problems if problem.code == code]
    return found


def apply(command: str) -> None:
    """Run a mending command line as printed, without the remark behind it."""
    import shlex

    run(shlex.split(re.sub(r"   \(.*\)$", "", command))[1:])


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": WINDOW, "rope_theta": 10000.0}
LONG = [1.0 + i / 4 for i in range(8)]


def test_t1_a_configuration_changed_after_loading_changes_nothing_and_is_caught(checkpoint):
    model = AutoModelForCausalLM.from_pretrained(checkpoint())
    before = model.model.rotary_emb.inv_freq.clone()
    model.config.rope_parameters = dict(YARN)
    assert torch.equal(model.model.rotary_emb.inv_freq, before)
    with pytest.raises(UserError, match=r"inv_freq\[\d\] is .*, the configuration gives") as caught:
        check_live(model)
    assert "method.extend(model" in caught.value.mend
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": 10000.0}
    method("yarn").extend(model, to=TARGET)
    check_live(model)


def test_t2_a_rope_dict_without_its_base_is_named_and_mended(checkpoint):
    dropped = {key: value for key, value in YARN.items() if key != "rope_theta"}
    folder = checkpoint(rope_parameters=dropped, max_position_embeddings=TARGET)
    found = problem(folder, "rope-theta-missing")
    assert found.key == "rope_parameters.rope_theta"
    apply(found.mend)
    assert not inspect(str(folder)).problems
    assert rows(folder)["transformers"].sound


def test_t3_an_override_without_the_base_is_filled_with_another_and_the_mend_is_complete(checkpoint):
    folder = checkpoint(rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    rope = {key: value for key, value in YARN.items() if key != "rope_theta"}
    overrides = {"rope_parameters": rope, "max_position_embeddings": TARGET}
    row = rows(folder, overrides=overrides)["vllm"]
    assert row.loads and not row.same_frequencies
    mended = json.loads(shlex.split(row.mend)[-1])
    assert mended["rope_parameters"] == {**rope, "rope_theta": 500000.0}
    found = rows(folder, overrides=mended)
    assert found["vllm"].sound and found["vllm"].same_length
    assert rows(folder, overrides=overrides)["sglang"].sound  # merges since 0.5.23
    assert not rows(folder, overrides=overrides, versions={"sglang": "0.5.20"})["sglang"].sound


def test_t4_a_missing_original_length_moves_yarns_ramp(checkpoint):
    dropped = {key: value for key, value in YARN.items() if key != "original_max_position_embeddings"}
    folder = checkpoint(rope_parameters=dropped, max_position_embeddings=TARGET)
    found = problem(folder, "original-length-missing")
    assert (found.key, found.expected) == (
        "rope_parameters.original_max_position_embeddings",
        "the pretrained length (else transformers takes the extended one)",
    )
    apply(found.mend)
    assert json.loads((folder / "config.json").read_text())["rope_parameters"] == YARN


def test_t6_dynamic_differs_between_engines_and_is_frozen(checkpoint, tmp_path):
    folder = checkpoint(rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0})
    found = rows(folder)
    assert not found["vllm"].same_frequencies and not found["llama.cpp"].same_frequencies
    assert f"--to {TARGET} --method dynamic-ntk" in found["vllm"].mend
    out = tmp_path / "frozen"
    apply(found["vllm"].mend.partition("   (")[0] + f" -o {out}")
    assert all(row.sound for row in check_export(out))


def test_t7_two_factor_sets_switch_at_different_lengths_and_one_set_does_not(checkpoint):
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": LONG, "rope_theta": 10000.0,
            "original_max_position_embeddings": WINDOW}  # fmt: skip
    folder = checkpoint(rope_parameters=rope, max_position_embeddings=TARGET)
    found = problem(folder, "longrope-switch")
    assert found.key == "rope_parameters.short_factor"
    apply(found.mend)
    assert "longrope-switch" not in {problem.code for problem in inspect(str(folder)).problems}


def test_t8_an_attention_factor_that_engines_do_not_read_gets_their_keys(checkpoint):
    folder = checkpoint(rope_parameters={**YARN, "attention_factor": 1.3}, max_position_embeddings=TARGET)
    found = rows(folder)
    assert found["vllm"].sound and not found["sglang"].same_attention_factor
    assert "rope_parameters.attn_factor is None, sglang needs 1.14172" in found["sglang"].note
    assert not rows(folder, versions={"vllm": "0.29.0"})["vllm"].same_attention_factor
    assert run(["check-export", str(folder), "--fix"]) == 1  # llama.cpp has no key for it
    found = rows(folder)
    assert found["vllm"].sound and found["sglang"].sound and found["transformers"].sound
    assert rows(folder, versions={"vllm": "0.29.0"})["vllm"].sound


def test_t8_the_same_for_longrope(checkpoint):
    rope = {"rope_type": "longrope", "short_factor": LONG, "long_factor": LONG, "rope_theta": 10000.0,
            "original_max_position_embeddings": TARGET, "factor": 1.0, "attention_factor": 1.2}  # fmt: skip
    folder = checkpoint(rope_parameters=rope, max_position_embeddings=TARGET)
    found = rows(folder)
    assert not found["vllm"].sound and not found["sglang"].sound
    assert "rope_parameters.short_mscale is None, vllm needs 1.2" in found["vllm"].note
    fix(folder)
    found = rows(folder)
    assert found["vllm"].sound and found["sglang"].sound


def test_t9_linear_lengths_are_multiplied_and_the_line_states_the_length(checkpoint, tmp_path):
    done = extend(str(checkpoint()), TARGET, method("pi"), tmp_path / "pi")
    found = rows(done.folder)
    lines = launch_lines(done.folder, load_config(str(done.folder)), next(iter(done.rope_parameters.values())), TARGET)
    for engine, flag in (("vllm", "--max-model-len 256"), ("sglang", "--context-length 256")):
        assert found[engine].sound and not found[engine].same_length
        assert "takes 1,024 tokens by itself, meant are 256" in found[engine].note
        assert flag in found[engine].mend and flag in lines[engine]


def test_t9_a_whole_number_as_linear_factor_stops_vllm_and_sglang_and_is_mended(checkpoint):
    folder = checkpoint(rope_parameters={"rope_type": "linear", "factor": 4, "rope_theta": 10000.0})
    for engine in ("vllm", "sglang"):
        found = rows(folder)[engine]
        assert not found.loads and "factor of 'linear' is 4, expected a number with a point" in found.note
        assert found.keys == {"rope_parameters.factor": 4.0}
    fix(folder)
    assert rows(folder)["vllm"].sound and rows(folder)["sglang"].sound


def test_t10_dual_chunk_attention_is_refused(checkpoint):
    folder = checkpoint("qwen2", dual_chunk_attention_config={"chunk_size": 32, "local_size": 8})
    found = rows(folder)
    assert not found["vllm"].loads and not found["sglang"].loads
    assert "dual_chunk_attention_config" in found["vllm"].note
    apply(problem(folder, "dual-chunk-not-served").mend)
    assert rows(folder)["vllm"].sound


def test_t11_a_rotary_buffer_lost_in_loading_is_caught():
    model = tiny("llama")
    with torch.no_grad():
        model.model.rotary_emb.inv_freq.copy_(torch.full((8,), 1e-3))  # what uninitialised memory may hold
        model.model.rotary_emb.original_inv_freq.copy_(torch.full((8,), 1e-3))
    with pytest.raises(UserError, match=r"live rotary .* inv_freq\[0\] is 0.001"):
        check_live(model)


def test_t12_a_scaled_sliding_layer_is_named_and_mended(checkpoint):
    rope = {"sliding_attention": {**YARN}, "full_attention": {**YARN}}
    folder = checkpoint("olmo3", rope_parameters=rope, max_position_embeddings=TARGET)
    found = problem(folder, "sliding-layer-scaled")
    assert found.key == "rope_parameters.sliding_attention.rope_type"
    apply(found.mend)
    assert "sliding-layer-scaled" not in {problem.code for problem in inspect(str(folder)).problems}


def test_t12_engines_keep_the_sliding_layers_of_an_extension_plain(checkpoint, tmp_path):
    done = extend(str(checkpoint("olmo3")), TARGET, method("yarn"), tmp_path / "out")
    found = rows(done.folder)
    assert found["vllm"].sound and found["sglang"].sound and found["llama.cpp"].sound
    assert not found["transformers 4"].loads


def test_t15_llama_cpp_flags_with_a_missing_or_inverted_scale_are_caught(checkpoint):
    folder = checkpoint()
    wanted = {"rope_parameters": YARN, "max_position_embeddings": TARGET}
    right = f"--rope-scaling yarn --rope-scale 4 --yarn-orig-ctx {WINDOW} -c {TARGET}"
    for wrong in (right.replace("--rope-scale 4 ", ""), right.replace("--rope-scale 4", "--rope-freq-scale 2.0")):
        assert not rows(folder, overrides=wanted, flags=wrong)["llama.cpp"].sound
    found = rows(folder, overrides=wanted, flags=right)["llama.cpp"]
    assert found.sound and found.same_length


def test_a_file_of_transformers_5_is_plain_in_transformers_4_until_mended(checkpoint):
    folder = checkpoint(
        rope_parameters={**YARN, "rope_theta": 500000.0}, max_position_embeddings=TARGET, rope_scaling=None
    )
    found = rows(folder)["transformers 4"]
    assert not found.same_frequencies
    assert set(found.keys) == {"rope_theta", "rope_scaling"}
    fix(folder, engines=["transformers 4"])
    assert rows(folder)["transformers 4"].sound and rows(folder)["transformers"].sound
    assert not inspect(str(folder)).problems


def test_a_tokenizers_limit_below_the_length_is_raised(checkpoint):
    folder = checkpoint(rope_parameters=YARN, max_position_embeddings=TARGET)
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": WINDOW}))
    found = rows(folder)["vllm"]
    assert not found.same_length and "tokenizer_config.json:model_max_length is 64, vllm needs 256" in found.note
    fix(folder)
    assert rows(folder)["vllm"].same_length
    assert not list(folder.glob("*.bak")), "backups belong to edits"


def test_a_file_changed_after_the_extension_differs_from_its_record(checkpoint, tmp_path):
    done = extend(str(checkpoint()), TARGET, method("yarn"), tmp_path / "out")
    file = done.folder / "config.json"
    content = json.loads(file.read_text())
    content["rope_parameters"]["factor"] = content["rope_scaling"]["factor"] = 2.0
    file.write_text(json.dumps(content))
    found = rows(done.folder)["transformers"]
    assert not found.sound and "changed after ropewalk wrote it" in found.mend


def test_sound_checkpoints_get_no_note(checkpoint, tmp_path):
    done = extend(str(checkpoint()), TARGET, method("yarn"), tmp_path / "out")
    assert [row.note + row.mend for row in check_export(done.folder)] == [""] * 5
    assert config("llama").max_position_embeddings == WINDOW
