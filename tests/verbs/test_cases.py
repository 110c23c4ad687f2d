"""Configurations in the wild: what each means is read, kept by every method, or refused with a mend that mends."""

from __future__ import annotations

import json
import shlex

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from ropewalk import UserError, method
from ropewalk import extend as extended
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.inspection import inspect
from ropewalk.checkpoint.write import extend
from ropewalk.cli.main import run
from ropewalk.engines.agreement import check_export
from ropewalk.engines.gguf.to_gguf import write_gguf
from ropewalk.engines.handover import export
from ropewalk.planning.planner import plan
from ropewalk.rope import architecture, live
from ropewalk.rope import config as rope_config
from ropewalk.rope.problems import BLOCKING
from ropewalk.serving.server import _limit
from tests import cases
from tests.cli.test_main import byte_tokenizer

WHOLE = {
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "qwen3_vl": "Qwen3VLForConditionalGeneration",
}
METHODS = ["yarn", "pi", "ntk-aware", "llama3", "none", "resonance+yarn", "dprope"]
LATENT = {
    "deepseek_v2": cases.deepseek("deepseek_v2", topk_method="greedy"),
    "deepseek_v32": cases.deepseek("deepseek_v32", index_head_dim=16, index_n_heads=2, index_topk=16),
    "minicpm3": cases.of("minicpm3", **{**cases.LATENT, **cases.PAIRED}),
    "glm4_moe_lite": cases.deepseek("glm4_moe_lite"),
    "youtu": cases.of("youtu", **{**cases.LATENT, **cases.PAIRED}),
    "mistral4": cases.of("mistral4", **{**cases.LATENT, **cases.EXPERTS}, max_position_embeddings=1024,
                         architectures=["Mistral4ForCausalLM"], rope_parameters=cases.STAIRS),
}  # fmt: skip


def scales(model):
    """What every layer multiplies its logits by."""
    return {name: m.scaling for name, m in model.named_modules() if isinstance(getattr(m, "scaling", None), float)}


@torch.no_grad()
def logits(model, n=150):
    ids = torch.arange(n)[None] % 90 + 3
    return model(ids, use_cache=False).logits


# What attention reads from the rope parameters


def keeps_what_attention_reads(raw, spelling, to, tmp_path):
    """Extended on disk, in memory, and for a while: one model, whose layers scale their logits as they were trained."""
    source = cases.build(tmp_path / "source", raw)
    done = extend(tmp_path / "source", to, method(spelling), tmp_path / "out")
    loaded = type(source).from_pretrained(done.folder, dtype=torch.float32).eval()
    assert scales(loaded) == pytest.approx(scales(source), rel=1e-6) and scales(loaded)
    far = logits(loaded)
    with method(spelling).on(source, to=to):
        assert torch.allclose(logits(source), far, atol=1e-4)
    method(spelling).extend(source, to=to)
    assert torch.allclose(logits(source), far, atol=1e-6)
    assert all(row.sound for row in check_export(done.folder) if row.engine == "transformers")
    return done.rope_parameters["all"]


@pytest.mark.parametrize("spelling", METHODS)
def test_latent_attention_keeps_its_scale(spelling, tmp_path):
    to = 2560 if spelling == "none" else 10240
    keeps_what_attention_reads(cases.deepseek(), spelling, to, tmp_path)


@pytest.mark.parametrize("spelling", METHODS)
def test_queries_keep_their_stairs(spelling, tmp_path):
    to = 1024 if spelling == "none" else 4096
    written = keeps_what_attention_reads(cases.ministral3(), spelling, to, tmp_path)
    assert (written["llama_4_scaling_beta"], written["original_max_position_embeddings"]) == (0.1, 64)


@pytest.mark.parametrize("spelling", ["yarn", "ntk-aware"])
@pytest.mark.parametrize("kind", LATENT)
def test_so_do_all_that_read_them(kind, spelling, tmp_path):
    keeps_what_attention_reads(LATENT[kind], spelling, 10240, tmp_path)


