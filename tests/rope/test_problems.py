"""Misconfigurations seen from the files: each wrong file gives its code, each sound one nothing, each mend mends."""

from __future__ import annotations

import json
import shlex

import pytest

from ropewalk.checkpoint.inspection import inspect, kv_bytes_per_token
from ropewalk.cli.main import run
from tests.models import FAMILIES, config

LLAMA = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,
    "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 1000,
    "max_position_embeddings": 32768, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
}  # fmt: skip
PHI3 = LLAMA | {"model_type": "phi3", "num_key_value_heads": 4}
THETA = {"rope_theta": 5e5}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, **THETA}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}  # fmt: skip
SHORT, LONG = [1.0] * 32, [1.0 + i / 8 for i in range(32)]
LONGROPE = {"rope_type": "longrope", "short_factor": SHORT, "long_factor": LONG, **THETA}


def without(keys: dict, *names: str) -> dict:
    return {key: value for key, value in keys.items() if key not in names}


def folder(tmp_path, raw: dict):
    (tmp_path / "config.json").write_text(json.dumps(raw))
    return str(tmp_path)


SOUND = {
    "plain": LLAMA,
    "no rope keys, as in Llama 1": without(LLAMA, "rope_parameters"),
    "legacy theta": without(LLAMA, "rope_parameters") | {"rope_theta": 1e6, "rope_scaling": None},
    "yarn": LLAMA | {"rope_parameters": YARN, "max_position_embeddings": 131072},
    "Llama 3.1, legacy keys": without(LLAMA, "rope_parameters")
    | {"rope_theta": 5e5, "rope_scaling": LLAMA3, "max_position_embeddings": 131072},
    "linear": LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": 4.0, **THETA,
                                           "original_max_position_embeddings": 8192}},
    "yarn, factor for SGLang too": LLAMA
    | {"rope_parameters": {**YARN, "attention_factor": 1.0, "attn_factor": 0.878249},
       "max_position_embeddings": 131072},
    "flat longrope": LLAMA
    | {"rope_parameters": {**LONGROPE, "short_factor": LONG, "original_max_position_embeddings": 32768, "factor": 1.0,
                           "attention_factor": 1.2, "short_mscale": 1.2, "long_mscale": 1.2}},
    "Phi 3": without(PHI3, "rope_parameters")
    | {"rope_theta": 1e4, "original_max_position_embeddings": 4096,
       "rope_scaling": {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}},
}  # fmt: skip

