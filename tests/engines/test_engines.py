"""What vLLM, SGLang and transformers derive: against transformers' functions, by hand, and version by version."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ropewalk.checkpoint.write import extended_config
from ropewalk.common.errors import UserError
from ropewalk.engines import agreement as check
from ropewalk.engines import launch, sglang, transformers, vllm
from ropewalk.engines.agreement import READERS, Asked
from ropewalk.engines.reading import Files
from ropewalk.rope import config as rope_config
from ropewalk.rope import formulas, problems
from ropewalk.rope.spec import ALL
from tests.matrix import FAMILY_NAMES, SAVED, TARGET, THREE, made
from tests.models import config, shared

LENGTH, ORIGINAL = 256, 64
THETA = {"rope_theta": 10000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": ORIGINAL, **THETA}
LONG = [1.0 + i / 4 for i in range(8)]
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": LONG, **THETA,
            "original_max_position_embeddings": ORIGINAL}  # fmt: skip
S0 = [0, 16, 32, 40, 48, 63]


def files(parameters: dict, family: str = "llama", length: int = LENGTH, raw: dict | None = None) -> Files:
    made = config(family, rope_parameters=parameters, max_position_embeddings=length)
    return Files("DIR", raw if raw is not None else made.to_dict(), made)


def only(table):
    (reading,) = table.values()
    return reading


def same(a, b) -> bool:
    return torch.allclose(a.inv_freq, b.inv_freq, rtol=1e-5, atol=1e-20) and math.isclose(
        a.attention_factor, b.attention_factor, rel_tol=1e-6
    )


def test_formulas_give_the_numbers_of_the_papers():
    w = formulas.plain(10000.0, 128)
    assert (w / formulas.yarn(10000.0, 128, 4.0, 4096))[S0].tolist() == pytest.approx(
        [1, 1, 1.529412, 2.363636, 4, 4], abs=1e-6
    )
    assert (w / formulas.yarn(10000.0, 128, 4.0, 4096, truncate=False))[S0].tolist() == pytest.approx(
        [1, 1, 1.525094, 2.459707, 4, 4], abs=1e-6
    )
    llama3 = formulas.plain(5e5, 128) / formulas.llama3(5e5, 128, 8.0, 1.0, 4.0, 8192)
    assert llama3[S0].tolist() == pytest.approx([1, 1, 2.694530, 8, 8, 8], abs=1e-6)
    assert (w / formulas.ntk(10000.0, 128, 4.0))[S0].tolist() == pytest.approx(
        [1, 1.422015, 2.022126, 2.411350, 2.875493, 4], abs=1e-6
    )
    assert formulas.yarn_magnitude(4.0) == pytest.approx(1.138629, abs=1e-6)
    assert formulas.longrope_magnitude(131072, 4096) == pytest.approx(math.sqrt(1 + 5 / 12))


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in THREE else pytest.mark.slow) for name in FAMILY_NAMES]
)
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_what_extend_writes_is_read_back_by_the_engine_or_refused(engine, family):
    model = shared(family)
    for spelling in SAVED:
        method = made(spelling, model)
        written, _ = extended_config(model.config, method, TARGET)
        specs = rope_config.read(written)
        seen = Files("DIR", written.to_dict(), written)
        try:
            found = READERS[engine](seen, TARGET, Asked())
        except UserError as error:
            assert "stops" in error.message or "gpt-oss" in error.message, spelling
            assert family in ("cohere", "phi3", "gpt_oss"), spelling
            continue
        if engine == "sglang" and family == "phi3":  # see the test about partial_rotary_factor
            assert not check.row(engine, seen, transformers.read(seen, TARGET), TARGET, Asked()).sound
            continue
        for key, spec in specs.items():
            assert torch.allclose(found[key].inv_freq, spec.inv_freq, rtol=1e-5, atol=1e-20), (spelling, key)
            assert found[key].attention_factor == pytest.approx(spec.attention_factor, rel=1e-6), (spelling, key)


def test_llama_cpp_reads_back_what_its_converter_can_say():
    same_in = {}
    for spelling in SAVED:
        model = shared("llama")
        written, parameters = extended_config(model.config, made(spelling, model), TARGET)
        seen = Files("DIR", written.to_dict(), written)
        want = transformers.read(seen, TARGET)
        row = check.row("llama.cpp", seen, want, TARGET, Asked())
        same_in.setdefault(parameters[ALL]["rope_type"], set()).add(row.sound)
    assert same_in["default"] == same_in["linear"] == same_in["llama3"] == {True}
    assert same_in["longrope"] == {False}


def test_yarns_betas_are_lost_in_llama_cpp_and_the_row_says_so():
    seen = files(YARN | {"beta_fast": 2.0})
    row = check.row("llama.cpp", seen, transformers.read(seen, LENGTH), LENGTH, Asked())
    assert not row.same_frequencies and "frequency" in row.note
    flagged = check.row("llama.cpp", seen, transformers.read(seen, LENGTH), LENGTH, Asked(flags="--yarn-beta-fast 2"))
    assert flagged.sound


@pytest.mark.parametrize(
    ("version", "t", "length"),
    [("0.29.0", 0.1 * math.log(4) + 1, 256), ("0.30.0", 1.3, 256), ("0.33.0", 1.3, 256)],
)
def test_vllm_reads_attention_factor_since_0_30(version, t, length):
    found = only(vllm.read(files(YARN | {"attention_factor": 1.3}), version=version))
    assert (found.attention_factor, found.max_length) == (pytest.approx(t), length)


def test_vllm_before_0_30_multiplied_attn_factor_and_took_yarns_length_from_the_factor():
    seen = files(YARN | {"attn_factor": 1.1}, length=1000)
    old, new = only(vllm.read(seen, version="0.22.0")), only(vllm.read(seen))
    assert old.attention_factor == pytest.approx(1.1 * (0.1 * math.log(4) + 1))
    assert new.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    assert (old.max_length, new.max_length) == (256, 1000)


def test_vllm_before_0_12_reads_the_legacy_pair_only():
    legacy = {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0}}
    both = files({"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}, raw=legacy)
    assert same(only(vllm.read(both, version="0.10.2")), only(vllm.read(both)))
    new_only = files({"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}, raw={})
    assert torch.equal(only(vllm.read(new_only, version="0.10.2")).inv_freq, formulas.plain(10000.0, 16))


def test_vllm_chooses_longrope_factors_by_max_model_len():
    seen = files(LONGROPE)
    w = formulas.plain(10000.0, 16)
    short, long = only(vllm.read(seen, ORIGINAL)), only(vllm.read(seen, ORIGINAL + 1))
    assert torch.allclose(short.inv_freq, w)
    assert torch.allclose(long.inv_freq, w / torch.tensor(LONG, dtype=torch.float64))
    assert long.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(64)))


def test_sglang_switches_one_position_after_transformers():
    seen = files(LONGROPE)
    for length, agree in ((ORIGINAL, True), (ORIGINAL + 1, False), (ORIGINAL + 2, True)):
        both = only(sglang.read(seen, length)).inv_freq, only(transformers.read(seen, length)).inv_freq
        assert torch.allclose(*both, rtol=1e-5) == agree, length


def test_vllm_and_sglang_ignore_the_attention_factor_of_longrope_but_read_its_mscales():
    ignored = files(LONGROPE | {"attention_factor": 1.3})
    read = files(LONGROPE | {"attention_factor": 1.3, "short_mscale": 1.3, "long_mscale": 1.3})
    assert only(transformers.read(ignored, LENGTH)).attention_factor == pytest.approx(1.3)
    for engine in (vllm, sglang):
        assert only(engine.read(ignored, LENGTH)).attention_factor != pytest.approx(1.3)
        assert only(engine.read(read, LENGTH)).attention_factor == pytest.approx(1.3)


@pytest.mark.parametrize(
    ("parameters", "in_vllm", "in_sglang"),
    [
        ({"rope_type": "default", **THETA}, 256, 256),
        ({"rope_type": "linear", "factor": 4.0, **THETA}, 1024, 1024),
        ({"rope_type": "dynamic", "factor": 4.0, **THETA}, 1024, 1024),
        (YARN, 256, 256),
        (LONGROPE, 256, 256),
        ({"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": ORIGINAL, **THETA}, 256, 256),
    ],
)  # fmt: skip
def test_the_length_that_an_engine_takes_by_itself(parameters, in_vllm, in_sglang):
    seen = files(parameters)
    assert only(vllm.read(seen)).max_length == in_vllm
    assert only(sglang.read(seen)).max_length == in_sglang


def test_a_tokenizers_limit_shortens_vllm():
    seen = files(YARN)
    assert only(vllm.read(Files("DIR", seen.raw, seen.config, tokenizer_limit=100))).max_length == 100


def test_dynamic_is_three_different_tables():
    seen = files({"rope_type": "dynamic", "factor": 4.0, **THETA})
    w = formulas.plain(10000.0, 16)
    assert torch.equal(only(vllm.read(seen)).inv_freq, w)
    assert torch.allclose(only(vllm.read(seen, version="0.21.0")).inv_freq, formulas.ntk(10000.0, 16, 13.0))
    assert torch.allclose(only(sglang.read(seen)).inv_freq, formulas.ntk(10000.0, 16, 13.0))
    at_1024 = only(transformers.read(seen, 1024))
    assert torch.allclose(at_1024.inv_freq, formulas.ntk(10000.0, 16, 13.0), rtol=1e-5)
    assert torch.allclose(only(transformers.read(seen, 512)).inv_freq, formulas.ntk(10000.0, 16, 5.0), rtol=1e-5)


@pytest.mark.parametrize("engine", [vllm, sglang])
def test_longrope_is_refused_where_neighbours_rotate_unless_transformers_code_runs(engine):
    seen = files(LONGROPE, family="cohere")
    with pytest.raises(UserError, match="rotates neighbours") as refusal:
        engine.read(seen, LENGTH)
    assert "--model-impl transformers" in refusal.value.mend
    assert same(only(engine.read(seen, LENGTH, via_transformers=True)), only(transformers.read(seen, LENGTH)))


def test_vllms_gpt_oss_takes_yarn_only_with_its_betas_and_its_own_attention_factor():
    with pytest.raises(UserError, match="'beta_fast'"):
        vllm.read(files(YARN, family="gpt_oss"))
    with pytest.raises(UserError, match="always applies yarn"):
        vllm.read(files(LONGROPE, family="gpt_oss"))
    found = only(
        vllm.read(files(YARN | {"beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 2.0}, family="gpt_oss"))
    )
    assert found.attention_factor == pytest.approx(0.1 * math.log(4) + 1)


def test_sglang_reads_truncate_since_0_5_7_and_mscale_since_0_5_16():
    seen = files(YARN | {"truncate": False, "mscale": 1.0, "mscale_all_dim": 0.5})
    legacy = Files("DIR", {"rope_theta": 10000.0, "rope_scaling": {**seen.entries[ALL]}}, seen.config)
    old, new = only(sglang.read(legacy, version="0.5.6")), only(sglang.read(legacy, version="0.5.7"))
    assert not torch.allclose(old.inv_freq, new.inv_freq)
    assert old.attention_factor == pytest.approx(0.1 * math.log(4) + 1)
    now = only(sglang.read(seen))
    assert now.attention_factor == pytest.approx((0.1 * math.log(4) + 1) / (0.05 * math.log(4) + 1))


@pytest.mark.parametrize(("engine", "version"), [(vllm, "0.7.3"), (sglang, "0.4.0"), (vllm, "latest")])
def test_versions_that_are_not_known_are_refused(engine, version):
    with pytest.raises(UserError, match=version):
        engine.read(files(YARN), version=version)


def test_missing_keys_are_named():
    seen = files({"rope_type": "default", **THETA})
    broken = seen.replaced({"rope_parameters": {"rope_type": "yarn", **THETA}})
    with pytest.raises(UserError, match="no key 'original_max_position_embeddings'"):
        vllm.read(broken)


def test_sglang_reads_the_share_of_rotated_dimensions_outside_of_the_rope_dict():
    parameters = {"rope_type": "default", "partial_rotary_factor": 0.75, **THETA}
    seen = files(parameters, family="phi3")
    row = check.row("sglang", seen, transformers.read(seen, LENGTH), LENGTH, Asked())
    assert not row.same_frequencies
    assert row.keys == {"partial_rotary_factor": 0.75}
    seen.config.partial_rotary_factor = 0.75
    assert check.row("sglang", seen, transformers.read(seen, LENGTH), LENGTH, Asked()).sound


def test_transformers_4_takes_three_keys_for_phi_3_and_no_more():
    short = {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": LONG}
    raw = {"rope_theta": 10000.0, "rope_scaling": short, "original_max_position_embeddings": ORIGINAL}
    seen = files(LONGROPE, family="phi3", raw=raw)
    assert same(only(transformers.read(seen, LENGTH, "4.57")), only(transformers.read(seen, LENGTH)))
    more = files(LONGROPE, family="phi3", raw={**raw, "rope_scaling": {**short, "attention_factor": 1.3}})
    with pytest.raises(UserError, match="attention_factor, long_factor, short_factor, type, expected exactly"):
        transformers.read(more, LENGTH, "4.57")


@pytest.mark.parametrize(
    "rope",
    [
        THETA,
        {"rope_type": "linear", "factor": 4.0, **THETA},
        {"rope_type": "dynamic", "factor": 4.0, **THETA},
        YARN,
        YARN | {"attention_factor": 1.3, "beta_fast": 16.0},
        {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **THETA,
         "original_max_position_embeddings": ORIGINAL},
        LONGROPE,
    ],
)  # fmt: skip
def test_the_latest_transformers_is_read_as_its_models_rotate(rope):
    seen = files(rope)
    rotary = LlamaRotaryEmbedding(seen.config)
    for length in (ORIGINAL, LENGTH, 2 * LENGTH):  # dynamic and longrope change with the length
        rotary(torch.zeros(1, length, 16), torch.arange(length)[None])
        read = only(transformers.read(seen, length))
        assert torch.allclose(rotary.inv_freq.double(), read.inv_freq, rtol=1e-6)
        assert rotary.attention_scaling == pytest.approx(read.attention_factor)


def test_what_inspect_says_of_yarn_in_vllm_is_what_its_rules_say():
    first = next(rules.since for rules in vllm.RULES if rules.yarn_length_is_scaled)
    assert first == f"{problems.VLLM_BY_LENGTH}.0"
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    (note,) = problems.notes({"max_position_embeddings": 32768, "rope_scaling": rope}, "m")
    assert f"vLLM before {problems.VLLM_BY_LENGTH} goes by" in note and "SGLang and vLLM go by it" in note


# M-RoPE: three positions per token


def of_pictures(kind, rope, section=(16, 24, 24)):
    text = {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 131072,
            "rope_parameters": {"rope_theta": 1e6, "mrope_section": list(section), **rope}}  # fmt: skip
    text |= {"qwen3_vl": {"head_dim": 128}, "qwen3_5": {"head_dim": 512}}.get(kind, {})  # of that, a quarter rotates
    made = AutoConfig.for_model(kind, text_config=text).get_text_config()
    return Files("DIR", made.to_dict(), made, prefix="text_config.", name="DIR")


STRETCHED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}


def test_vllm_takes_yarns_ramp_from_four_windows_where_a_token_has_three_positions():
    """Ratios of the frequencies of vLLM 0.32.0's two classes, one for M-RoPE and one for one position per token."""
    seen = of_pictures("qwen2_vl", STRETCHED)
    own, meant = (only(engine.read(seen, 131072)) for engine in (vllm, transformers))
    ratio = meant.inv_freq / own.inv_freq
    assert ratio[[20, 23, 24, 30, 40, 46, 47]].tolist() == pytest.approx(
        [1, 1, 0.9559, 0.6912, 0.4474, 0.85, 1], abs=1e-4
    )
    assert int((ratio - 1).abs().gt(1e-4).sum()) == 23 and own.attention_factor == meant.attention_factor
    with_betas = of_pictures("qwen2_vl", STRETCHED | {"beta_fast": 128, "beta_slow": 4})
    assert same(only(vllm.read(with_betas)), meant)
    assert same(only(sglang.read(seen)), meant) and same(only(vllm.read(seen, via_transformers=True)), meant)
    row = check.row("vllm", seen, {"all": meant}, 131072, Asked())
    assert not row.same_frequencies and not row.keys and row.mend.endswith("--model-impl transformers")