def test_yarn_raises_the_factor_of_a_trained_yarn(tmp_path):
    """Its own keys stay: the ramp's bounds, the stairs' length, the pair that takes the place of its temperature."""
    scaling = {**cases.SCALED, "beta_fast": 1.0, "beta_slow": 1.0}
    done = extend_only_config(cases.deepseek(rope_scaling=scaling), "yarn", 10240)
    expected = {"rope_type": "yarn", "factor": 160.0, "beta_fast": 1.0, "beta_slow": 1.0}
    assert expected.items() <= done.items() and done["original_max_position_embeddings"] == 64
    written = AutoConfig.for_model(**{**cases.deepseek(), "rope_scaling": None, "rope_parameters": done})
    spec = rope_config.read(written)["all"]
    trained = (1 + 0.1 * torch.tensor(40.0).log()) ** 2
    assert spec.attention_factor == pytest.approx(1.0) and spec.logit_scale == pytest.approx(float(trained))


def extend_only_config(raw, spelling, to, on_top=None):
    from ropewalk.checkpoint.write import extended_config

    config = AutoConfig.for_model(**raw)
    return extended_config(config, method(spelling), to, on_top)[1]["all"]


def test_what_would_be_lost_is_refused(monkeypatch, tmp_path):
    """Without the keys that go along, the scale of a layer or the first forward gives it away."""
    complete = rope_config.complete
    monkeypatch.setattr(rope_config, "complete", lambda spec, found, t: {
        key: value for key, value in (complete(spec, found, t) or {}).items()
        if key not in ("llama_4_scaling_beta", "mscale_all_dim")})  # fmt: skip
    with pytest.raises(UserError, match=r"would scale its logits by 0\.20412\d*, it was trained with 0\.38249"):
        extend_only_config(cases.deepseek(), "ntk-aware", 10240)
    with pytest.raises(UserError, match="does not run with these rope parameters: TypeError"):
        extend_only_config(cases.ministral3(), "ntk-aware", 4096)


def test_every_rope_key_that_any_model_reads_is_known():
    """Over all of transformers: what attention asks of its rope parameters goes along, or is computed anew."""
    computed = rope_config.OF_TYPES
    carried = {"mrope_section", "mrope_interleaved", "llama_4_scaling_beta"}
    read = set()
    for kind in CONFIG_MAPPING_NAMES:
        module = f"transformers.models.{kind.replace('-', '_')}.modeling_{kind.replace('-', '_')}"
        read |= set(architecture.ROPE_KEY.findall(architecture._source(module)))
    assert {"mscale_all_dim", "llama_4_scaling_beta", "mrope_section"} <= read
    assert not {key for key in read - computed - carried if not key.endswith("_attention")}


def test_engines_are_told_what_attention_reads(tmp_path):
    cases.build(tmp_path / "latent", cases.deepseek())
    line = export(tmp_path / "latent", "vllm", 10240).profiles[-1].line
    said = json.loads(shlex.split(line)[shlex.split(line).index("--hf-overrides") + 1])["rope_parameters"]
    assert said["mscale"] == said["mscale_all_dim"] > 0
    lost = {**said, "mscale_all_dim": None, "mscale": None}
    from ropewalk.engines.agreement import Asked, meant, row
    from ropewalk.engines.reading import Files

    files = Files.load(tmp_path / "latent")
    want = meant(files, {"rope_parameters": said, "max_position_embeddings": 10240})
    found = row("vllm", files, want, 10240, Asked({"rope_parameters": lost, "max_position_embeddings": 10240}))
    assert not found.sound
    cases.build(tmp_path / "stairs", cases.ministral3())
    for engine in ("vllm", "sglang"):  # their own classes do not read the stairs from the rope parameters
        line = export(tmp_path / "stairs", engine, 4096).profiles[-1].line
        assert line.endswith("--model-impl transformers") and '"llama_4_scaling_beta": 0.1' in line


# What rotates, and how far it looks


@pytest.mark.parametrize("raw", [cases.llama4(), *map(cases.hybrid, ("cohere2", "exaone4")), cases.deepseek_v4(),
                                 cases.of("mistral", max_position_embeddings=1024, rope_theta=1e4, sliding_window=64)],
                         ids=lambda raw: raw["model_type"])  # fmt: skip
