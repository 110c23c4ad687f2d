"""A GGUF file opened is the model that it was made from: same logits, same rope as llama.cpp's, or a refusal."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch

from ropewalk import UserError, method
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf.dequantised import halves
from ropewalk.checkpoint.gguf.from_gguf import read
from ropewalk.checkpoint.write import extend
from ropewalk.cli.main import run
from ropewalk.engines.gguf.to_gguf import neighbours, write_gguf
from tests.checkpoint.gguf.files_of_gguf import written
from tests.engines.gguf.checkpoints import TARGET, checkpoint
from tests.models import VOCABULARY, tiny

SIX = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
THETA = {"rope_type": "default", "rope_theta": 10000.0}
# family -> what its configuration has besides; what llama.cpp's converter writes besides
FAMILIES = {
    "llama": ({}, {}),
    "qwen2": ({"rope_parameters": THETA}, {}),
    "qwen3": ({"head_dim": 32, "rope_parameters": THETA}, {}),
    "mistral": ({"sliding_window": None}, {}),
    "gemma": ({}, {}),
    "gemma2": ({}, {"attention.sliding_window": 16, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}),
    "gemma3": (SIX, {"attention.sliding_window": 16, "rope.freq_base": 1e6, "rope.freq_base_swa": 10000.0}),
    "phi3": ({}, {"rope.dimension_count": 12, "attention.sliding_window": 64}),
}
IDS = torch.randint(3, VOCABULARY, (1, 56), generator=torch.Generator().manual_seed(0))


def same_logits(one, other, atol=2e-5):
    with torch.no_grad():
        return torch.allclose(one(IDS).logits, other(IDS).logits, atol=atol)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_of_the_file_is_the_source(family, tied, tmp_path):
    more, keys = FAMILIES[family]
    if not tied and family in ("gemma", "gemma2"):
        pytest.skip("llama.cpp has no output matrix for it")
    model = tiny(family, **more, tie_word_embeddings=tied)
    opened = Checkpoint.open(written(tmp_path / "m.gguf", model, keys))
    live = opened.load(device="cpu")
    live.set_attn_implementation("eager")  # sdpa does not cap logits in every version
    assert (opened.window, opened.promised, live.dtype) == (64, 64, torch.float32)
    assert same_logits(live, model)
    file = read(tmp_path / "m.gguf")
    for spec in opened.specs.values():
        assert torch.allclose(spec.inv_freq, file.reading(sliding=spec.sliding).inv_freq, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_counts(family, tmp_path):
    """A tensor too few or too many is refused: nothing is filled in, nothing is passed over."""
    more, keys = FAMILIES[family]
    model = tiny(family, **more, tie_word_embeddings=True)
    stored = list(read(written(tmp_path / "all.gguf", model, keys)).header.tensors)
    for name in (stored[1], stored[len(stored) // 2], stored[-1]):
        path = written(tmp_path / "less.gguf", model, keys, leave=name)
        with pytest.raises(UserError, match=f"lacks the tensor '{name}'"):
            Checkpoint.open(path).load(device="cpu")
    path = written(tmp_path / "more.gguf", model, keys, {"blk.0.attn_sinks": [1.0]})
    with pytest.raises(UserError, match=r"has no place .* the tensor 'blk.0.attn_sinks.weight'"):
        Checkpoint.open(path).load(device="cpu")


FACTORS = np.linspace(1.0, 6.0, 8)
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64,
        "context_length": 256}  # fmt: skip
ROPES = {
    "linear": ({"rope.scaling.type": "linear", "rope.scaling.factor": 4.0, "context_length": 256}, {}, "linear", 64),
    "yarn": (YARN, {}, "yarn", 64),
    "yarn with a factor": ({**YARN, "rope.scaling.attn_factor": 1.2}, {}, "yarn", 64),
    "factors": ({"context_length": 256}, {"rope_freqs": FACTORS}, "longrope", 256),
    "factors and an attention factor": (
        {"context_length": 256, "rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": 1.3},
        {"rope_freqs": FACTORS}, "longrope", 64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROPES)
def test_scaling_is_that_of_llama_cpp(name, tmp_path):
    keys, factors, kind, window = ROPES[name]
    opened = Checkpoint.open(written(tmp_path / "m.gguf", tiny("llama"), keys, factors))
    spec, want = opened.specs["all"], read(tmp_path / "m.gguf").reading()
    assert (spec.rope_type, spec.window, opened.promised) == (kind, window, 256)
    assert torch.allclose(spec.inv_freq, want.inv_freq, rtol=1e-5)
    assert spec.attention_factor == pytest.approx(want.attention_factor, rel=1e-6)
    assert spec.attention_factor != 1 or not spec.is_plain
    assert not same_logits(opened.load(device="cpu"), tiny("llama"))


def test_gemmas_linear_scaling_leaves_the_sliding_layers(tmp_path):
    more, keys = FAMILIES["gemma3"]
    scaled = keys | {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "context_length": 512}
    specs = Checkpoint.open(written(tmp_path / "m.gguf", tiny("gemma3", **more), scaled)).specs
    assert set(specs["full_attention"].factors) == {8.0} and specs["full_attention"].window == 64
    assert set(specs["sliding_attention"].factors) == {1.0} and specs["sliding_attention"].base == 10000.0


def test_phi3_switches_between_its_two_sets(tmp_path):
    keys = FAMILIES["phi3"][1] | {
        "attention.sliding_window": 256, "context_length": 256,
        "rope.scaling.original_context_length": 64, "rope.scaling.attn_factor": 1.19,
    }  # fmt: skip
    short, long = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1.0, 1.5, 2.0, 3.0, 4.0, 5.0]
    factors = {"rope_factors_short": short, "rope_factors_long": long}
    opened = Checkpoint.open(written(tmp_path / "m.gguf", tiny("phi3"), keys, factors))
    spec = opened.specs["all"]
    assert spec.factors == pytest.approx(short) and spec.long_factors == pytest.approx(long)
    assert (spec.window, opened.promised, spec.attention_factor) == (64, 256, pytest.approx(1.19))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"rope.scaling.factor": 4.0, "context_length": 256}, "scaling-type-missing"),
        ({"rope.scaling.type": "longrope", "context_length": 256}, "factors-missing"),
        ({**YARN, "context_length": 512}, "length-contradicts-factor"),
        ({"rope.scaling.type": "yarn"}, "factor-invalid: llama.rope.scaling.factor is None"),
        ({"attention.head_count": 6}, r"head_count is 6, expected a divisor of embedding_length 64|4 heads of"),
        ({"attention.head_count_kv": 3}, "head_count_kv is 3, expected a divisor of head_count 4"),
        ({"attention.head_count": 8}, "head_count is 8, expected 4 heads of 16"),
        ({"block_count": 3}, "block_count is 3, expected 2, as tensors have"),
        ({"rope.dimension_count": 8}, "8 of 16 dimensions rotate"),
        ({"feed_forward_length": None}, "feed_forward_length' is missing"),
        (
            {"attention.head_count_kv": [2, 1]},
            r"llama\.attention\.head_count_kv is \[2, 1\], expected one value for all layers",
        ),
        ({"rope.freq_base": [1e4, 1e6]}, r"llama\.rope\.freq_base is .* expected one value for all layers"),
    ],
)
def test_doubtful_files_are_refused_with_the_reason(keys, message, tmp_path):
    path = written(tmp_path / "m.gguf", tiny("llama"), keys)
    with pytest.raises(UserError, match=message):
        Checkpoint.open(path).load(device="cpu")


def test_other_architectures_are_refused(tmp_path):
    model = tiny("llama")
    model.config.model_type = "olmo2"
    with pytest.raises(UserError, match="architecture 'olmo2'; a GGUF is opened for llama, qwen2"):
        _ = Checkpoint.open(written(tmp_path / "m.gguf", model)).config


def test_a_record_that_lies_beside_is_not_the_files(tmp_path):
    path = written(tmp_path / "m.gguf", tiny("llama"))
    method("yarn").write(model := tiny("llama").config, 256)
    model.save_pretrained(tmp_path)
    opened = Checkpoint.open(path)
    assert (opened.record, opened.window) == (None, 64)


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_by_our_own_writer(family, tmp_path):
    """Weights, tokenizer and rope of an extended model survive the trip through our GGUF, and its extension."""
    tied = {"tie_word_embeddings": True} if family in ("gemma", "gemma2") else {}
    spelling = "resonance+yarn" if family in ("llama", "qwen2", "mistral", "phi3") else "yarn"
    window = {"sliding_window": None} if family == "phi3" else {}
    folder = checkpoint(tmp_path, family, spelling, **FAMILIES[family][0], **tied, **window)
    file = write_gguf(folder, tmp_path / "m.gguf", "F32").path
    source, opened = Checkpoint.open(folder), Checkpoint.open(file)
    assert opened.config.model_type == {"mistral": "llama", "gemma3": "gemma3_text"}.get(family, family)
    assert same_logits(source.load(device="cpu"), opened.load(device="cpu"), 1e-4)
    assert (opened.window, opened.promised) == (source.window, source.promised) == (64, TARGET)
    assert opened.record == source.record and opened.record["method"] == spelling
    text = "It is 1984 in Oslo;  and  <s> naïve 日本\n\n"
    want, made = source.tokenizer(), opened.tokenizer()
    assert made(text).input_ids == want(text).input_ids
    assert made.decode(made(text).input_ids) == want.decode(want(text).input_ids)
    assert (made.bos_token_id, made.eos_token_id, made.pad_token_id) == (
        want.bos_token_id, want.eos_token_id, want.pad_token_id)  # fmt: skip


def test_extended_to_a_folder_it_loads_and_has_the_longer_window(tmp_path, capsys):
    source = checkpoint(tmp_path)
    path = write_gguf(source, tmp_path / "m.gguf", "Q8_0").path
    done = extend(path, TARGET, method("yarn"), tmp_path / "out")
    assert "MiB of Q8_0 became" in done.notes[0] and "bfloat16" in done.notes[0]
    again, opened = Checkpoint.open(done.folder), Checkpoint.open(path)
    assert (again.window, again.promised) == (64, TARGET)
    live, want = again.load("float32", "cpu"), opened.load("bfloat16", "cpu").float()
    with method("yarn").on(want, TARGET):
        assert same_logits(live, want)
    assert again.tokenizer()("Oslo 12").input_ids == opened.tokenizer()("Oslo 12").input_ids
    for line in (["inspect", str(path)], ["plan", str(path), "--to", "256"]):
        assert run(line) == 0
    assert "256" in capsys.readouterr().out


def test_a_chat_template_comes_along(tmp_path):
    source = checkpoint(tmp_path)
    tokenizer = Checkpoint.open(source).tokenizer()
    tokenizer.chat_template = "{{ messages[0].content }}!"
    tokenizer.save_pretrained(source)
    made = Checkpoint.open(write_gguf(source, tmp_path / "m.gguf", "F32").path).tokenizer()
    assert made.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "hi!"


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1", "Q6_K", "Q4_K"])
def test_block_types_are_what_the_gguf_library_reads(kind, tmp_path):
    """Blocks of every common type come out as the library's own reader and dequantisation give them."""
    from ropewalk.checkpoint.gguf.dequantised import _values

    kinds = gguf.GGMLQuantizationType
    block, size = gguf.GGML_QUANT_SIZES[kinds[kind]]
    raw = np.random.default_rng(0).integers(0, 60, (3, 512 // block * size), dtype=np.uint8)
    data = raw.view(np.float16) if kind == "F16" else raw
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    for key, value in {"context_length": 64, "embedding_length": 64, "attention.head_count": 4}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_tensor("t.weight", data, raw_dtype=kinds[kind])
    for finish in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        finish()
    writer.close()
    file, [tensor] = read(tmp_path / "m.gguf"), gguf.GGUFReader(tmp_path / "m.gguf").tensors
    values = _values(file, file.header.tensors["t.weight"])
    assert values.shape == (3, 512)
    assert np.array_equal(values, gguf.dequantize(tensor.data, tensor.tensor_type))


def test_halves_undo_neighbours():
    values = np.random.default_rng(0).normal(size=(48, 5))
    assert np.array_equal(halves(neighbours(values, 3), 3), values)
    assert halves(values, 0) is values
