"""Smaller types than are written here: by llama.cpp's own quantiser, where it is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from ropewalk.checkpoint.gguf.header import Header, read_header
from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.common.errors import UserError
from ropewalk.common.extras import install
from ropewalk.engines.gguf.output import MARK, mark

PROGRAM, PACKAGE = "llama-quantize", "llama_cpp"
TYPES = (
    "Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_0 Q4_1 Q4_K_S Q4_K_M Q5_0 Q5_1 Q5_K_S Q5_K_M Q6_K IQ4_NL IQ4_XS"
).split()  # those that need no importance matrix
CHANGED = frozenset({"general.file_type", "general.quantization_version", MARK})
CALL = """
import ctypes, sys
import llama_cpp
how = llama_cpp.llama_model_quantize_default_params()
how.ftype = getattr(llama_cpp, "LLAMA_FTYPE_MOSTLY_" + sys.argv[3])
sys.exit(llama_cpp.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), ctypes.byref(how)))
"""


def command(dtype: str) -> list[str]:
    """The command that is given a source, a target and a type.

    Raises:
        UserError: if llama.cpp is not installed.
    """
    if program := shutil.which(PROGRAM):
        return [program]
    if find_spec(PACKAGE):
        return [sys.executable, "-c", CALL]  # a process of its own: what goes wrong there ends there
    raise UserError(
        f"{dtype} is made by llama.cpp, and neither the program {PROGRAM!r} nor the package 'llama-cpp-python' is here",
        f"{install('llama-cpp')}, or put llama.cpp's programs on PATH; F16, BF16 and Q8_0 need neither.",
    )


def in_place(path: Path, quantiser: list[str], dtype: str) -> None:
    """Quantise a file that was written here.

    Args:
        path: the file; what is made on the way lies beside it.
        quantiser: as ``command`` gives it.
        dtype: one of ``TYPES``.

    Raises:
        UserError: with llama.cpp's last words if it fails, or if what it made is not the same model in that type.
    """
    whole = path.with_name(f"{path.name}.whole")  # a name by which the next writer knows what a killed one left
    os.replace(path, whole)
    done = subprocess.run([*quantiser, str(whole), str(path), dtype], capture_output=True, text=True, errors="replace")
    if done.returncode or not path.exists():
        words = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
        raise UserError(f"llama.cpp could not make {dtype} (exit status {done.returncode}): {words[-1]}")
    _check(read_header(whole), read_header(path), dtype)
    mark(path)
    whole.unlink()


def _check(before: Header, after: Header, dtype: str) -> None:
    """Refuse a file that says anything else than the one that it was made of, but for the types of its tensors."""
    old, new = before.values | before.lists, after.values | after.lists
    for key, value in old.items():
        if key not in CHANGED and new.get(key) != value:
            raise UserError(f"llama.cpp made {dtype} with key {key!r} {new.get(key)!r}, expected {value!r}")
    shapes = [{name: place.shape for name, place in header.tensors.items()} for header in (before, after)]
    if shapes[0] != shapes[1]:
        odd = sorted(name for name, _ in shapes[0].items() ^ shapes[1].items())
        raise UserError(f"llama.cpp made {dtype} with other tensors or shapes: {', '.join(odd[:3])}")
    wanted, kind = int(gguf().LlamaFileType[f"MOSTLY_{dtype}"]), new.get("general.file_type")
    if kind != wanted:
        raise UserError(f"llama.cpp made file type {kind}, expected {wanted} ({dtype})")