def test_a_rope_that_never_looks_far_is_left_alone(raw, tmp_path):
    cases.build(tmp_path / "m", raw)
    for verb in (lambda: extend(tmp_path / "m", 8192, method("yarn"), tmp_path / "out"),
                 lambda: export(tmp_path / "m", "vllm", 8192)):  # fmt: skip
        with pytest.raises(UserError, match=r"no layer of this .* has a rope that an extension may change"):
            verb()
    assert not (tmp_path / "out").exists()
    found = inspect(tmp_path / "m")
    assert found.reach == (None if raw["model_type"] == "deepseek_v4" else 64)


def test_windows_wider_than_the_training_are_extended(tmp_path):
    raw = cases.of("mistral", max_position_embeddings=1024, rope_theta=1e4, sliding_window=4096)
    assert extend_only_config(raw, "pi", 4096)["factor"] == 4.0
    assert architecture.reach(AutoConfig.for_model(**cases.hybrid("smollm3", no_rope_layers=[1, 0]))) == 64
    assert architecture.reach(AutoConfig.for_model(**cases.hybrid("gemma2"))) is None


def test_the_scan_agrees_with_watching_the_model():
    """Layers that see all and do not rotate, by their source and by the probe."""
    from ropewalk.rope.probe import probe

    for kind in ("cohere2", "exaone4", "gemma2", "llama4_text", "smollm3"):
        raw = cases.llama4() if kind == "llama4_text" else cases.hybrid(kind)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**raw)).eval()
        kinds = architecture.layers(model.config)
        watched = {kinds[one.index] for one in probe(model) if one.rotary is not None}
        assert (architecture.reach(model.config) is None) == ("full_attention" in watched), kind


def test_models_without_a_rotation_are_refused():
    falcon = cases.of("falcon", alibi=True, multi_query=False, new_decoder_architecture=False)
    with pytest.raises(UserError, match=r"'falcon' has no rotary position embedding .key 'alibi'"):
        rope_config.read(AutoConfig.for_model(**falcon))
    assert rope_config.read(AutoConfig.for_model(**{**falcon, "alibi": False}))["all"].base == 1e4
    with pytest.raises(UserError, match="'gptj' rotates with code of its own"):
        rope_config.read(AutoConfig.for_model("gptj", n_embd=64, n_head=4, n_layer=2, rotary_dim=16))
    hybrid = cases.of("granitemoehybrid", position_embedding_type="nope", rope_theta=1e4)
    with pytest.raises(UserError, match="position_embedding_type is 'nope'"):
        rope_config.read(AutoConfig.for_model(**hybrid))


def test_no_base_can_mean_no_rotation(tmp_path):
    """Where the architecture says so; to mend it would make the model rotate."""
    rope = {"rope_theta": None}
    model = cases.write(tmp_path, cases.of("olmo_hybrid", num_hidden_layers=4, rope_parameters=rope))
    assert Checkpoint.open(model).problems == []
    with pytest.raises(UserError, match="rope_theta is null"):
        _ = Checkpoint.open(model).specs


def test_a_scaling_of_a_model_that_does_not_rotate_is_named(tmp_path, capsys):
    if "kimi_linear" not in CONFIG_MAPPING_NAMES:
        pytest.skip("this transformers does not know Kimi Linear")
    raw = cases.of("kimi_linear", **cases.LATENT, num_hidden_layers=4, rope_scaling=cases.LINEAR, rope_theta=1e4)
    problems = Checkpoint.open(cases.write(tmp_path, raw), sound=False).problems
    assert "rope-unused" in {problem.code for problem in problems}
    with pytest.raises(UserError, match="its attention has no rotation"):
        _ = Checkpoint.open(str(tmp_path), sound=False).specs


def test_a_published_yarn_is_raised_with_its_own_ramp(tmp_path):
    done = export(cases.write(tmp_path, cases.SOUND["gpt-oss as published"]), "vllm", 262144).profiles[-1]
    rope = json.loads(shlex.split(done.line)[-1])["rope_parameters"]
    assert (rope["factor"], rope["truncate"], rope["beta_fast"]) == (64.0, False, 32.0)