@pytest.mark.parametrize("kind", ["qwen3_vl", "qwen3_5"])
def test_it_does_not_for_later_models(kind):
    seen = of_pictures(kind, STRETCHED | {"mrope_interleaved": True}, (24, 20, 20))
    assert same(only(vllm.read(seen)), only(transformers.read(seen, 131072)))


@pytest.mark.parametrize("engine", [vllm, sglang])
@pytest.mark.parametrize("rope", [{"rope_type": "linear", "factor": 4.0}, {**LONGROPE, "rope_theta": 1e6}])
def test_types_without_axes_are_refused_unless_transformers_code_runs(engine, rope):
    long = {"short_factor": [2.0] * 64, "long_factor": [2.0] * 64} if "short_factor" in rope else {}
    seen = of_pictures("qwen2_vl", rope | long)
    with pytest.raises(
        UserError, match=r"has M-RoPE in the types default and yarn alone; rope_type is '(linear|longrope)'"
    ):
        engine.read(seen)
    assert same(only(engine.read(seen, via_transformers=True)), only(transformers.read(seen, 131072)))


@pytest.mark.parametrize(
    ("kind", "rope", "in_vllm", "in_sglang"),
    [
        ("qwen2_vl", STRETCHED, True, False),
        ("qwen3_vl", STRETCHED, False, False),
        ("qwen2_vl", {"rope_type": "linear", "factor": 4.0}, True, True),
        ("qwen2_vl", {"rope_type": "default"}, False, False),
    ],
)
def test_lines_run_transformers_code_where_pictures_would_be_read_otherwise(kind, rope, in_vllm, in_sglang):
    seen = of_pictures(kind, rope)
    lines = launch.launch_lines(Path("DIR"), seen.config, seen.entries["all"], 131072)
    assert ["--model-impl transformers" in lines[engine] for engine in ("vllm", "sglang")] == [in_vllm, in_sglang]