WRONG = {
    # code: (raw configuration, key, seen)
    "rope-theta-missing": (LLAMA | {"rope_parameters": without(YARN, "rope_theta"), "max_position_embeddings": 131072},
                           "rope_parameters.rope_theta", None),
    "rope-theta-invalid": (LLAMA | {"rope_parameters": {"rope_type": "default", "rope_theta": "1e6"}},
                           "rope_parameters.rope_theta", "1e6"),
    "rope-theta-conflict": (LLAMA | {"rope_theta": 1e4}, "rope_theta", 1e4),
    "rope-type-unknown": (LLAMA | {"rope_parameters": {**YARN, "rope_type": "yarm"}, "max_position_embeddings": 131072},
                          "rope_parameters.rope_type", "yarm"),
    "rope-type-conflict": (LLAMA | {"rope_parameters": {**YARN, "type": "linear"}, "max_position_embeddings": 131072},
                           "rope_parameters.type", "linear"),
    "factor-invalid": (LLAMA | {"rope_parameters": {"rope_type": "linear", "factor": "4", **THETA}},
                       "rope_parameters.factor", "4"),
    "beta-order": (LLAMA | {"rope_parameters": {**YARN, "beta_fast": 1, "beta_slow": 32},
                            "max_position_embeddings": 131072}, "rope_parameters.beta_fast",
                   "beta_fast 1, beta_slow 32"),
    "original-length-missing": (LLAMA | {"rope_parameters": without(YARN, "original_max_position_embeddings"),
                                         "max_position_embeddings": 131072},
                                "rope_parameters.original_max_position_embeddings", None),
    "length-contradicts-factor": (LLAMA | {"rope_parameters": YARN, "max_position_embeddings": 262144},
                                  "max_position_embeddings", 262144),
    "head-count-invalid": (LLAMA | {"num_key_value_heads": 5}, "num_key_value_heads", 5),
    "factor-list-invalid": (LLAMA | {"rope_parameters": {**LONGROPE, "short_factor": SHORT[1:], "factor": 8.0,
                                                         "original_max_position_embeddings": 4096}},
                            "rope_parameters.short_factor", "31 values"),
    "longrope-switch": (LLAMA | {"rope_parameters": {**LONGROPE, "factor": 8.0,
                                                     "original_max_position_embeddings": 4096}},
                        "rope_parameters.short_factor", "differs from long_factor"),
    "dynamic-scaling": (LLAMA | {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, **THETA}},
                        "rope_parameters.rope_type", "dynamic"),
    "attention-factor-ignored": (LLAMA | {"rope_parameters": {**YARN, "attention_factor": 1.0},
                                          "max_position_embeddings": 131072}, "rope_parameters.attn_factor", None),
    "key-misspelt": (LLAMA | {"rope_parameters": {**YARN, "attn_factor": 1.0}, "max_position_embeddings": 131072},
                     "rope_parameters.attn_factor", 1.0),
    "partial-rotary-invalid": (LLAMA | {"rope_parameters": {**THETA, "rope_type": "default",
                                                            "partial_rotary_factor": 1.5}},
                               "rope_parameters.partial_rotary_factor", 1.5),
    "sliding-layer-scaled": (LLAMA | {"model_type": "olmo3", "layer_types": ["sliding_attention", "full_attention"],
                                      "rope_parameters": {"full_attention": {"rope_type": "default", **THETA},
                                                          "sliding_attention": {"rope_type": "linear", "factor": 8.0,
                                                                                **THETA}}},
                             "rope_parameters.sliding_attention.rope_type", "linear"),
    "two-rope-dicts-disagree": (LLAMA | {"rope_scaling": {"type": "linear", "factor": 4.0}}, "rope_scaling.type",
                                "linear"),
    "dual-chunk-not-served": (LLAMA | {"dual_chunk_attention_config": {"chunk_size": 262144}},
                              "dual_chunk_attention_config", "present"),
    "rope-not-nested": (LLAMA | {"model_type": "gemma3_text"}, "rope_parameters", "one dict for all layers"),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_sound_configurations_have_no_problems(name, tmp_path):
    assert inspect(folder(tmp_path, SOUND[name])).problems == []


@pytest.mark.parametrize("family", FAMILIES)
def test_sound_families_have_no_problems(family, tmp_path):
    config(family).save_pretrained(tmp_path)
    assert inspect(str(tmp_path)).problems == []


@pytest.mark.parametrize("spelling", ["rope_parameters", "rope_scaling"])
@pytest.mark.parametrize("length", [32768, 65536])
def test_a_factor_for_more_than_the_file_states_is_a_note(spelling, length, tmp_path, capsys):
    """Qwen's published recipe sets the rope alone; others lower the length of a model that was trained with YaRN."""
    raw = without(LLAMA, "rope_parameters") | {"rope_theta": THETA["rope_theta"], "max_position_embeddings": length}
    model = folder(tmp_path, raw | {spelling: YARN})
    found = inspect(model)
    assert found.sound and (found.window, found.length) == (32768, length)
    [note] = found.notes
    assert f"{length:,} tokens are promised" in note and "4 x 32,768 = 131,072" in note
    run(shlex.split(note.partition("promise these: ")[2])[1:])
    raised = inspect(model)
    assert raised.sound and raised.length == 131072 and raised.notes == []
    assert raised.specs["all"].factors == found.specs["all"].factors


@pytest.mark.parametrize("length", [16384, 262144])
def test_a_length_that_no_such_rope_has_is_a_problem(length, tmp_path):
    found = inspect(folder(tmp_path, LLAMA | {"rope_parameters": YARN, "max_position_embeddings": length}))
    assert [one.code for one in found.problems] == ["length-contradicts-factor"] and found.notes == []


def test_a_recipe_that_sets_the_rope_alone_may_be_set(tmp_path, capsys):
    model = folder(tmp_path, without(LLAMA, "rope_parameters") | {"rope_theta": 1e6})
    assert run(["inspect", model, "--set", f"rope_scaling={json.dumps(without(YARN, 'rope_theta'))}"]) == 0


@pytest.mark.parametrize("code", WRONG)
def test_each_mistake_is_named(code, tmp_path):
    raw, key, seen = WRONG[code]
    found = [problem for problem in inspect(folder(tmp_path, raw)).problems if problem.code == code]
    assert [(problem.key, problem.seen) for problem in found[:1]] == [(key, seen)]