def test_two_kinds_of_head(tmp_path):
    """Gemma 4: each layer type has its own head; frequency methods have nothing to change in a proportional rope."""
    model = cases.build(tmp_path / "m", cases.gemma4())
    found = inspect(tmp_path / "m")
    assert {key: spec.head_dim for key, spec in found.specs.items()} == {"full_attention": 32, "sliding_attention": 16}
    assert found.kv_bytes_per_token == 2 * 2 * 32 * 4
    rope_config.read(model.config)
    done = extend(tmp_path / "m", 8192, method("llama3"), tmp_path / "out")
    assert any("changes no frequency here" in note for note in done.notes)
    assert done.rope_parameters["full_attention"]["rope_type"] == "proportional"
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(done.folder)), logits(model))
    with pytest.raises(UserError, match="of which it changes none") as refusal:
        extend(tmp_path / "m", 8192, method("yarn"), tmp_path / "other")
    assert "--methods none" in refusal.value.mend
    assert check_export(done.folder)[0].sound
    assert run(["plan", str(tmp_path / "m"), "--to", "16k"]) == 0


# What is read otherwise than it stands


@pytest.mark.parametrize("kind", ["hunyuan_v1_dense", "hunyuan_v1_moe"])
def test_a_fixed_alpha_is_a_base(kind, tmp_path):
    more = {"num_experts": 2, "moe_topk": 1} if kind.endswith("moe") else {}
    config = AutoConfig.for_model(**cases.hunyuan(kind, **more))
    spec = rope_config.read(config)["all"]
    assert spec.is_plain and spec.base == pytest.approx(10000 * 1000 ** (16 / 14))
    model = AutoModelForCausalLM.from_config(config)
    live.check(model, {"all": spec})
    method("yarn").extend(model, to=16384)
    assert rope_config.read(model.config)["all"].inv_freq[0] == 1.0


def test_full_rotary_phi3_has_its_share_written(tmp_path):
    cases.build(tmp_path / "m", cases.phi3())
    for spelling in METHODS:
        done = extend(tmp_path / "m", 16384, method(spelling), tmp_path / spelling)
        assert done.rope_parameters["all"]["partial_rotary_factor"] == 1.0


@pytest.mark.parametrize("spelling", ["yarn", "resonance+yarn", "pi"])
def test_a_head_size_that_is_not_said_is_written(spelling, tmp_path):
    cases.build(tmp_path / "m", cases.mixtral())
    done = extend(tmp_path / "m", 16384, method(spelling), tmp_path / "out")
    assert logits(AutoModelForCausalLM.from_pretrained(done.folder)).isfinite().all()
    assert '"head_dim": 16' in export(tmp_path / "m", "vllm", 16384).profiles[-1].line


def test_two_readings_of_linear(tmp_path):
    raw = cases.llama(rope_theta=1e4, rope_scaling=cases.LINEAR)
    read = {}
    said = {"silent": ({}, None), "before": ({"max_sequence_length": 16384}, None),
            "after": ({"max_sequence_length": 4096}, None), "tokenizer": ({}, 16384)}  # fmt: skip
    for name, (keys, tokenizer) in said.items():
        cases.write(tmp_path / name, {**raw, **keys})
        if tokenizer:
            (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({"model_max_length": tokenizer}))
        opened = Checkpoint.open(tmp_path / name)
        read[name] = (opened.window, opened.promised)
    assert read == {"silent": (1024, 4096), "before": (4096, 16384), "after": (1024, 4096), "tokenizer": (4096, 16384)}


