"""A longer embedding model as a folder: another table of positions, or another rope, and all else as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk import __version__
from ropewalk.checkpoint.edits import set_key
from ropewalk.checkpoint.weights import check_weights, refuse_not_finite
from ropewalk.checkpoint.write import bring, bring_all, extended_config, extension_notes, write_config
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD, folder_to_write, record_in
from ropewalk.common.lengths import show
from ropewalk.common.outside import read_json
from ropewalk.common.results import Result
from ropewalk.common.whole import new_folder, write_text
from ropewalk.encoders.encoder_folder import DOCUMENTS, TOKENIZER
from ropewalk.encoders.encoder_method import Growing, LogitMethod, Reading, RopeMethod, TableMethod
from ropewalk.encoders.encoder_methods.stretch import KnowledgePreservingStretch
from ropewalk.encoders.extended_encoder import scaled_logits
from ropewalk.encoders.families import FAMILIES, ROPE, ROTATING, TABLE, UNKNOWN

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor
    from transformers import PreTrainedConfig

    from ropewalk.encoders.encoder_folder import EncoderFolder
    from ropewalk.encoders.encoder_method import EncoderMethods

NUMBERED = "position_ids"  # of files of older versions: 0, 1, ..., one for each row of the table


@dataclass(frozen=True, repr=False)
class EncoderExtension(Result):
    """What was written.

    Attributes:
        folder: the new model.
        method: canonical spelling.
        window: tokens that the encoder was made for, or that it read.
        target: tokens that it reads now.
        cut_before: tokens at which texts were cut before; None if they were not.
        changed: ``FILE:key`` or the name of a weight -> what it is now.
        notes: what else to know.
    """

    folder: Path
    method: str
    window: int
    target: int
    cut_before: int | None
    changed: dict[str, Any]
    notes: list[str]

    def show(self, console: Console) -> None:
        console.print(f"{self.method}: {self.window:,} -> {self.target:,} tokens", style="bold")
        for key, value in self.changed.items():
            console.print(f"{key}: {value}")
        console.print(f"\nwritten to {self.folder}\n")
        for note in self.notes:
            console.print(note)


def extend_encoder(
    folder: EncoderFolder, to: int, methods: EncoderMethods, out: Path, overwrite: bool = False
) -> EncoderExtension:
    """Write an embedding model that reads ``to`` tokens.

    Files of weights that do not change are linked. The folder appears when it is complete; ``overwrite`` lets it take
    the place of one that ropewalk wrote.

    Raises:
        UserError: for everything that a user can mend; nothing is left behind.
    """
    folder.refuse_unsound()
    window = _refuse_unwritable(folder, to, methods)
    rope = methods.of(RopeMethod)
    config = None if rope is None else extended_config(folder.rotating.config, rope.method, to)[0]
    out = folder_to_write(out, [folder.path], overwrite)
    files = check_weights(folder.encoder)
    if rope is not None:
        folder.rotating.refuse_renamed()
    changes: dict[str, Any] = {}
    with new_folder(out, [folder.path], overwrite) as new:
        inside = new / folder.encoder.relative_to(folder.path)
        _bring_rest(folder, new)
        for file in files:
            changes |= _write_weights(file, inside / file.relative_to(folder.encoder), folder, to, methods)
        if rope is not None and config is not None:
            write_config(inside, config, folder.rotating.config, rope.method, to)
            changes |= _said(folder.rotating.config, config)
        changes |= _write_limits(folder, inside, to, methods)
        record = {"ropewalk": __version__, "method": methods.id, "source": folder.name, "window": window, "target": to,
                  "scale": to / window}  # fmt: skip
        write_text(new / RECORD, json.dumps(record, indent=2) + "\n")
    return EncoderExtension(out, methods.id, window, to, folder.reads, changes, _notes(folder, window, to, methods))


def _refuse_unwritable(folder: EncoderFolder, to: int, methods: EncoderMethods) -> int:
    """Refuse methods that no folder can say; the window that they start from, or tokens that were read."""
    made = record_in(folder.path)
    if made.get("method", "none") != "none":
        raise UserError(
            f"{folder.name} was extended already, by {made['method']} to {made.get('target')} tokens",
            f"Extend what it was made of: {made.get('source')}.",
        )
    window, growing = folder.window or folder.reads, methods.of(Growing)
    if window is None or folder.positions == UNKNOWN:
        raise UserError(
            f"what model type {folder.model_type} ({folder.name}) knows of positions is unknown here, or nothing says "
            "how many tokens it reads",
            "Known are the model types " + ", ".join([*FAMILIES, *sorted(ROTATING)]) + ", and ropes of config.json.",
        )
    methods.refuse_elsewhere(folder.positions)
    methods.check(window, to)
    if (reading := methods.of(Reading)) is not None:
        raise UserError(
            f"{reading.id} cannot be saved: it is a way to read, and no folder says it",
            "Use it in Python or by 'ropewalk compare', or leave it out.",
        )
    if growing is None and to > window:
        first = {TABLE: "pi", ROPE: "yarn"}.get(folder.positions, "uncut")
        raise UserError(
            f"{methods.id} does not reach {to:,} tokens: {folder.name} reads {window:,}",
            f"Choose a method that makes it longer: --method {'+'.join([first, *(part.id for part in methods.parts)])}",
        )
    if (table := methods.of(TableMethod)) is not None and table.follow:
        raise UserError(
            f"{table.id} cannot be saved: a folder holds one table, which fits one length", "Leave follow out."
        )
    return window


def _bring_rest(folder: EncoderFolder, new: Path) -> None:
    """All files but weights and what is written anew: of the folder, and of those of its modules."""
    refuse_not_finite(check_weights(folder.encoder))
    for place in dict.fromkeys([folder.path, *(part.folder for part in folder.parts)]):
        if not place.is_dir():  # a module without files, such as Normalize
            continue
        inside = new / place.relative_to(folder.path)
        inside.mkdir(parents=True, exist_ok=True)
        bring_all(place, [], inside, _weights_in(place) | {RECORD} if place == folder.encoder else {RECORD})


def _weights_in(place: Path) -> set[str]:
    return {file.name for file in check_weights(place) if file.parent == place}


def _write_weights(
    file: Path, to_file: Path, folder: EncoderFolder, to: int, methods: EncoderMethods
) -> dict[str, str]:
    """A file of weights with what the methods change, or a link to it if that is nothing."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, framework="pt") as tensors:
        weights = {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
        metadata = tensors.metadata()
    changed = _changed(weights, folder, to, methods)
    if not changed:
        bring(file, to_file)
        return {}
    to_file.parent.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: one.contiguous() for name, one in (weights | changed).items()}, to_file, metadata or {"format": "pt"}
    )
    said = {name: f"{list(weights[name].shape)} -> {list(one.shape)}" for name, one in changed.items()
            if one.shape != weights[name].shape}  # fmt: skip
    scaled = len(changed) - len(said)
    return said | ({f"{file.name}:queries": f"{scaled} tensors times {_scale(methods):.4g}"} if scaled else {})


