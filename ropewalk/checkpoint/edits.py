"""Changes of single keys in a model's JSON files: all that are asked for at once, or none."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.common.outside import parse, read_json
from ropewalk.common.whole import edits

LENGTHS = {  # in tokens, wherever they stand
    "max_position_embeddings", "original_max_position_embeddings", "model_max_length", "sliding_window",
    "attention_chunk_size", "n_positions", "max_sequence_length", "seq_length", "max_seq_len", "max_seq_length",
    "document_length", "query_length",
}  # fmt: skip
Judge = Callable[[Path, Mapping[str, Any], Mapping[str, Any], Sequence[list[str]]], None]
HOW = "Write --set 'key.inside=value', e.g. --set 'rope_theta=500000.0'; null removes a key."


def set_keys(model: str, assignments: Sequence[str], judge: Judge | None = None) -> dict[Path, Path]:
    """Change keys of local configuration files: ``[FILE:]dotted.key=JSON``; ``null`` removes the key.

    Without FILE it is the configuration: config.json, or the JSON file that the model is. FILE may lie in a folder of
    the model's, such as ``1_Pooling/config.json``.

    Everything is checked before anything is written. The old files stay beside the new ones, see ``whole.edits``.

    Args:
        model: a local folder, a configuration in it, or another of its files.
        assignments: what to change.
        judge: refuses a change: called with a file, its content before and after, and the keys that were set.

    Returns:
        File -> its old content, for those that changed.

    Raises:
        UserError: if the model is no local folder, an assignment cannot be read, or its value can never be right; no
            file is changed then.
    """
    folder = Path(model).expanduser()
    folder = folder if folder.is_dir() else folder.parent
    contents: dict[Path, dict[str, Any]] = {}
    changed: dict[Path, list[list[str]]] = {}
    for assignment in assignments:
        name, keys, value = _read(assignment, configuration(model))
        file = folder / name
        inside = ".." not in Path(name).parts and file.resolve().is_relative_to(folder.resolve())
        if not file.is_file() or not inside:
            raise UserError(f"--set changes files of a local model folder; {file} is none")
        if file not in contents:
            contents[file] = read_json(file)
        set_key(file, contents[file], keys, value)
        changed.setdefault(file, []).append(keys)
    if judge is not None:
        for file, content in contents.items():
            judge(file, read_json(file), content, changed[file])
    with edits(folder) as write:
        return {file: write(file, json.dumps(content, indent=2) + "\n") for file, content in contents.items()}


def configuration(model: str) -> str:
    """Name of the file that configures a local model."""
    file = Path(model).expanduser()
    return file.name if file.suffix == ".json" and file.is_file() else "config.json"


def _read(assignment: str, default: str) -> tuple[str, list[str], Any]:
    """File, steps of the key, and value.

    Raises:
        UserError: if it says no such thing.
    """
    path, separator, text = assignment.partition("=")
    name, colon, key = path.rpartition(":")
    keys = key.split(".")
    if not separator or not text.strip() or not all(map(str.strip, keys)) or (colon and not name):
        raise UserError(f"cannot read {assignment!r}", HOW)

    try:
        value = parse(text, finite=True)
    except json.JSONDecodeError:  # a word without quotes
        value = text
    except ValueError as error:
        raise UserError(f"{key} cannot be set: {error}", HOW) from None
    whole = type(value) in (int, float) and value == int(value) > 0
    if keys[-1] in LENGTHS and value is not None and not whole:
        raise UserError(f"{key} is {text}, expected a number of tokens above 0", HOW)
    return (name if colon else default), keys, value


def set_key(file: Path, content: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set a key inside the content of a file, given by its steps; None removes it.

    Raises:
        UserError: if a step leads to no object.
    """
    *outer, last = keys
    inner: Any = content
    for step in outer:
        inner = inner.setdefault(step, {}) if isinstance(inner, dict) else None
    if not isinstance(inner, dict):
        raise UserError(f"{file}: {'.'.join(outer)} holds no object, so {last!r} cannot be set inside it")
    if value is None:
        inner.pop(last, None)
    else:
        inner[last] = value
