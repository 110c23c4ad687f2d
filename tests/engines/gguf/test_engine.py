"""Real llama.cpp on files from here: log-probabilities and token ids are those of transformers.

Needs ``ROPEWALK_LLAMA_CPP``: an environment with llama-cpp-python built from source (``make engines`` makes one), or
its Python.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

pytest.importorskip("gguf")

import ropewalk
from bench.engines import ALLOWED, ask_llama_cpp, by_llama_cpp, reference
from ropewalk import method
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf.from_gguf import read
from ropewalk.checkpoint.write import extend
from ropewalk.engines.gguf import quantise
from ropewalk.engines.gguf.patch import patch_gguf, set_keys
from ropewalk.engines.gguf.to_gguf import write_gguf
from tests.checkpoint.gguf.test_sentencepiece import EDGES, KINDS
from tests.checkpoint.gguf.test_sentencepiece import TEXTS as PIECES
from tests.engines.gguf.checkpoints import checkpoint
from tests.engines.gguf.test_to_gguf import SIX

VENV = os.environ.get("ROPEWALK_LLAMA_CPP", "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not VENV, reason="ROPEWALK_LLAMA_CPP names no environment")]
N = 2048
BOUND = ALLOWED["llama.cpp"]
METHODS = ["pi", "yarn", "yarn(attention_factor=1.3)", "yarn(truncate=False)", "ntk-aware", "llama3", "resonance+yarn",
           "giraffe(basis='truncated')"]  # fmt: skip
TEXTS = [
    "Hello  world 1234, ５６ and ½: naïve 日本語 Ελληνικά العربية\n\n\t x=  3;\r\n don't WE'LL 'S   end   ",
    "🙂👍🏽 \u00a0\u200b\u2028 ü \x00\x07 \ufffd <s></s> <pad> <|endoftext|> a\n \n  b\t\t\r\n\r\nc",
    Path(ropewalk.__file__).read_text("utf-8"),
]


@cache
def prose():
    """Tokens of this package's own sources."""
    files = sorted(Path(ropewalk.__file__).parent.rglob("*.py"))
    text = "".join(file.read_text("utf-8") for file in files)
    folder = Path(ropewalk.__file__).parent / "demo" / "model"
    return AutoTokenizer.from_pretrained(folder).encode(text[: 6 * N])[:N]


def largest_difference(path, folder, ids, **parameters):
    found, _ = by_llama_cpp(Path(VENV), path, ids, **parameters)
    return float((found - reference(folder, ids)).abs().max())


@pytest.mark.parametrize("spelling", METHODS)
def test_the_bundled_model_extended_computes_the_same(spelling, tmp_path):
    folder = extend("demo", N, method(spelling), tmp_path / "model").folder
    path = write_gguf(folder, tmp_path / "m.gguf", "F32").path
    assert largest_difference(path, folder, prose()) <= BOUND
    assert ask_llama_cpp(Path(VENV), path)["context_trained"] == N


def test_the_plain_model_computes_the_same_inside_its_window(tmp_path):
    path = write_gguf("demo", tmp_path / "m.gguf", "F32").path
    assert largest_difference(path, Path(ropewalk.__file__).parent / "demo" / "model", prose()[:512]) <= BOUND


@pytest.mark.parametrize("left_out", ["rope_freqs", "rope.scaling.attn_factor"])
def test_without_either_entry_the_difference_is_large(left_out, tmp_path):
    folder = extend("demo", N, method("resonance+yarn"), tmp_path / "model").folder
    path = write_gguf(folder, tmp_path / "m.gguf", "F32").path
    out = tmp_path / "without.gguf"
    if left_out == "rope_freqs":
        patch_gguf(path, "demo", out)
    else:
        set_keys(path, (f"{left_out}=null",), out)
    assert largest_difference(out, folder, prose()) > 100 * BOUND


@pytest.mark.parametrize("spelling", ["pi", "yarn"])
def test_native_keys_mean_what_they_are_read_as(spelling, tmp_path):
    folder = extend("demo", N, method(spelling), tmp_path / "model").folder
    plain = write_gguf("demo", tmp_path / "m.gguf", "F32").path
    kind = {"pi": "linear", "yarn": "yarn"}[spelling]
    keys = (f"rope.scaling.type={kind}", "rope.scaling.factor=4", "rope.scaling.original_context_length=512")
    set_keys(plain, (*keys, f"context_length={N}"), tmp_path / "native.gguf")
    assert largest_difference(tmp_path / "native.gguf", folder, prose()) <= BOUND


def test_yarn_by_flags_alone_is_yarn(tmp_path):
    folder = extend("demo", N, method("yarn"), tmp_path / "model").folder
    path = write_gguf("demo", tmp_path / "m.gguf", "F32").path
    flags = {"rope_scaling_type": 2, "rope_freq_scale": 0.25, "yarn_orig_ctx": 512}
    assert largest_difference(path, folder, prose(), **flags) <= BOUND
    assert largest_difference(path, folder, prose(), **flags | {"rope_freq_scale": 4.0}) > 100 * BOUND


