"""A patched GGUF has the other rope and, byte for byte, the same weights."""

from __future__ import annotations

import pytest

pytest.importorskip("gguf")

import gguf

from ropewalk import UserError
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf.from_gguf import RECORD_KEY, read
from ropewalk.checkpoint.gguf.rope_keys import FACTOR_TENSORS
from ropewalk.checkpoint.gguf_inspection import inspect_gguf
from ropewalk.engines.gguf.output import MARK
from ropewalk.engines.gguf.patch import REWRITTEN, patch_gguf, set_keys
from ropewalk.engines.gguf.to_gguf import write_gguf
from tests.engines.gguf.checkpoints import TARGET, checkpoint, configuration, foreign

METHODS = ["pi", "yarn", "ntk-aware", "resonance+yarn"]


def rest(path, architecture="llama"):
    """All keys and tensors that are not about the rope, without the mark of who wrote them."""
    reader = gguf.GGUFReader(path)
    without = {f"{architecture}.{key}" for key in REWRITTEN} | {MARK}
    keys = {
        k: (f.types, f.contents()) for k, f in reader.fields.items() if not k.startswith("GGUF.") and k not in without
    }
    tensors = {
        t.name: (t.tensor_type, t.data.tobytes())
        for t in reader.tensors
        if t.name[: -len(".weight")] not in FACTOR_TENSORS
    }
    return keys, tensors


@pytest.mark.parametrize("dtype", ["F32", "Q8_0"])
@pytest.mark.parametrize("spelling", METHODS)
def test_a_patched_file_is_what_would_have_been_written(spelling, dtype, tmp_path):
    extended = checkpoint(tmp_path, spelling=spelling)
    plain = write_gguf(tmp_path / "source", tmp_path / "plain.gguf", dtype).path
    direct = write_gguf(extended, tmp_path / "direct.gguf", dtype).path
    patched = patch_gguf(plain, str(extended), tmp_path / "patched.gguf").path
    assert read(patched).spec() == read(direct).spec()
    keys, tensors = rest(patched)
    assert keys.pop(RECORD_KEY) == rest(direct)[0][RECORD_KEY] and (keys, tensors) == rest(plain)
    assert inspect_gguf(patched, str(extended)).problems == []


def test_patching_back_removes_what_was_added(tmp_path):
    extended = checkpoint(tmp_path, spelling="resonance+yarn")
    there = write_gguf(extended, tmp_path / "there.gguf").path
    back = patch_gguf(there, str(tmp_path / "source"), tmp_path / "back.gguf").path
    assert back.read_bytes()[:4] == b"GGUF"
    assert read(back).keys == read(write_gguf(tmp_path / "source", tmp_path / "plain.gguf").path).keys
    assert read(back).factors == {}


@pytest.mark.parametrize("spelling", ["pi", "yarn", "ntk-aware"])
def test_an_architecture_without_a_slot_gets_native_keys(spelling, tmp_path):
    folder = configuration(tmp_path / "qwen3", "qwen3", spelling)
    source = foreign(tmp_path / "m.gguf", "qwen3", {"attention.key_length": 16, "rope.freq_base": 1e6})
    patched = patch_gguf(source, str(folder), tmp_path / "patched.gguf")
    reading, want = read(patched.path).reading(), Checkpoint.open(folder).rope
    assert patched.rope.factors == {}
    assert reading.inv_freq.tolist() == pytest.approx(want.inv_freq.tolist(), rel=1e-6)
    assert reading.attention_factor == pytest.approx(want.attention_factor, rel=1e-6)
    assert reading.max_length == TARGET


def test_an_architecture_without_a_slot_is_refused_other_ropes(tmp_path):
    folder = configuration(tmp_path / "qwen3", "qwen3", "resonance+yarn")
    source = foreign(tmp_path / "m.gguf", "qwen3", {"attention.key_length": 16, "rope.freq_base": 1e6})
    with pytest.raises(UserError, match=r"no place for one factor per dimension.*'qwen3'.*yarn, with.*off by"):
        patch_gguf(source, str(folder), tmp_path / "patched.gguf")
    assert not (tmp_path / "patched.gguf").exists()


