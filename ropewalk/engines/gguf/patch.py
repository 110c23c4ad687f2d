"""A GGUF with another rope: keys and factor tensors change, every other key and all weights are copied."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf.from_gguf import RECORD_KEY, RopeOfFile, read, refuse_other
from ropewalk.checkpoint.gguf.header import AGAIN
from ropewalk.checkpoint.gguf.hyperparameters import strange
from ropewalk.checkpoint.gguf.library import gguf
from ropewalk.checkpoint.gguf.rope_keys import FACTOR_TENSORS, SCALING_KEYS, Entries, entries
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.files import file_to_write
from ropewalk.common.outside import parse
from ropewalk.common.whole import new_file
from ropewalk.engines.gguf.output import MARK, Stored, Written, add_record, write_file, written_here
from ropewalk.rope.spec import RopeSpec

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter, ReaderTensor

REWRITTEN = frozenset({"context_length", "rope.dimension_count", "rope.freq_base", "rope.scale_linear"}) | {
    f"rope.scaling.{key}" for key in SCALING_KEYS
}
WHOLE_KEYS = frozenset({"context_length", "rope.dimension_count", "rope.scaling.original_context_length"})


def patch_gguf(source: Path, model: str | Path | Checkpoint, out: Path, overwrite: bool = False) -> Written:
    """Write ``source`` again with the rope of a checkpoint's configuration; that checkpoint's weights are not needed.

    Args:
        source: a GGUF of the same model, of any quantisation.
        model: folder, config.json or hub id whose configuration has the rope.
        out: the file to write; it appears only when it is complete.
        overwrite: replace a file that ropewalk wrote.

    Raises:
        UserError: if either cannot be read, they do not belong together, or llama.cpp cannot express the rope in the
            architecture of ``source``.
    """
    file = read(source)
    checkpoint = Checkpoint.open(model)
    spec = checkpoint.rope
    if spec.rotary_dim != file.rotary_dim:
        raise UserError(
            f"{source} rotates {file.rotary_dim} dimensions per head, {model} rotates {spec.rotary_dim}",
            "Give the checkpoint that the GGUF was made from, or an extension of it.",
        )
    rope = entries(spec, file.architecture, checkpoint.name)
    out = file_to_write(out, written_here, [source], overwrite)
    _rewrite(file, rope, REWRITTEN, out, overwrite, checkpoint.specs, checkpoint.record)
    return Written(out, out.stat().st_size, rope, f"llama-server -m {shlex.quote(str(out))} -c {spec.length}")


def set_keys(source: Path, assignments: tuple[str, ...], out: Path, overwrite: bool = False) -> None:
    """Write ``source`` again with single rope keys changed: ``ARCH.KEY=JSON``; ``null`` removes a key.

    Keys that llama.cpp passes over, and that are not understood here, can be removed too.

    Raises:
        UserError: for other keys that are not about the rope, or values of the wrong type.
    """
    file = read(source)
    idle = {found.key for found in strange(file) if found.passed_over}
    keys, removed = {}, set()
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        key = name.removeprefix(f"{file.architecture}.")
        if not separator or not (key in REWRITTEN or (key in idle and text == "null")):
            raise UserError(f"{source}: {name!r} is no rope key{did_you_mean(key, REWRITTEN)}")
        try:
            value = parse(text, finite=True)
        except ValueError:
            value = text
        removed.add(key)
        if value is not None:
            keys[key] = _typed(source, key, value)
    _rewrite(file, Entries(keys, dict(file.factors)), removed, out, overwrite)


def _typed(source: Path, key: str, value: Any) -> Any:
    """``value`` with the type that the key has in a file."""
    kind: type = int if key in WHOLE_KEYS else str if key.endswith(".type") else float
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if (kind is str) != isinstance(value, str) or (kind is not str and (not number or kind(value) != value)):
        raise UserError(f"{source}: key {key!r} cannot be {value!r}, expected a value of type {kind.__name__}")
    return kind(value)


def _rewrite(
    file: RopeOfFile,
    rope: Entries,
    removed: frozenset[str] | set[str],
    out: Path,
    overwrite: bool,
    specs: Mapping[str, RopeSpec] | None = None,
    record: dict[str, Any] | None = None,
) -> None:
    """Write the file again with another rope: that of a checkpoint, with its record, or single keys."""
    reader = _reader(file.path)
    parts = reader.get_field("split.count")
    if parts is not None and parts.contents() not in (0, 1):
        raise UserError(
            f"{file.path} is one of {parts.contents()} parts; a part cannot be patched alone",
            f"llama-gguf-split --merge {file.path} WHOLE.gguf",
        )
    copied = [_copy(tensor) for tensor in reader.tensors if tensor.name.removesuffix(".weight") not in FACTOR_TENSORS]
    without = {f"{file.architecture}.{key}" for key in removed} | ({RECORD_KEY} if specs else set())

    def add_keys(writer: GGUFWriter) -> None:
        _copy_keys(reader, writer, without)
        add_record(writer, record)

    with new_file(out, written_here, [file.path], overwrite) as path:
        write_file(path, file.architecture, add_keys, rope, copied)
        if specs is None:
            read(path)
        else:
            refuse_other(path, specs.values())


def _reader(path: Path) -> GGUFReader:
    """The library's reader of a file whose header was read before."""
    try:
        return gguf().GGUFReader(path, "r")
    except Exception as error:  # what the header lets pass and the library does not: many kinds
        raise UserError(f"{path}: the gguf library cannot read it: {type(error).__name__}: {error}", AGAIN) from None


def _copy(tensor: ReaderTensor) -> Stored:
    return Stored(tensor.name, tuple(tensor.shape.tolist()[::-1]), tensor.tensor_type, lambda: tensor.data)


def _copy_keys(reader: GGUFReader, writer: GGUFWriter, without: set[str]) -> None:
    kinds = gguf().GGUFValueType
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key in ("general.architecture", MARK) or key in without:
            continue
        value = field.contents()
        if key == "general.alignment":
            writer.add_custom_alignment(value)
        elif value != []:  # the library writes no empty lists
            sub_type = field.types[-1] if field.types[0] == kinds.ARRAY else None
            writer.add_key_value(key, value, field.types[0], sub_type)