@pytest.mark.parametrize(
    ("family", "more"),
    [("qwen2", {}), ("mistral", {"sliding_window": None}), ("llama", {"attention_bias": True, "mlp_bias": True})],
)
def test_biases_and_grouped_heads_arrive_where_they_belong(family, more, tmp_path):
    folder = checkpoint(tmp_path, family, "resonance+yarn", **more)
    path = write_gguf(folder, tmp_path / "m.gguf", "F32").path
    ids = torch.randint(3, 600, (Checkpoint.open(folder).rope.length,), generator=torch.Generator().manual_seed(0))
    assert largest_difference(path, folder, ids.tolist()) <= BOUND


@pytest.mark.parametrize("spelling", [None, "yarn", "pi"])
@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3", "qwen3", "phi3"])
def test_other_families_compute_the_same(family, spelling, tmp_path):
    """Over texts that are longer than a sliding window."""
    more = dict(SIX if family == "gemma3" else {"sliding_window": None} if family == "phi3" else {})
    folder = checkpoint(tmp_path, family, spelling, tie_word_embeddings=family != "phi3", **more)
    path = write_gguf(folder, tmp_path / "m.gguf", "F32").path
    ids = torch.randint(3, 600, (Checkpoint.open(folder).rope.length,), generator=torch.Generator().manual_seed(0))
    assert largest_difference(path, folder, ids.tolist()) <= BOUND
    if spelling and family != "phi3":
        set_keys(path, (f"{read(path).architecture}.rope.scaling.factor=2",), tmp_path / "other.gguf")
        assert largest_difference(tmp_path / "other.gguf", folder, ids.tolist()) > 10 * BOUND


@pytest.mark.parametrize("kind", KINDS)
def test_sentencepiece_ids_are_those_of_transformers(kind, tmp_path):
    make, _, n_notes = KINDS[kind]
    folder = checkpoint(tmp_path, {"gemma": "gemma", "llama": "llama"}.get(kind, "phi3"), tokenizer=make())
    written = write_gguf(folder, tmp_path / "m.gguf", "F16")
    live, back = AutoTokenizer.from_pretrained(folder), Checkpoint.open(written.path).tokenizer()
    texts = [*PIECES, *TEXTS, *EDGES]
    for text, ids in zip(texts, ask_llama_cpp(Path(VENV), written.path, texts=texts)["tokens"], strict=True):
        assert ids == back.encode(text, add_special_tokens=False), text
        if not n_notes or text in PIECES:
            assert ids == live.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize(("dtype", "bound"), [("Q6_K", 0.5), ("Q5_K_M", 0.7), ("Q4_K_M", 1.2)])
@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_quantisers_types_are_read_by_llama_cpp_and_here(family, dtype, bound, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise.sys, "executable", str(Path(VENV) / "bin" / "python"))
    monkeypatch.setattr(quantise, "find_spec", lambda _: True)
    monkeypatch.setattr(quantise.shutil, "which", lambda _: None)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    wide = {"hidden_size": 256, "intermediate_size": 512, "tie_word_embeddings": True}
    folder = checkpoint(tmp_path, family, "yarn", "bfloat16", **wide, **(SIX if family == "gemma3" else {}))
    done = write_gguf(folder, tmp_path / "m.gguf", dtype)
    assert done.n_bytes < write_gguf(folder, tmp_path / "whole.gguf", "BF16").n_bytes / 1.8
    ids = torch.randint(3, 600, (256,), generator=torch.Generator().manual_seed(0)).tolist()
    dequantised = Checkpoint.open(done.path).load("float32", "cpu")
    with torch.no_grad():
        scores = dequantised(torch.tensor([ids])).logits[0, :-1].double().log_softmax(-1)
    ours = scores.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
    found = torch.tensor(ask_llama_cpp(Path(VENV), done.path, [ids])["logprobs"][0])
    lost = (ours - reference(folder, ids)).abs().mean()
    assert lost < bound
    assert (found - ours).abs().mean() < 0.6 * lost  # llama.cpp rounds activations to eight bits besides


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_token_ids_are_those_of_transformers(family, tmp_path):
    folder = extend("demo", N, method("yarn"), tmp_path / "model").folder
    folder = folder if family == "llama" else checkpoint(tmp_path / "qwen2", "qwen2")
    path = write_gguf(folder, tmp_path / "m.gguf", "F16").path
    live = AutoTokenizer.from_pretrained(folder)
    for text, ids in zip(TEXTS, ask_llama_cpp(Path(VENV), path, texts=TEXTS)["tokens"], strict=True):
        assert ids == live.encode(text, add_special_tokens=False)


@pytest.mark.parametrize(("dtype", "bound"), [("F16", 0.05), ("BF16", 0.5), ("Q8_0", 0.5)])
def test_smaller_types_stay_near(dtype, bound, tmp_path):
    folder = extend("demo", N, method("yarn"), tmp_path / "model").folder
    assert largest_difference(write_gguf(folder, tmp_path / "m.gguf", dtype).path, folder, prose()) <= bound