def test_a_factor_for_more_than_the_stated_length_is_read_alike_by_all(tmp_path, capsys):
    """The rope is what factor and original length say; the promise is what the file states, for every verb."""
    raw = cases.SOUND["Qwen's recipe"] | {"vocab_size": 300}
    cases.build(tmp_path / "m", raw)
    tokenizer = byte_tokenizer(300)
    tokenizer.model_max_length = 16384
    tokenizer.save_pretrained(tmp_path / "m")
    model = str(tmp_path / "m")
    full = cases.write(tmp_path / "full", raw | {"max_position_embeddings": 16384})
    opened = Checkpoint.open(model)
    whole = rope_config.read(Checkpoint.open(full).config)["all"]
    assert opened.specs["all"].factors == whole.factors and opened.rope.attention_factor == whole.attention_factor
    assert (opened.window, opened.promised, inspect(model).length, plan(model, 16384).length) == (4096,) * 4
    assert opened.notes == inspect(model).notes and opened.notes[0] in plan(model, 16384).notes
    for engine, length in (("vllm", "--max-model-len 4096"), ("sglang", "--context-length 4096")):
        assert length in export(model, engine).profiles[-1].line
    rows = {row.engine: row for row in check_export(tmp_path / "m")}
    assert all(row.same_frequencies and row.usable for row in rows.values())
    done = extend(model, 16384, method("yarn"), tmp_path / "out").rope_parameters["all"]
    assert {key: done[key] for key in cases.YARN} == cases.YARN
    with pytest.raises(UserError, match="the attention factor is what every engine computes"):
        export(model, "vllm", out=tmp_path / "folded", fold=True)
    written = write_gguf(model, tmp_path / "m.gguf")
    back = Checkpoint.open(written.path)
    assert (back.window, back.promised) == (4096, 4096) and back.rope.factors == pytest.approx(whole.factors, rel=1e-5)
    assert _limit(opened, None, method("none"), False) == 4096
    with pytest.raises(UserError, match="reads 4,096 tokens as it is, not 8,192"):
        _limit(opened, 8192, method("none"), False)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_model_that_is_there_only_whole_is_loaded_extended_and_launched(kind, tmp_path):
    turns = {"mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = cases.of(f"{kind}_text", max_position_embeddings=128, rope_theta=1e4, rope_scaling={
        "rope_type": "default", **(turns if kind == "qwen3_vl" else {"mrope_section": [2, 3, 3]})})  # fmt: skip
    text |= {"head_dim": 16} if kind == "qwen3_vl" else {}
    small = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 64}
    raw = {"model_type": kind, "text_config": text, "vision_config": small, "architectures": [WHOLE[kind]]}
    source = cases.build(tmp_path / "m", raw)
    live = Checkpoint.open(tmp_path / "m").load(device="cpu")
    assert torch.equal(logits(live), logits(source))
    done = extended(str(tmp_path / "m"), to=512, method="yarn", out=tmp_path / "out")
    saved = Checkpoint.open(done.folder).load(device="cpu")
    with method("yarn").on(live, to=512):
        assert torch.equal(logits(live, 300), logits(saved, 300))
    assert not torch.equal(logits(live, 300), logits(saved, 300))
    line = done.launch["transformers"]
    assert line == f"AutoModelForMultimodalLM.from_pretrained({str(done.folder)!r})"
    assert torch.equal(logits(eval(line, {"AutoModelForMultimodalLM": AutoModelForMultimodalLM})), logits(saved))


def test_a_scaling_that_goes_is_named(tmp_path):
    cases.build(tmp_path / "m", cases.llama(16384, rope_theta=1e5, rope_scaling=cases.LINEAR))
    replaced = extend(tmp_path / "m", 65536, method("yarn"), tmp_path / "replaced")
    assert any("replaces linear x4 of 4,096 tokens; add --on-top" in note for note in replaced.notes)
    kept = extend(tmp_path / "m", 65536, method("yarn"), tmp_path / "kept", on_top=True)
    assert kept.window == 16384 and any("goes on top of linear x4" in note for note in kept.notes)
    finetuned = cases.llama(16384, rope_theta=1e5, rope_scaling={**cases.YARN, "finetuned": True})
    cases.build(tmp_path / "f", finetuned)
    honoured = extend(tmp_path / "f", 65536, method("ntk-aware"), tmp_path / "honoured")
    assert honoured.window == 16384 and any("goes on top of yarn x4" in note for note in honoured.notes)
    raised = extend(tmp_path / "f", 65536, method("yarn"), tmp_path / "raised")
    assert raised.rope_parameters["all"]["factor"] == 16.0 and any("raises the factor" in one for one in raised.notes)


