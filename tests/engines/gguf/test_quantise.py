"""Smaller types by llama.cpp's quantiser: what it is given, what it must give back, what stays when it fails."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gguf")

import gguf

from ropewalk import UserError
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf.from_gguf import read
from ropewalk.cli.main import run
from ropewalk.common.extras import install
from ropewalk.engines.gguf import quantise
from ropewalk.engines.gguf.output import written_here
from ropewalk.engines.gguf.to_gguf import write_gguf
from tests.engines.gguf.checkpoints import checkpoint

# What llama-quantize does, by the gguf library: every key and tensor copied, matrices in the type that was asked for.
STAND_IN = """#!{python}
import json, pathlib, sys
import gguf
source, target, name = sys.argv[1:]
wrong = "{wrong}"
reader = gguf.GGUFReader(source)
pathlib.Path("{log}").write_text(json.dumps([name, sorted({{t.tensor_type.name for t in reader.tensors}})]))
if wrong == "stops":
    sys.exit("main: failed to quantize model")
architecture = reader.get_field("general.architecture").contents()
writer = gguf.GGUFWriter(target, architecture)
file_type = int(gguf.LlamaFileType["MOSTLY_" + name]) + (wrong == "type")
for key, field in reader.fields.items():
    value = field.contents()
    if key.startswith("GGUF.") or key in ("general.architecture", "general.file_type"):
        continue
    if wrong == "key" and key.endswith("rope.freq_base"):
        value *= 2
    sub_type = field.types[-1] if field.types[0] == gguf.GGUFValueType.ARRAY else None
    if value != []:
        writer.add_key_value(key, value, field.types[0], sub_type)
writer.add_file_type(file_type)
for tensor in reader.tensors:
    if wrong == "tensor" and tensor.name == "output_norm.weight":
        continue
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    matrix = len(tensor.shape) > 1
    kind = gguf.GGMLQuantizationType[name if matrix else "F32"]
    writer.add_tensor(tensor.name, gguf.quantize(values, kind) if matrix else values, raw_dtype=kind)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts a ``llama-quantize`` on PATH that goes wrong in a given way; what it saw is in the file that is returned."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def put(wrong: str = "") -> Path:
        program, log = folder / "llama-quantize", tmp_path / "log"
        program.write_text(STAND_IN.format(python=sys.executable, wrong=wrong, log=log))
        program.chmod(0o755)
        return log

    return put


@pytest.mark.parametrize(("dtype", "exact"), [("float32", "F32"), ("bfloat16", "BF16"), ("float16", "F16")])
def test_the_quantiser_gets_the_weights_as_they_are(dtype, exact, stand_in, tmp_path):
    log = stand_in()
    folder = checkpoint(tmp_path, spelling="resonance+yarn", dtype=dtype)
    done = write_gguf(folder, tmp_path / "out" / "m.gguf", "q4_0")
    assert log.read_text() == f'["Q4_0", {sorted({exact, "F32"})}]'.replace("'", '"')
    assert [path.name for path in done.path.parent.iterdir()] == ["m.gguf"]
    assert done.n_bytes == done.path.stat().st_size
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(done.path).tensors}
    assert kinds == {"Q4_0", "F32"}
    whole, small = read(write_gguf(folder, tmp_path / "whole.gguf", "F32").path), read(done.path)
    assert (small.keys, small.factors, small.spec()) == (whole.keys, whole.factors, whole.spec())
    assert small.header.values["general.file_type"] == 2
    assert Checkpoint.open(done.path).record == Checkpoint.open(folder).record
    ours = Checkpoint.open(done.path).load("float32", "cpu").state_dict()
    for name, values in Checkpoint.open(folder).load("float32", "cpu").state_dict().items():
        step = values.abs().max().item() / 8
        assert np.abs((ours[name] - values).numpy()).max() <= 1.1 * step + 1e-6, name


def test_the_file_counts_as_written_by_ropewalk(stand_in, tmp_path):
    stand_in()
    folder = checkpoint(tmp_path)
    path = write_gguf(folder, tmp_path / "m.gguf", "Q4_0").path
    assert written_here(path)
    assert write_gguf(folder, path, "Q5_0", overwrite=True).path == path


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("stops", r"could not make Q4_0 \(exit status 1\): main: failed to quantize model"),
        ("key", "'llama.rope.freq_base' 20000.0, expected 10000.0"),
        ("tensor", "other tensors or shapes: output_norm.weight"),
        ("type", "file type 3, expected 2"),
    ],
)
def test_a_file_that_is_not_the_model_never_appears(wrong, named, stand_in, tmp_path):
    stand_in()
    folder, out = checkpoint(tmp_path), tmp_path / "out" / "m.gguf"
    write_gguf(folder, out, "Q4_0")
    before = out.read_bytes()
    stand_in(wrong)
    with pytest.raises(UserError, match=named):
        write_gguf(folder, out, "Q4_0", overwrite=True)
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]


def test_without_llama_cpp_it_is_said_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(quantise.shutil, "which", lambda _: None)
    monkeypatch.setattr(quantise, "find_spec", lambda _: None)
    line = ["export", "demo", "--engine", "llama.cpp", "--gguf", str(tmp_path / "m.gguf"), "--dtype", "Q4_K_M"]
    assert run(line) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "llama-quantize" in said and install("llama-cpp") in said
    assert list(tmp_path.iterdir()) == []


def test_the_package_is_asked_where_there_is_no_program(tmp_path, monkeypatch):
    """Its function is called in another process, with the number of the type."""
    (tmp_path / "llama_cpp.py").write_text(
        "import types\nLLAMA_FTYPE_MOSTLY_Q6_K = 18\n"
        "import ctypes\nclass P(ctypes.Structure):\n    _fields_ = [('ftype', ctypes.c_int)]\n"
        "llama_model_quantize_default_params = P\n"
        "def llama_model_quantize(source, target, how):\n"
        "    open(target, 'w').write(f'{source.decode()} {how._obj.ftype}')\n    return 0\n"
    )
    monkeypatch.setattr(quantise.shutil, "which", lambda _: None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = quantise.command("Q6_K")
    assert quantise.subprocess.run([*command, "a.gguf", str(tmp_path / "b"), "Q6_K"]).returncode == 0
    assert (tmp_path / "b").read_text() == "a.gguf 18"


def test_every_type_has_a_number():
    assert {f"MOSTLY_{name}" for name in quantise.TYPES} <= set(gguf.LlamaFileType.__members__)
