"""Keys beside the rope: understood, harmless, or refused; and one reading of who sees how far, for all who ask."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from ropewalk import UserError
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf.dequantised import FAMILIES
from ropewalk.checkpoint.gguf.hyperparameters import OWN
from ropewalk.checkpoint.gguf_inspection import inspect_gguf
from ropewalk.checkpoint.inspection import layer_types
from ropewalk.cli.main import run
from ropewalk.rope.config import text_config
from tests.checkpoint.gguf.files_of_gguf import written
from tests.checkpoint.gguf.test_dequantised import FAMILIES as MADE
from tests.checkpoint.gguf.test_dequantised import same_logits
from tests.engines.gguf.checkpoints import foreign
from tests.models import tiny

FULL_ONLY = ["llama", "qwen2", "qwen3", "gemma", "phi3"]


def made(path: Path, family: str, keys: dict, **config) -> Path:
    more, own = MADE[family]
    return written(path / "m.gguf", tiny(family, **{**more, **config}), own | keys)


def refused(path: Path) -> str:
    """How it is refused; and ``inspect`` shows the same."""
    with pytest.raises(UserError) as refusal:
        Checkpoint.open(path).load(device="cpu")
    [found] = inspect_gguf(path).problems
    assert refusal.value.message == f"{found.code}: {found.key} is {found.seen!r}, expected {found.expected}"
    assert (found.code, refusal.value.mend) == ("key-not-understood", found.mend)
    return f"{found.key} is {found.seen!r}, expected {found.expected}; {found.mend}"


def test_every_architecture_that_is_opened_has_its_keys():
    assert set(OWN) == set(FAMILIES)


@pytest.mark.parametrize("family", FULL_ONLY)
def test_a_window_that_llama_cpp_passes_over_is_refused_and_mended(family, tmp_path):
    """It computes full attention in these architectures; whoever wrote the key meant something else."""
    path = made(tmp_path, family, {"attention.sliding_window": 32})
    said = refused(path)
    assert f"{family}.attention.sliding_window is 32, expected 0, or 64 at least: llama.cpp passes over" in said
    words = shlex.split(inspect_gguf(path).problems[0].mend.partition("   (")[0])
    assert run(words[1:]) == 0
    mended = Checkpoint.open(words[-1])
    assert inspect_gguf(Path(words[-1])).layers == layer_types(text_config(mended.config)) == {"full_attention": 2}
    assert getattr(mended.config, "sliding_window", None) is None
    assert same_logits(mended.load(device="cpu"), tiny(family, **MADE[family][0]))


# key -> a value that would be another computation
OTHER = {
    "attention.scale": 0.5,
    "logit_scale": 0.25,
    "attention.clamp_kqv": 8.0,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "residual_scale": 0.25,
    "embedding_scale": 12.0,
    "expert_count": 4,
    "attention.causal": False,
    "pooling_type": 3,
    "attention.value_length": 8,
    "attention.max_alibi_bias": 8.0,
    "use_parallel_residual": True,
    "nextn_predict_layers": 1,
    "rope.scaling.alpha": 1000.0,
    "rope.scaling.yarn_log_multiplier": 0.125,
    "rope.dimension_count_swa": 8,
    "rope.freq_base_swa": 1e6,
    "rope.dimension_sections": [2, 3, 3, 0],
    "tensor_data_layout": "reversed",
    "a_key_of_next_year": 1,
}
# key -> a value that says what is computed anyway; the tiny models have 4 heads of 16 dimensions
SAME = {
    "attention.scale": 0.25,
    "logit_scale": 1.0,
    "attention.clamp_kqv": 0.0,
    "final_logit_softcapping": 0.0,
    "residual_scale": 1.0,
    "embedding_scale": 0.0,
    "expert_count": 0,
    "expert_used_count": 0,
    "attention.causal": True,
    "pooling_type": 0,
    "attention.value_length": 16,
    "use_parallel_residual": False,
    "vocab_size": 97,
    "rope.scaling.finetuned": True,
    "rope.freq_base_swa": 10000.0,
    "attention.sliding_window": 64,
    "attention.sliding_window_pattern": 2,
    "tensor_data_layout": "Meta AI original pth",
}


@pytest.mark.parametrize("key", OTHER)
def test_a_key_of_another_computation_is_refused_by_name_and_value(key, tmp_path):
    said = refused(made(tmp_path, "llama", {key: OTHER[key]}))
    assert f"llama.{key} is {OTHER[key]!r}, expected" in said


@pytest.mark.parametrize("family", ["qwen2", "gemma2", "gemma3"])
def test_what_one_architecture_reads_another_does_not(family, tmp_path):
    reads = {"qwen2": (), "gemma2": ("attn_logit_softcapping", "final_logit_softcapping"),
             "gemma3": ("final_logit_softcapping",)}[family]  # fmt: skip
    for key in ("attn_logit_softcapping", "final_logit_softcapping"):
        path = made(tmp_path, family, {key: 20.0})
        if key in reads:
            assert getattr(Checkpoint.open(path).config, key) == 20.0
        else:
            assert f"{family}.{key} is 20.0, expected 0: llama.cpp passes over" in refused(path)


def test_keys_that_say_what_is_computed_anyway_are_no_alarm(tmp_path):
    path = made(tmp_path, "llama", SAME)
    assert inspect_gguf(path).problems == []
    assert same_logits(Checkpoint.open(path).load(device="cpu"), tiny("llama"))


def test_other_architectures_keep_their_keys_to_themselves(tmp_path):
    """Files that are only inspected may hold what their own loader reads."""
    keys = {"logit_scale": 0.0625, "attention.sliding_window": 16}
    found = inspect_gguf(foreign(tmp_path / "m.gguf", "cohere2", keys))
    assert found.problems == [] and found.layers == {"full or sliding": 2} and found.kv_bytes_per_token is None


CASES = {
    "gemma2": ("gemma2", {}),
    "gemma2, without a window": ("gemma2", {"attention.sliding_window": None}),
    "gemma3": ("gemma3", {}),
    "gemma3, without a window": ("gemma3", {"attention.sliding_window": None}),
    "gemma3, window 0": ("gemma3", {"attention.sliding_window": 0}),
    "gemma3, every second": ("gemma3", {"attention.sliding_window_pattern": 2}),
    "gemma3, none in so many": ("gemma3", {"attention.sliding_window_pattern": 1}),
    "gemma3, all": ("gemma3", {"attention.sliding_window_pattern": 0}),
    "gemma3, a list": ("gemma3", {"attention.sliding_window_pattern": [True, False, False, True, False, False]}),
    **{family: (family, {}) for family in FULL_ONLY},
}


@pytest.mark.parametrize("case", CASES)
def test_inspection_and_model_agree_on_every_layer(case, tmp_path):
    family, keys = CASES[case]
    path = made(tmp_path, family, keys)
    config, found = Checkpoint.open(path).config, inspect_gguf(path)
    assert found.layers == layer_types(text_config(config)) and found.problems == []
    sliding, full = found.layers.get("sliding_attention", 0), found.layers.get("full_attention", 0)
    heads, head_dim = config.num_key_value_heads, getattr(config, "head_dim", None) or 16
    assert found.kv_bytes_per_token == full * 2 * heads * head_dim * 2
    if "without" in case and family == "gemma2":
        assert config.sliding_window == 4096
    elif sliding:
        assert config.sliding_window == 16
    opened = Checkpoint.open(path)
    opened.load(device="cpu")
    live = opened.specs
    for kind, spec in found.specs.items():
        same = live.get(kind) or next(iter(live.values()))
        assert (spec.base, spec.length) == (same.base, same.length)
        assert spec.inv_freq.tolist() == pytest.approx(same.inv_freq.tolist(), rel=1e-6)


def test_a_gemma_without_a_window_sees_the_whole_text(tmp_path):
    path = made(tmp_path, "gemma3", {"attention.sliding_window": 0})
    live = Checkpoint.open(path).load(device="cpu")
    assert same_logits(live, tiny("gemma3", num_hidden_layers=6, layer_types=["full_attention"] * 6))
    assert not same_logits(live, tiny("gemma3", **MADE["gemma3"][0]))


def test_the_sliding_rope_of_a_scaled_gemma_is_shown(tmp_path):
    scaled = {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "context_length": 512}
    specs = inspect_gguf(made(tmp_path, "gemma3", scaled)).specs
    assert specs["full_attention"].rope_type == "linear"
    assert specs["full_attention"].factors == pytest.approx([8.0] * 8)
    assert (specs["sliding_attention"].rope_type, set(specs["sliding_attention"].factors)) == ("default", {1.0})
    assert (specs["full_attention"].base, specs["sliding_attention"].base) == (1e6, 1e4)


@pytest.mark.parametrize(
    ("family", "keys", "said"),
    [
        ("gemma2", {"attention.sliding_window": 0}, "sliding_window' is 0, expected a whole number above 0"),
        ("gemma3", {"attention.sliding_window_pattern": [True, False]}, "has 2 entries, expected 6"),
        (
            "gemma3",
            {"attention.sliding_window": 16.5},
            r"sliding_window' is 16\.5, expected a whole number, 0",
        ),
        ("gemma2", {"attn_logit_softcapping": 0.0}, "attn_logit_softcapping' is 0; llama.cpp divides by it"),
    ],
)
def test_windows_that_cannot_be_are_named(family, keys, said, tmp_path):
    with pytest.raises(UserError, match=said):
        _ = Checkpoint.open(made(tmp_path, family, keys)).config


def test_no_cap_is_no_cap(tmp_path):
    """0 stands for none in llama.cpp; transformers would divide by it."""
    path = made(tmp_path, "gemma2", {"final_logit_softcapping": 0.0})
    assert Checkpoint.open(path).config.final_logit_softcapping is None


def test_what_cannot_be_read_is_not_called_sound(tmp_path, capsys):
    keys = {"rope.scaling.type": "dynamic", "rope.scaling.factor": 4.0}
    path = made(tmp_path, "llama", keys)
    assert run(["inspect", str(path)]) == 1
    out = capsys.readouterr().out
    assert "cannot be read" in out and "no problems found" not in out and "scaling-type-unknown" in out
    assert run(["inspect", str(path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["problems"][0]["seen"] == "dynamic"
    with pytest.raises(UserError, match=r"scaling-type-unknown: llama\.rope\.scaling\.type is 'dynamic'"):
        Checkpoint.open(path)


def test_only_keys_that_are_passed_over_can_be_removed(tmp_path, capsys):
    path = made(tmp_path, "llama", {"attention.causal": False, "logit_scale": 0.5})
    for assignment in ("llama.attention.causal=null", "llama.logit_scale=1", "llama.block_count=null"):
        assert run(["inspect", str(path), "--set", assignment, "--patch", str(tmp_path / "out.gguf")]) == 2
        assert "is no rope key" in capsys.readouterr().err