def test_three_axes_are_kept_for_text(tmp_path):
    for kind, inner in (("qwen2_vl", "text_config"), ("qwen3_vl", "text_config")):
        raw = cases.qwen2_vl()
        if kind == "qwen3_vl":
            text = cases.of("qwen3_vl_text", head_dim=16, max_position_embeddings=32768, rope_theta=1e6, rope_scaling={
                "rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True})  # fmt: skip
            raw = {"model_type": kind, "text_config": text, "vision_config": {}}
        cases.write(tmp_path / kind, raw)
        assert inspect(tmp_path / kind).window == 32768
        line = shlex.split(export(tmp_path / kind, "vllm", 131072).profiles[-1].line)
        rope = json.loads(line[line.index("--hf-overrides") + 1])[inner]["rope_parameters"]
        own = (raw.get(inner) or raw)["rope_scaling"]
        assert rope["factor"] == 4.0 and rope["mrope_section"] == own["mrope_section"]
        assert rope.get("mrope_interleaved") == own.get("mrope_interleaved")


def test_cache_of_every_layer_that_grows(capsys):
    config = AutoConfig.for_model(**LATENT["deepseek_v32"])
    from ropewalk.checkpoint.inspection import kv_bytes_per_token

    assert kv_bytes_per_token(config, "float32") == 2 * 4 * (24 + 16) * 4
    assert rope_config.read(config)["all"].style == "interleaved"
    assert kv_bytes_per_token(AutoConfig.for_model(**cases.deepseek_v4()), "float32") > 0
    assert kv_bytes_per_token(AutoConfig.for_model(**cases.of("mistral", sliding_window=64)), "float32") == 0


def test_large_numbers_are_shown_in_full(tmp_path, capsys):
    run(["inspect", cases.write(tmp_path, cases.llama(2**25, rope_theta=8e6))])
    shown = capsys.readouterr().out
    assert "16,384 MiB" in shown and "8,000,000" in shown and "e+" not in shown


# Mistakes, and mends


@pytest.mark.parametrize("name", cases.SOUND)
def test_sound_files_raise_no_alarm(name, tmp_path):
    found = inspect(cases.write(tmp_path, cases.SOUND[name]))
    assert found.problems == [] and found.unreadable is None


@pytest.mark.parametrize("name", cases.UNSOUND)
def test_mistakes_are_named_and_stop_every_verb(name, tmp_path):
    code, key, raw = cases.UNSOUND[name]
    model = cases.write(tmp_path, raw)
    found = inspect(model).problems
    assert (code, key) in {(problem.code, problem.key) for problem in found}
    if code in BLOCKING:
        for words in (["export", model, "--engine", "vllm"], ["export", model, "--engine", "vllm", "--to", "64k"],
                      ["plan", model, "--to", "64k"], ["evaluate", model, "--to", "64k"], ["serve", model],
                      ["extend", model, "--to", "64k", "-o", str(tmp_path / "out")], ["check-export", model],
                      ["compare", model, "--to", "64k"]):  # fmt: skip
            assert run(words) == 2, words


@pytest.mark.parametrize("name", [*cases.UNSOUND, *cases.SOUND])
def test_a_printed_mend_mends(name, tmp_path):
    """Each mend ends its own problem; followed to the end they make a sound file that can be read."""
    raw = cases.UNSOUND[name][2] if name in cases.UNSOUND else cases.SOUND[name]
    model = cases.write(tmp_path, raw)
    for _ in range(5):
        found = inspect(model)
        commands = [(one, one.mend.split("   (")[0]) for one in found.problems]
        assert all(command != f"ropewalk inspect {model}" for _, command in commands)
        commands = [(one, shlex.split(command)[1:]) for one, command in commands if command.startswith("ropewalk ")]
        if not commands:
            break
        problem, words = commands[0]
        assert run(words) in (0, 1)
        assert (problem.code, problem.key) not in {(one.code, one.key) for one in inspect(model).problems}
    by_hand = name in ("no near name", "heads that do not divide")
    assert found.sound != by_hand
    if not by_hand:
        scaled = str(raw.get("rope_scaling", raw.get("rope_parameters")))
        assert (
            {spec.rope_type for spec in found.specs.values()} != {"default"}
            or "'factor'" not in scaled
            or "'alpha'" in scaled
            or name == "DeepSeek-V4"
        )