def _scale(methods: EncoderMethods) -> float:
    logits = methods.of(LogitMethod)
    return 1.0 if logits is None else logits.scale


def _changed(
    weights: Mapping[str, Tensor], folder: EncoderFolder, to: int, methods: EncoderMethods
) -> dict[str, Tensor]:
    import torch

    if folder.family is None:
        return {}
    found: dict[str, Tensor] = {}
    if (table := methods.of(TableMethod)) is not None:
        first = folder.family.row(folder.config)
        for name, weight in weights.items():
            if folder.holds_table(name):
                found[name] = torch.cat([weight[:first], table.table(weight[first:], to)])
            elif (
                name.endswith(NUMBERED)
                and folder.owns(name)
                and weight.shape[-1:] == (folder.config["max_position_embeddings"],)
            ):
                found[name] = torch.arange(first + to, dtype=weight.dtype)[None]
    queries = any(folder.owns(name) and folder.family.queries in name for name in weights)
    if (logits := methods.of(LogitMethod)) is not None and queries:
        found |= scaled_logits(weights, folder, logits.scale)
    return found


def _write_limits(folder: EncoderFolder, inside: Path, to: int, methods: EncoderMethods) -> dict[str, Any]:
    """Raise what says how long texts may be, wherever it stands."""
    changed: dict[str, Any] = {}

    def put(file: Path, keys: Mapping[str, Any]) -> None:
        content = read_json(file) if file.is_file() else {}
        file.unlink(missing_ok=True)  # never write through a link into the source
        for key, value in keys.items():
            set_key(file, content, key.split("."), value)
        write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        changed.update({f"{file.name}:{key}": value for key, value in keys.items()})

    if methods.of(TableMethod) is not None and folder.family is not None:
        rows = folder.family.row(folder.config) + to
        put(inside / "config.json", dict.fromkeys(folder.places("max_position_embeddings"), rows))
    if folder.parts:
        told = {"max_seq_length": to} | ({DOCUMENTS: to} if DOCUMENTS in folder.settings else {})
        put(inside / folder.settings_file.name, told)
    put(inside / TOKENIZER, {"model_max_length": to})
    fast = inside / "tokenizer.json"
    cut = read_json(fast).get("truncation") if fast.is_file() else None
    if isinstance(cut, dict) and isinstance(cut.get("max_length"), int):  # who reads that file alone cuts there
        put(fast, {"truncation": cut | {"max_length": to}})
        changed[f"{fast.name}:truncation"] = f"at {to}"
    return changed


