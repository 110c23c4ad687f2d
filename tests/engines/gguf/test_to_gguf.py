"""Checkpoint -> GGUF: the rope that is read back, the weights bit by bit, and what is refused."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

pytest.importorskip("gguf")

import gguf
from safetensors.torch import load_file, save_file

from ropewalk import UserError
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf import llama_rope
from ropewalk.checkpoint.gguf.from_gguf import read
from ropewalk.checkpoint.gguf.rope_keys import entries, nearest
from ropewalk.cli.main import run
from ropewalk.engines.gguf.to_gguf import neighbours, write_gguf
from ropewalk.rope.spec import RopeSpec
from tests.checkpoint.gguf.files_of_gguf import written as by_hand
from tests.engines.gguf.checkpoints import TARGET, checkpoint, configuration, edit
from tests.tokenizers import byte_level

METHODS = ["none", "pi", "yarn", "yarn(attention_factor=1.3)", "yarn(truncate=False)", "ntk-aware", "llama3",
           "resonance+yarn", "giraffe(basis='truncated')", "ntk-by-parts"]  # fmt: skip


def tensors(path):
    """Name -> float32 values in the shape that torch has."""
    return {
        t.name: gguf.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in gguf.GGUFReader(path).tensors
    }


def halves(rows, heads):
    """Rows of each head as transformers orders them, written out index by index."""
    d = rows.shape[0] // heads
    order = [h * d + (2 * i if i < d // 2 else 2 * (i - d // 2) + 1) for h in range(heads) for i in range(d)]
    return rows[order]


@pytest.mark.parametrize("spelling", METHODS)
def test_the_rope_read_back_is_the_checkpoints(spelling, tmp_path):
    folder = checkpoint(tmp_path, spelling=spelling)
    want = Checkpoint.open(folder).rope
    written = write_gguf(folder, tmp_path / "m.gguf", "F16")
    seen = read(written.path).spec()
    for name in ("rotary_dim", "head_dim", "window", "length", "kv_heads"):
        assert getattr(seen, name) == getattr(want, name)
    assert seen.base == pytest.approx(want.base, rel=1e-7)
    assert seen.attention_factor == pytest.approx(want.attention_factor, rel=1e-7)
    assert seen.inv_freq.tolist() == pytest.approx(want.inv_freq.tolist(), rel=3e-7)
    assert written.launch.endswith(f"-c {TARGET}")


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_float32_weights_are_bit_equal_once_the_rows_are_in_order_again(family, tmp_path):
    more = {"llama": {"attention_bias": True, "mlp_bias": True}, "mistral": {"sliding_window": None}}.get(family, {})
    folder = checkpoint(tmp_path, family, **more)
    found = tensors(write_gguf(folder, tmp_path / "m.gguf", "F32").path)
    source = load_file(folder / "model.safetensors")
    assert len(found) == len(source)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, tensor in source.items():
        values = found[names.get_name(name, try_suffixes=(".weight", ".bias"))]
        heads = 4 if "q_proj" in name else 2 if "k_proj" in name else 0
        assert np.array_equal(halves(values, heads) if heads else values, tensor.numpy()), name


def test_neighbours_rotated_score_as_halves_rotated():
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2 * 8, generator=generator, dtype=torch.float64).numpy() for _ in range(2))
    w = 1e4 ** (-np.arange(0, 8, 2) / 8)

    def rotate(x, angles, pairs):
        out = x.copy()
        for (i, j), angle in zip(pairs, angles, strict=True):
            out[i], out[j] = x[i] * np.cos(angle) - x[j] * np.sin(angle), x[j] * np.cos(angle) + x[i] * np.sin(angle)
        return out

    for head in range(2):
        rows = slice(8 * head, 8 * head + 8)
        by_halves = [rotate(x[rows], m * w, [(i, i + 4) for i in range(4)]) for x, m in ((q, 9), (k, 2))]
        by_neighbours = [
            rotate(neighbours(x, 2)[rows], m * w, [(2 * i, 2 * i + 1) for i in range(4)]) for x, m in ((q, 9), (k, 2))
        ]
        assert by_halves[0] @ by_halves[1] == pytest.approx(by_neighbours[0] @ by_neighbours[1], abs=1e-12)


def test_bfloat16_weights_stay_as_they_are_and_vectors_are_float32(tmp_path):
    folder = checkpoint(tmp_path, dtype="bfloat16")
    path = write_gguf(folder, tmp_path / "m.gguf", "BF16").path
    source = load_file(folder / "model.safetensors")
    assert np.array_equal(tensors(path)["token_embd.weight"], source["model.embed_tokens.weight"].float().numpy())
    kinds = {t.name: t.tensor_type.name for t in gguf.GGUFReader(path).tensors}
    assert {kinds[n] for n in kinds if "norm" in n} == {"F32"}
    assert kinds["blk.0.ffn_up.weight"] == "BF16"


def test_q8_is_within_half_a_step_of_each_block(tmp_path):
    folder = checkpoint(tmp_path)
    found = tensors(write_gguf(folder, tmp_path / "m.gguf", "Q8_0").path)
    want = load_file(folder / "model.safetensors")["model.layers.1.mlp.down_proj.weight"].numpy()
    blocks, error = want.reshape(-1, 32), (found["blk.1.ffn_down.weight"] - want).reshape(-1, 32)
    largest = np.abs(blocks).max(1, keepdims=True)
    assert (np.abs(error) <= largest * (0.5 / 127 + 2**-11)).all()
    assert np.abs(error).max() > 0


def test_rows_that_fill_no_block_become_float16(tmp_path):
    folder = checkpoint(tmp_path, intermediate_size=90)
    kinds = {
        t.name: t.tensor_type.name for t in gguf.GGUFReader(write_gguf(folder, tmp_path / "m", "Q8_0").path).tensors
    }
    assert (kinds["blk.0.ffn_down.weight"], kinds["blk.0.ffn_up.weight"]) == ("F16", "Q8_0")


def test_a_tied_head_is_not_written_twice(tmp_path):
    folder = checkpoint(tmp_path, tie_word_embeddings=True)
    assert "output.weight" not in tensors(write_gguf(folder, tmp_path / "m.gguf", "F32").path)


def test_several_weight_files_make_one(tmp_path):
    folder = checkpoint(tmp_path)
    whole = write_gguf(folder, tmp_path / "whole.gguf", "F32").path.read_bytes()
    weights = load_file(folder / "model.safetensors")
    parts = {"a.safetensors": dict(list(weights.items())[:7]), "b.safetensors": dict(list(weights.items())[7:])}
    for name, part in parts.items():
        save_file(part, folder / name)
    index = {name: file for file, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (folder / "model.safetensors").unlink()
    assert write_gguf(folder, tmp_path / "parts.gguf", "F32").path.read_bytes() == whole


def test_a_file_that_is_there_is_replaced_only_when_told(tmp_path):
    folder, out = checkpoint(tmp_path), tmp_path / "m.gguf"
    out.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        write_gguf(folder, out)
    with pytest.raises(UserError, match="ropewalk did not write it"):
        write_gguf(folder, out, overwrite=True)
    assert out.read_text() == "mine"
    out.unlink()
    first = write_gguf(folder, out).n_bytes
    with pytest.raises(UserError, match="add --overwrite"):
        write_gguf(folder, out)
    assert write_gguf(folder, out, overwrite=True).n_bytes == out.stat().st_size == first > 1000


def rename(weights):
    weights["model.layers.0.extra.weight"] = weights.pop("model.layers.0.mlp.up_proj.weight")


def drop(weights):
    del weights["model.layers.1.mlp.up_proj.weight"]


def crop(weights):
    weights["model.norm.weight"] = weights["model.norm.weight"][:-1].clone()


def quantise(weights):
    weights["model.norm.weight"] = weights["model.norm.weight"].to(torch.int8)


def enlarge(weights):
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (rename, "extra"),
        (drop, "layers.1.mlp.up_proj"),
        (crop, "model.norm"),
        (quantise, "I8"),
        (enlarge, "up_proj.*65504"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_left(change, named, tmp_path):
    folder = checkpoint(tmp_path)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors")
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match=named):
        write_gguf(folder, tmp_path / "out" / "m.gguf", "F16")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config"),
        ({"model_type": "mistral", "sliding_window": 48}, "sliding_window"),
    ],
)
def test_what_llama_cpp_computes_otherwise_is_refused(keys, named, tmp_path):
    with pytest.raises(UserError, match=named):
        write_gguf(edit(checkpoint(tmp_path), **keys), tmp_path / "m.gguf")


def test_an_unknown_type_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"Q9_0.*F32, F16, BF16, Q8_0.*Q4_K_M"):
        write_gguf(checkpoint(tmp_path), tmp_path / "m.gguf", "Q9_0")


def test_dynamic_and_two_factor_sets_are_refused():
    spec = RopeSpec.plain(1e4, 16, 64, length=256)
    for other in (replace(spec, rope_type="dynamic"), replace(spec, long_factors=(2.0,) * 8, rope_type="longrope")):
        with pytest.raises(UserError, match="one rope for all lengths"):
            entries(other, "llama", "m")


@pytest.mark.parametrize("spelling", ["resonance+yarn", "yarn(truncate=False)", "llama3"])
def test_an_architecture_without_a_slot_is_refused_with_the_nearest_rope_and_its_error(spelling, tmp_path):
    folder = configuration(tmp_path, "qwen3", spelling)
    spec = Checkpoint.open(folder).rope
    with pytest.raises(UserError) as refused:
        write_gguf(folder, tmp_path / "m.gguf")
    native = nearest(spec)
    assert native.method == "yarn" and str(native) in refused.value.message
    assert "--method yarn" in refused.value.mend
    again = Checkpoint.open(configuration(tmp_path / "again", "qwen3", "yarn")).rope
    errors = (again.inv_freq - spec.inv_freq).abs() / again.inv_freq.maximum(spec.inv_freq)
    assert (native.error, native.mean) == pytest.approx((float(errors.max()), float(errors.mean())), rel=1e-3)


SIX = {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
# family -> what its configuration has besides; what llama.cpp's converter writes besides
OTHERS = {
    "gemma": ({"tie_word_embeddings": True}, {}),
    "gemma2": (
        {"tie_word_embeddings": True},
        {"attention.sliding_window": 16, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": (SIX, {"attention.sliding_window": 16, "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4}),
    "qwen3": ({}, {"rope.freq_base": 1e6}),
    "phi3": ({"sliding_window": None}, {"rope.dimension_count": 12}),
}


@pytest.mark.parametrize("family", OTHERS)
def test_other_families_are_written_as_a_hand_spelled_file_has_them(family, tmp_path):
    more, keys = OTHERS[family]
    folder = checkpoint(tmp_path, family, **more)
    ours = read(write_gguf(folder, tmp_path / "ours.gguf", "F32").path)
    other = read(by_hand(tmp_path / "other.gguf", Checkpoint.open(folder).load("float32", "cpu"), keys))
    assert ours.architecture == other.architecture
    assert {key: ours.keys[key] for key in other.keys} == pytest.approx(other.keys)
    more = set(ours.keys) - set(other.keys)
    assert more == {"vocab_size", "attention.value_length"} | ({"rope.dimension_count"} - set(other.keys))
    assert not [key for key in ours.header.lists if not key.startswith("tokenizer.")]
    left, right = tensors(ours.path), tensors(other.path)
    assert left.keys() == right.keys() and all(np.array_equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["sliding_attention", "full_attention"] * 3, [True, False] * 3),
        (["full_attention"] * 6, None),
        (["full_attention"] + ["sliding_attention"] * 5, [False] + [True] * 5),
    ],
)
def test_another_pattern_of_layers_is_said(layers, said, tmp_path):
    folder = checkpoint(tmp_path, "gemma3", num_hidden_layers=6, layer_types=layers)
    path = write_gguf(folder, tmp_path / "m.gguf").path
    header, config = read(path).header, Checkpoint.open(path).config
    assert header.lists.get("gemma3.attention.sliding_window_pattern") == said
    assert ("gemma3.attention.sliding_window" in header.values) == (said is not None)
    assert config.layer_types == layers
    assert said is None or config.sliding_window == 16


@pytest.mark.parametrize(
    ("family", "keys", "named"),
    [
        ("gemma2", {"query_pre_attn_scalar": 24}, "query_pre_attn_scalar"),
        ("gemma2", {"tie_word_embeddings": False}, "tie_word_embeddings"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ("gemma3", {"hidden_activation": "silu"}, "hidden_activation"),
        ("gemma3", {"attn_logit_softcapping": 20.0}, "attn_logit_softcapping"),
        ("gemma", {"hidden_act": "silu"}, "hidden_act"),
        ("qwen3", {"attention_bias": True}, "attention_bias"),
        ("qwen3", {"use_sliding_window": True, "sliding_window": 32}, "sliding_window"),
    ],
)
def test_what_another_architecture_computes_otherwise_is_refused(family, keys, named, tmp_path):
    with pytest.raises(UserError, match=named):
        write_gguf(edit(checkpoint(tmp_path, family, tie_word_embeddings=True), **keys), tmp_path / "m.gguf")


def test_the_text_of_a_model_that_sees_is_written(tmp_path):
    text = checkpoint(tmp_path, "gemma3", "yarn", **SIX, tie_word_embeddings=True)
    whole = transformers.Gemma3Config(
        text_config=Checkpoint.open(text).config.to_dict(),
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                       "image_size": 28, "patch_size": 14},
        image_token_index=5, mm_tokens_per_image=4,
    )  # fmt: skip
    model = transformers.Gemma3ForConditionalGeneration(whole).eval()
    model.model.language_model.load_state_dict(Checkpoint.open(text).load("float32", "cpu").model.state_dict())
    model.lm_head.weight = model.model.language_model.embed_tokens.weight
    model.save_pretrained(tmp_path / "whole")
    byte_level().save_pretrained(tmp_path / "whole")
    ours = tensors(write_gguf(tmp_path / "whole", tmp_path / "whole.gguf", "F32").path)
    alone = tensors(write_gguf(text, tmp_path / "text.gguf", "F32").path)
    assert ours.keys() == alone.keys() and all(np.array_equal(ours[name], alone[name]) for name in ours)


@pytest.mark.parametrize("spelling", ["pi", "yarn", "ntk-aware"])
def test_a_native_rope_of_another_family_goes_through_the_stock_converter_and_a_patch(spelling, tmp_path):
    folder = configuration(tmp_path, "gpt_neox", spelling)
    with pytest.raises(UserError, match=r"llama.cpp has keys of its own") as refused:
        write_gguf(folder, tmp_path / "m.gguf")
    assert "convert_hf_to_gguf.py" in refused.value.mend and "--patch" in refused.value.mend


def test_the_full_attention_layers_decide_what_is_nearest_in_a_mixed_model(tmp_path):
    folder = configuration(tmp_path, "gemma3", "resonance+yarn")
    with pytest.raises(UserError, match=r"'gemma3'.*nearest rope that it has is yarn, with frequencies off by"):
        write_gguf(folder, tmp_path / "m.gguf")


def test_yarn_is_recognised_in_flat_factors_that_do_not_say_the_window():
    yarn = llama_rope.read({"context_length": 256, "rope.dimension_count": 16, "rope.scaling.type": "yarn",
                           "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64})  # fmt: skip
    flat = RopeSpec.plain(1e4, 16, 256, attention_factor=1.3)
    native = nearest(replace(flat, factors=tuple((flat.base_inv_freq / yarn.inv_freq).tolist())))
    assert native.method == "yarn" and native.error < 1e-12
    assert native.keys["rope.scaling.attn_factor"] == pytest.approx(1.3 / (0.1 * math.log(4) + 1))


def test_a_removed_frequency_is_off_by_all_of_it(tmp_path):
    spec = RopeSpec.plain(1e4, 16, 64, length=256)
    native = nearest(replace(spec, factors=(1.0,) * 7 + (1e30,)))
    assert (native.method, native.error, native.mean) == ("none", pytest.approx(1.0), pytest.approx(1 / 8))


def test_the_export_verb_writes_an_extended_checkpoint(tmp_path, capsys):
    folder, out = checkpoint(tmp_path, spelling="yarn"), tmp_path / "m.gguf"
    run(["export", str(folder), "--engine", "llama.cpp", "--gguf", str(out), "--dtype", "F32", "--json"])
    assert json.loads(capsys.readouterr().out)["path"] == str(out)
    assert read(out).spec().attention_factor == pytest.approx(0.1 * math.log(4) + 1)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("--engine vllm", "Say --engine llama.cpp."),
        (
            "--engine llama.cpp --to 256 --method pi",
            "--to 256 --method pi -o source-256 && ropewalk export source-256 --engine",
        ),
        ("--engine llama.cpp --out x", "one file"),
        ("--engine llama.cpp --fold", "one file"),
    ],
)
def test_the_export_verb_says_how_to_get_there(more, said, tmp_path, capsys):
    assert run(["export", str(checkpoint(tmp_path)), *more.split(), "--gguf", str(tmp_path / "m.gguf")]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m.gguf").exists()


def test_what_is_not_extended_is_written_as_it_is(tmp_path):
    assert run(["export", str(checkpoint(tmp_path)), "--engine", "llama.cpp", "--gguf", str(tmp_path / "m.gguf")]) == 0
    assert read(tmp_path / "m.gguf").spec().is_plain


def test_a_file_that_llama_cpp_reads_has_its_line_and_other_wishes_a_command_that_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(checkpoint(tmp_path)), "--engine", "llama.cpp", "--gguf", "m.gguf"]) == 0
    length = Checkpoint.open("m.gguf").promised
    capsys.readouterr()
    assert run(["export", "m.gguf", "--engine", "llama.cpp"]) == 0
    assert f"llama-server -m m.gguf -c {length}" in capsys.readouterr().out.splitlines()
    for wish, reached in ((["--engine", "llama.cpp", "--to", "256", "--method", "pi"], 256), (["-e", "vllm"], length)):
        assert run(["export", "m.gguf", *wish]) == 2
        mend = shlex.split(capsys.readouterr().err.splitlines()[-1])
        assert mend[:3] == ["ropewalk", "extend", "m.gguf"] and mend[4] == str(reached)
        assert run(mend[1:]) == 0
        assert Checkpoint.open(tmp_path / f"m-{reached}").promised == reached


def test_a_place_is_a_file_or_a_folder_absolute_or_not(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    folder = checkpoint(tmp_path / "long")
    for place, file in ((tmp_path / "a.gguf", "a.gguf"), (tmp_path / "new" / "b.gguf", "new/b.gguf"),
                        ("c.gguf", "c.gguf"), (tmp_path / "models", f"models/{folder.name}.gguf")):  # fmt: skip
        assert run(["export", str(folder), "--gguf", str(place)]) == 0
        assert (tmp_path / file).is_file() and file in capsys.readouterr().out
    assert run(["export", str(folder), "--engine", "llama.cpp", "--out", str(tmp_path / "d.gguf")]) == 2
    assert f"Say --gguf {tmp_path}/d.gguf" in capsys.readouterr().err and not (tmp_path / "d.gguf").exists()
