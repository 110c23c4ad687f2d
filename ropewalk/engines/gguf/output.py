"""Writing a GGUF file: keys, then the names and shapes of all tensors, then one tensor after the other."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.checkpoint.gguf.from_gguf import RECORD_KEY
from ropewalk.checkpoint.gguf.header import STRING, read_header
from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.checkpoint.gguf.rope_keys import Entries
from ropewalk.common.errors import UserError
from ropewalk.common.results import Result

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType, GGUFWriter
    from rich.console import Console


TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "BF16": "MOSTLY_BF16", "Q8_0": "MOSTLY_Q8_0"}  # ours -> file type
MARK = "ropewalk.tensors"  # key: what the tensors were when ropewalk wrote the file; a file quantised since differs


@dataclass(frozen=True, repr=False)
class Written(Result):
    """What was written.

    Attributes:
        path: the file.
        n_bytes: its size.
        rope: the entries about its rope.
        launch: the line that serves it.
        notes: what llama.cpp does otherwise than transformers, which no key can change.
    """

    path: Path
    n_bytes: int
    rope: Entries
    launch: str
    notes: list[str] = field(default_factory=list)

    def show(self, console: Console) -> None:
        for key, value in self.rope.keys.items():
            console.print(f"{key} = {json.dumps(value)}")
        for name, factors in self.rope.factors.items():
            console.print(f"{name} = {len(factors)} factors, {min(factors):.4g} to {max(factors):.4g}")
        console.print(f"written to {self.path}, {self.n_bytes / 2**20:,.4g} MiB")
        for note in self.notes:
            console.print(note)
        console.print(self.launch)


@dataclass(frozen=True)
class Stored:
    """A tensor as it will be stored: ``data`` is asked for when its turn comes, so that memory holds one at a time."""

    name: str
    shape: tuple[int, ...]  # of values, not of bytes; the last varies fastest
    kind: GGMLQuantizationType
    data: Callable[[], np.ndarray[Any, Any]]

    @property
    def n_bytes(self) -> int:
        block, size = gguf().GGML_QUANT_SIZES[self.kind]
        return int(np.prod(self.shape)) // block * size


def write_file(
    path: Path, architecture: str, add_keys: Callable[[GGUFWriter], None], rope: Entries, tensors: Sequence[Stored]
) -> None:
    """Write a file: the keys that ``add_keys`` adds, the rope, and the tensors."""
    library = gguf()
    writer = library.GGUFWriter(path, architecture)
    f32 = library.GGMLQuantizationType.F32
    factors = {name: np.asarray(values, dtype=np.float32) for name, values in rope.factors.items()}
    tensors = [Stored(f"{name}.weight", row.shape, f32, row.copy) for name, row in factors.items()] + list(tensors)
    try:
        add_keys(writer)
        writer.add_string(MARK, _digest((tensor.name, int(tensor.kind), math.prod(tensor.shape)) for tensor in tensors))
        for key, value in rope.keys.items():
            writer.add_key_value(f"{architecture}.{key}", value, _kind(value))
        for tensor in tensors:
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), tensor.n_bytes, tensor.kind)
        writer.write_header_to_file(path)
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(tensor.data())
    finally:
        writer.close()


def add_record(writer: GGUFWriter, record: dict[str, Any] | None) -> None:
    """Note how the rope was extended, so that the file counts as extended by ropewalk too."""
    if record is not None:
        writer.add_string(RECORD_KEY, json.dumps(record))


def mark(path: Path) -> None:
    """Note what the tensors are now, in a file that was written here and quantised since."""
    header = read_header(path)
    old = header.values[MARK].encode()
    new = _digest((name, place.kind, place.elements) for name, place in header.tensors.items()).encode()
    key = struct.pack("<Q", len(MARK)) + MARK.encode() + struct.pack("<IQ", STRING, len(old))
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        at = data.find(key + old) + len(key)
        data[at : at + len(new)] = new


def written_here(path: Path) -> bool:
    """Whether ropewalk wrote this GGUF as it is, by the mark in it."""
    try:
        header = read_header(path)
    except UserError:
        return False
    places = header.tensors.items()
    return header.values.get(MARK) == _digest((name, place.kind, place.elements) for name, place in places)


def _digest(tensors: Iterable[tuple[str, int, int]]) -> str:
    """Of name, number of the type, and elements of every tensor."""
    return hashlib.sha256(repr(sorted(tensors)).encode()).hexdigest()[:16]


def _kind(value: Any) -> Any:
    """The type that llama.cpp reads a rope key with."""
    kinds = gguf().GGUFValueType
    return kinds.STRING if isinstance(value, str) else kinds.UINT32 if isinstance(value, int) else kinds.FLOAT32