# A command that sets a key mends; these need something a program cannot know, or write another checkpoint.
BY_HAND = {"dynamic-scaling", "head-count-invalid"}


@pytest.mark.parametrize("code", sorted(set(WRONG) - BY_HAND))
def test_each_mend_mends(code, tmp_path, capsys):
    model = folder(tmp_path, WRONG[code][0])
    for _ in range(4):  # a file may take more than one step, e.g. both mscale keys
        wrong = [problem for problem in inspect(model).problems if problem.code == code]
        if not wrong:
            break
        words = shlex.split(wrong[0].mend.split("   (")[0])
        assert words[:2] == ["ropewalk", "inspect"]
        run(words[1:])
    assert not [problem for problem in inspect(model).problems if problem.code == code]
    assert (tmp_path / "config.json.bak").exists()


def test_llama3_reads_its_pretrained_window(tmp_path):
    found = inspect(folder(tmp_path, SOUND["Llama 3.1, legacy keys"]))
    assert (found.window, found.length) == (8192, 131072)


def test_kv_bytes_count_growing_layers_only(tmp_path):
    llama, gemma = config("llama"), config("gemma3")
    assert kv_bytes_per_token(llama, "bfloat16") == 2 * 2 * 2 * 16 * 2
    assert kv_bytes_per_token(gemma, "float32") == 1 * 2 * 2 * 16 * 4


def test_tokenizer_left_at_the_old_length(tmp_path):
    model = folder(tmp_path, SOUND["yarn"])
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 32768}')
    (problem,) = inspect(model).problems
    assert (problem.code, problem.seen, problem.expected) == ("tokenizer-shorter", 32768, 131072)
    run(shlex.split(problem.mend)[1:])
    assert inspect(model).problems == []


def test_unreadable_configurations_still_show_their_problem(tmp_path):
    found = inspect(folder(tmp_path, LLAMA | {"rope_parameters": without(YARN, "factor")}))
    assert found.unreadable and found.problems[0].code == "factor-invalid"


def test_json_has_the_critical_dimension(tmp_path, capsys):
    assert run(["inspect", folder(tmp_path, LLAMA | {"max_position_embeddings": 4096,
                                                     "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
                                                     "hidden_size": 512}), "--json"]) == 0  # fmt: skip
    rope = json.loads(capsys.readouterr().out)["rope"]["all"]
    assert rope["critical_dimension"] == 46  # d = 128, b = 10000, L = 4096
    assert rope["dimensions_without_a_full_turn"] == 18


SAYS = {"rope_type": "yarn", **THETA}


@pytest.mark.parametrize(
    ("rope", "codes", "wanted"),
    [
        ({**SAYS, "factor": "4.0", "original_max_position_embeddings": 32768}, ["factor-invalid"], {"factor": 4.0}),
        ({**YARN, "original_max_position_embeddings": "32768"}, ["original-length-invalid"],
         {"original_max_position_embeddings": 32768}),
        ({**without(YARN, "original_max_position_embeddings"), "orignal_max_position_embeddings": 32768},
         ["key-misspelt"], {"original_max_position_embeddings": 32768}),
        ({**without(YARN, "factor"), "factr": 4.0}, ["key-misspelt"], {"factor": 4.0}),
        ({**without(YARN, "factor"), "scale": 4.0}, ["key-misspelt"], {"factor": 4.0}),
        ({**YARN, "rope_theta": "1e6"}, ["rope-theta-invalid"], {"rope_theta": 1000000}),
    ],
)  # fmt: skip
def test_what_was_meant_is_mended_and_nothing_else(rope, codes, wanted, tmp_path):
    """A number in a text, or under a name that nobody reads, is the number; no guess of ours takes its place."""
    model = folder(tmp_path, LLAMA | {"rope_parameters": rope, "max_position_embeddings": 131072})
    found = inspect(model).problems
    assert [problem.code for problem in found] == codes
    assert run(shlex.split(found[0].mend.split("   (")[0])[1:]) == 0
    mended = json.loads((tmp_path / "config.json").read_text())["rope_parameters"]
    assert inspect(model).sound and {key: mended[key] for key in wanted} == wanted and mended.keys() == YARN.keys()


def test_a_factor_that_nothing_tells_is_asked_for(tmp_path):
    rope = {"rope_type": "linear", **THETA}
    (problem,) = inspect(folder(tmp_path, LLAMA | {"rope_parameters": rope})).problems
    assert problem.code == "factor-invalid" and "does not tell it" in problem.mend