def test_phi3_takes_both_factor_tensors(tmp_path):
    folder = configuration(tmp_path / "phi3", "phi3", "resonance+yarn")
    source = foreign(tmp_path / "m.gguf", "phi3", {"rope.dimension_count": 12, "rope.scaling.type": "longrope"})
    written = patch_gguf(source, str(folder), tmp_path / "patched.gguf")
    assert set(written.rope.factors) == {"rope_factors_long", "rope_factors_short"}
    assert inspect_gguf(written.path, str(folder)).problems == []


@pytest.mark.parametrize(("spelling", "fits"), [("yarn", True), ("yarn(attention_factor=1.3)", False)])
def test_gemma3_is_stretched_where_llama_cpp_leaves_its_sliding_layers_alone(spelling, fits, tmp_path):
    folder = str(configuration(tmp_path / "gemma3", "gemma3", spelling))
    source = foreign(tmp_path / "m.gguf", "gemma3", {"attention.key_length": 16, "rope.freq_base": 1e6})
    if fits:
        assert inspect_gguf(patch_gguf(source, folder, tmp_path / "out.gguf").path, folder).problems == []
    else:
        with pytest.raises(UserError, match="sliding"):
            patch_gguf(source, folder, tmp_path / "out.gguf")


def test_another_models_rope_is_refused(tmp_path):
    folder = configuration(tmp_path / "phi3", "phi3", "yarn")
    with pytest.raises(UserError, match=r"16 dimensions per head.*12"):
        patch_gguf(foreign(tmp_path / "m.gguf", "llama"), str(folder), tmp_path / "out.gguf")


def test_the_source_and_existing_files_are_never_written(tmp_path):
    source = foreign(tmp_path / "m.gguf", "llama")
    content = source.read_bytes()
    folder = str(configuration(tmp_path / "llama", "llama", "yarn"))
    for out, overwrite in ((source, True), (source, False), (foreign(tmp_path / "other.gguf", "llama"), False)):
        with pytest.raises(UserError, match=r"source itself|exists already"):
            patch_gguf(source, folder, out, overwrite)
    assert source.read_bytes() == content


def test_a_part_of_a_split_file_is_refused(tmp_path):
    source = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    for key, value in {"llama.context_length": 64, "llama.rope.dimension_count": 16, "split.count": 3}.items():
        writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(UserError, match="one of 3 parts"):
        patch_gguf(source, str(configuration(tmp_path / "llama", "llama", "yarn")), tmp_path / "out.gguf")


def test_single_keys_are_set_and_removed(tmp_path):
    source = foreign(tmp_path / "m.gguf", "llama", {"rope.freq_base": 1e4, "rope.scaling.yarn_ext_factor": 4.0})
    out = tmp_path / "out.gguf"
    set_keys(source, ("llama.rope.freq_base=5e5", "rope.scaling.yarn_ext_factor=null", "context_length=128"), out)
    want = {**read(source).keys, "rope.freq_base": 5e5, "context_length": 128}
    del want["rope.scaling.yarn_ext_factor"]
    assert read(out).keys == want
    assert rest(out) == rest(source)


@pytest.mark.parametrize(
    ("assignment", "named"),
    [
        ("llama.block_count=3", "no rope key"),
        ("llama.rope.freq_bas=1e6", "did you mean 'rope.freq_base'"),
        ("llama.rope.freq_base=many", "expected a value of type float"),
        ("llama.context_length=1.5", "expected a value of type int"),
        ("llama.rope.scaling.type=4", "expected a value of type str"),
        ("llama.rope.freq_base=0", "expected a number above 1"),
    ],
)
def test_assignments_that_cannot_be_are_refused_and_nothing_is_left(assignment, named, tmp_path):
    source = foreign(tmp_path / "m.gguf", "llama")
    with pytest.raises(UserError, match=named):
        set_keys(source, (assignment,), tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()