def _said(before: PreTrainedConfig, after: PreTrainedConfig) -> dict[str, Any]:
    """What of a configuration's rope is another than before."""
    keys = [
        key for key in ("rope_parameters", "max_position_embeddings") if getattr(before, key) != getattr(after, key)
    ]
    return {f"config.json:{key}": getattr(after, key) for key in keys}


def _notes(folder: EncoderFolder, window: int, to: int, methods: EncoderMethods) -> list[str]:
    table, notes = methods.of(TableMethod), []
    causal = folder.family is not None and folder.family.causal
    if (rope := methods.of(RopeMethod)) is not None:
        notes += extension_notes(folder.rotating.config, rope.method, to)
        notes.append("texts of every length are read otherwise than before: keep the plain folder for short ones")
    elif methods.of(LogitMethod) is None and table is None:
        notes.append("no weight is changed: texts that were not cut are read as before, bit for bit")
    if table is not None and table.name == "recurrent" and not table.effective_window and len(methods.parts) == 1:
        alike = min(window, folder.reads or window)
        notes.append(f"texts of up to {alike:,} tokens are read as before, bit for bit")
    elif isinstance(table, KnowledgePreservingStretch) and causal and len(methods.parts) == 1:
        notes.append(f"texts of up to {table.keep:,} tokens are read as before, bit for bit; longer ones are not")
    elif table is not None:
        notes.append(
            "texts of every length are read otherwise than before, short ones too: keep the plain folder for those, or "
            "choose recurrent, which reads them as before"
        )
    lost = sorted(place.name for place in folder.encoder.iterdir() if place.is_dir() and _is_export(place))
    if lost:
        notes.append(f"not taken along, as they hold the old table: {', '.join(lost)}")
    notes.append("measure it: " + command("compare", folder.name, "--to", show(to), "--methods", f"none,{methods.id}"))
    return notes


def _is_export(place: Path) -> bool:
    return any(file.suffix in (".onnx", ".bin", ".xml") for file in place.iterdir())