def test_where_the_length_may_be_the_one_before_scaling_both_lines_are_said(tmp_path):
    """As when somebody adds a factor to a published file, and nothing else."""
    rope = without(YARN, "original_max_position_embeddings")
    model = folder(tmp_path, LLAMA | {"rope_parameters": rope, "max_position_embeddings": 32768})
    (problem,) = inspect(model).problems
    assert "original_max_position_embeddings=8192" in problem.mend.split("   (")[0]
    assert "if the 32,768 tokens of the file are the pretrained length" in problem.mend
    run(shlex.split(problem.mend.split("pretrained length: ")[1].rstrip(")"))[1:])
    assert inspect(model).sound and (inspect(model).window, inspect(model).length) == (32768, 131072)


@pytest.mark.parametrize("place", ["my model", "author's", "a&b"])
@pytest.mark.parametrize("wrong", ["factor-invalid", "note", "dynamic-scaling", "tokenizer-shorter"])
def test_a_mend_is_one_line_of_a_shell_wherever_the_model_lies(wrong, place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    raw = WRONG["factor-invalid"][0]
    if wrong == "note":
        raw = LLAMA | {"scale": {"type": "linear", "factor": 4.0, "note": "author's choice"}}
        raw = without(raw, "scale", "rope_parameters") | {"rope_theta": 5e5, "rope_scalings": raw["scale"]}
    elif wrong == "dynamic-scaling":
        raw = LLAMA | {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, **THETA}}
    elif wrong == "tokenizer-shorter":
        raw = LLAMA | {"rope_parameters": YARN, "max_position_embeddings": 131072}
    (tmp_path / place).mkdir()
    folder(tmp_path / place, raw)
    if wrong == "tokenizer-shorter":
        (tmp_path / place / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32768}))
    problem = inspect(place).problems[0]
    words = shlex.split(problem.mend.split("   (")[0])
    assert words[0] == "ropewalk" and words[2] == place
    if words[1] == "inspect":
        run(words[1:])
        assert problem not in inspect(place).problems


@pytest.mark.parametrize("factor", ["4.0", "four", 0.25, None, 1e300])
@pytest.mark.parametrize("kind", ["yarn", "longrope"])
def test_a_pretrained_length_that_nothing_tells_is_a_number_all_the_same(kind, factor, tmp_path):
    rope = {"rope_type": kind, "factor": factor, "short_factor": LONG, "long_factor": LONG, **THETA}
    model = folder(tmp_path, LLAMA | {"rope_parameters": rope, "max_position_embeddings": 16384})
    (found,) = (one for one in inspect(model).problems if one.code == "original-length-missing")
    line, _, more = found.mend.partition("   (")
    assert shlex.split(line)[-1] == "rope_parameters.original_max_position_embeddings=4096"
    assert more.startswith("if the 16,384 tokens" if factor == "4.0" else "put the model's own")
    run(shlex.split(line)[1:])
    assert found.code not in {one.code for one in inspect(model).problems}


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    "raw",
    [
        {"rope_scaling": {"rope_type": "linear", "factor": 8.0}},
        {"rope_scaling": None, "max_sequence_length": 8192},
        {"rope_scaling": None, "max_sequence_length": 65536},
    ],
)
def test_the_other_line_mends_too(raw, inside, tmp_path, monkeypatch):
    raw = without(LLAMA, "rope_parameters") | {"rope_theta": 1e4} | raw
    model = folder(tmp_path, {"model_type": "llava", "text_config": raw} if inside else raw)
    (found,) = inspect(model).problems
    assert found.code in ("length-ambiguous", "length-contradicted")
    first, _, other = found.mend.removesuffix(")").partition("   (")
    line = other.split("else: ")[1]
    assert line != first and run(shlex.split(line)[1:]) == 0
    assert inspect(model).sound


def test_a_configuration_of_another_name_is_mended_where_it_stands(tmp_path):
    raw, file = WRONG["factor-invalid"][0], tmp_path / "my config.json"
    file.write_text(json.dumps(raw))
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (problem, *_) = inspect(str(file)).problems
    line = shlex.split(problem.mend)
    assert line[2] == str(file) and run(line[1:]) == 1, "another is left"
    assert problem not in inspect(str(file)).problems
    assert json.loads((tmp_path / "config.json").read_text()) == LLAMA
    assert run(["inspect", str(file), "--set", "rope_parameters.factor=0.5"]) == 2, "it is judged as any other"
