"""A GGUF with another rope: keys and factor tensors change, every other key and all weights are copied."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.errors import UserError, did_you_mean
from ropewalk.files import new_file
from ropewalk.gguf.library import gguf
from ropewalk.gguf.read import EXPECTED, RopeOfFile, open_gguf, read, rope_of
from ropewalk.gguf.rope import FACTOR_TENSORS, SAME, SCALING_KEYS, Entries, entries, one_set
from ropewalk.gguf.write import Written, add_rope, spec_of
from ropewalk.loading import resolve
from ropewalk.rope.config import load_config, text_config
from ropewalk.rope.inspect import refuse_unsound
from ropewalk.rope.spec import RopeSpec

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

REWRITTEN = frozenset({"context_length", "rope.dimension_count", "rope.freq_base", "rope.scale_linear"}) | {
    f"rope.scaling.{key}" for key in SCALING_KEYS
}
SETTABLE = (REWRITTEN | set(EXPECTED)) - {"block_count", "embedding_length"}
WHOLE_KEYS = frozenset({"context_length", "rope.dimension_count", "rope.scaling.original_context_length"})


def patch_gguf(source: Path, model: str, out: Path, overwrite: bool = False) -> Written:
    """Write ``source`` again with the rope of a checkpoint's configuration; that checkpoint's weights are not needed.

    Args:
        source: a GGUF of the same model, of any quantisation.
        model: folder, config.json or hub id whose configuration has the rope.
        out: the file to write; it appears only when it is complete.
        overwrite: replace a file that is there.

    Raises:
        UserError: if either cannot be read, they do not belong together, or llama.cpp cannot express the rope in the
            architecture of ``source``.
    """
    reader = open_gguf(source)
    file = rope_of(source, reader)
    spec = wanted(model)
    if spec.rotary_dim != len(file.reading_of_keys().inv_freq) * 2:
        raise UserError(
            f"{source} rotates {len(file.reading_of_keys().inv_freq) * 2} dimensions, {model} rotates {spec.rotary_dim}",
            "Give the checkpoint that the GGUF was made from, or an extension of it.",
        )
    rope = entries(spec, file.architecture)
    _rewrite(reader, file, rope, REWRITTEN, out, overwrite, spec)
    out = out.expanduser().absolute()
    return Written(out, "as it was", out.stat().st_size, rope, f"llama-server -m {out} -c {spec.length}")


def set_keys(source: Path, assignments: tuple[str, ...], out: Path, overwrite: bool = False) -> None:
    """Write ``source`` again with single rope keys changed: ``ARCH.KEY=JSON``; ``null`` removes a key.

    Raises:
        UserError: for keys that are not about the rope, or values of the wrong type.
    """
    reader = open_gguf(source)
    file = rope_of(source, reader)
    keys, removed = {}, set()
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        key = name.removeprefix(f"{file.architecture}.")
        if not separator or key not in SETTABLE:
            raise UserError(f"{source}: {name!r} is no rope key{did_you_mean(key, SETTABLE)}")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        removed.add(key)
        if value is not None:
            keys[key] = _typed(source, key, value)
    _rewrite(reader, file, Entries(keys, dict(file.factors)), removed, out, overwrite, None)


def _typed(source: Path, key: str, value: Any) -> Any:
    """``value`` with the type that the key has in a file."""
    kind: type = int if key in WHOLE_KEYS else str if key.endswith(".type") else float
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (kind is str) != isinstance(value, str) or (kind is not str and (not number or kind(value) != value)):
        raise UserError(f"{source}: key {key!r} cannot be {value!r}, expected a value of type {kind.__name__}")
    return kind(value)


def wanted(model: str) -> RopeSpec:
    """The rope of a checkpoint's configuration at its full length.

    Raises:
        UserError: if it cannot be read, or is one per layer type.
    """
    name = resolve(model)
    refuse_unsound(name)
    return one_set(spec_of(text_config(load_config(name)), name))


def off_by(file: RopeOfFile, spec: RopeSpec) -> float:
    """Largest relative error of the frequencies that llama.cpp derives from ``file``."""
    derived = file.reading().inv_freq
    return float(((derived - spec.inv_freq).abs() / spec.inv_freq.clamp_min(1e-30)).max())


def _rewrite(
    reader: GGUFReader,
    file: RopeOfFile,
    rope: Entries,
    removed: frozenset[str] | set[str],
    out: Path,
    overwrite: bool,
    spec: RopeSpec | None,
) -> None:
    if int(file.splits) > 1:
        raise UserError(
            f"{file.path} is one of {file.splits} parts; a part cannot be patched alone",
            f"llama-gguf-split --merge {file.path} WHOLE.gguf",
        )
    if out.expanduser().absolute() == file.path.absolute():
        raise UserError(f"{out} is the source itself", "Choose another file for the patched GGUF.")
    with new_file(out, overwrite) as path:
        writer = gguf().GGUFWriter(path, file.architecture)
        try:
            _copy_keys(reader, writer, {f"{file.architecture}.{key}" for key in removed})
            add_rope(writer, file.architecture, rope)
            _copy_tensors(reader, writer, path, rope)
        finally:
            writer.close()
        written = read(path)
        if spec is not None and off_by(written, spec) > SAME:
            raise UserError(f"what llama.cpp would derive is off by {off_by(written, spec):.2g}; nothing was written")


def _copy_keys(reader: GGUFReader, writer: GGUFWriter, without: set[str]) -> None:
    kinds = gguf().GGUFValueType
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in without:
            continue
        value = field.contents()
        if key == "general.alignment":
            writer.add_custom_alignment(value)
        elif value != []:  # the library writes no empty lists
            sub_type = field.types[-1] if field.types[0] == kinds.ARRAY else None
            writer.add_key_value(key, value, field.types[0], sub_type)


def _copy_tensors(reader: GGUFReader, writer: GGUFWriter, path: Path, rope: Entries) -> None:
    kept = [tensor for tensor in reader.tensors if tensor.name.removesuffix(".weight") not in FACTOR_TENSORS]
    for name, factors in rope.factors.items():
        writer.add_tensor_info(f"{name}.weight", (len(factors),), np.dtype(np.float32), 4 * len(factors))
    for tensor in kept:
        data = tensor.data
        writer.add_tensor_info(tensor.name, data.shape, data.dtype, data.nbytes, tensor.tensor_type)
    writer.write_header_to_file(path)
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for factors in rope.factors.values():
        writer.write_tensor_data(np.asarray(factors, dtype=np.float32))
    for tensor in kept:
        writer.write_tensor_data(tensor.data)


def factor_table(factors: Mapping[str, tuple[float, ...]]) -> str:
    return ", ".join(f"{name} [{len(values)}]" for name, values in factors.items())
