"""A longer embedding model as a folder: another table of positions, or another rope, and all else as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk import __version__
from ropewalk.checkpoint.edits import set_key
from ropewalk.checkpoint.weights import check_weights, is_finite, refuse_not_finite
from ropewalk.checkpoint.write import (
    bring,
    extended_config,
    extension_notes,
    refuse_led_out,
    write_config,
    write_weights,
)
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD, folder_to_write, record_in
from ropewalk.common.lengths import show
from ropewalk.common.outside import MOST_WORDS, read_json
from ropewalk.common.results import Result, sentences
from ropewalk.common.whole import new_folder, write_text
from ropewalk.encoders.encoder_folder import CUTS, MOST, TOKENIZER
from ropewalk.encoders.encoder_method import Growing, LogitMethod, Reading, RopeMethod, TableMethod
from ropewalk.encoders.encoder_methods.stretch import KnowledgePreservingStretch
from ropewalk.encoders.encoder_methods.uncut import Uncut
from ropewalk.encoders.extended_encoder import scaled_logits
from ropewalk.encoders.families import FAMILIES, ROPE, ROTATING, TABLE, UNKNOWN

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor
    from transformers import PreTrainedConfig

    from ropewalk.encoders.encoder_folder import EncoderFolder
    from ropewalk.encoders.encoder_method import EncoderMethods

NUMBERED = "position_ids"  # of files of older versions: 0, 1, ..., one for each row of the table
CARD = "README.md"
CARD_SETTINGS = re.compile(r"\A(?:\ufeff)?---\s*\n.*?^---[ \t]*\r?\n", re.DOTALL | re.MULTILINE)
LINKED = (".safetensors",)  # what never changes in place; sentence-transformers writes others where they stand
WEIGHTS = frozenset(  # by the endings of their files, of this framework and of others
    ".safetensors .bin .pt .pth .ckpt .h5 .msgpack .ot .onnx .onnx_data .data .xml .tflite .mlmodel .gguf".split()
)


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
        measure: the command that compares it with the model as it was.
    """

    folder: Path
    method: str
    window: int
    target: int
    cut_before: int | None
    changed: dict[str, Any]
    notes: list[str]
    measure: str

    def show(self, console: Console) -> None:
        console.print(f"{self.method}: {self.window:,} -> {self.target:,} tokens", style="bold")
        for key, value in self.changed.items():
            console.print(f"{key}: {value}")
        console.print(f"\nwritten to {self.folder}\n")
        sentences(console, *self.notes)
        console.print(f"measure it: {self.measure}")


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
    _ = folder.poolings  # refuses what nobody could load
    window = refuse_unwritable(folder, to, methods)
    rope = methods.of(RopeMethod)
    config = None if rope is None else extended_config(folder.rotating.config, rope.method, to)[0]
    out = folder_to_write(out, [folder.path], overwrite)
    files = check_weights(folder.encoder)
    if rope is not None:
        folder.rotating.refuse_renamed()
    refuse_not_finite(files)
    changed = _changed(files, folder, to, methods)
    with new_folder(out, [folder.path], overwrite) as new:
        inside = new / folder.encoder.relative_to(folder.path)
        left_out = _bring_rest(folder, files, new)
        _mark_card(new / CARD, methods.id, to, folder.reads)
        for file in files:
            write_weights(file, inside / file.relative_to(folder.encoder), changed, LINKED)
        changes = _said_of_weights(folder, changed, methods)
        if rope is not None and config is not None:
            write_config(inside, config, folder.rotating.config, rope.method, to)
            changes |= _said(folder.rotating.config, config)
        changes |= _write_limits(folder, inside, to, methods)
        record = {"ropewalk": __version__, "method": methods.id, "source": folder.name, "window": window, "target": to,
                  "scale": to / window}  # fmt: skip
        write_text(new / RECORD, json.dumps(record, indent=2) + "\n")
    notes = _notes(folder, window, to, methods, left_out)
    measure = command("compare", folder.name, "--to", show(to), "--methods", f"none,{methods.id}")
    return EncoderExtension(out, methods.id, window, to, folder.reads, changes, notes, measure)


def refuse_unwritable(folder: EncoderFolder, to: int, methods: EncoderMethods) -> int:
    """Refuse methods that no folder can say, or that do not reach the target.

    Returns:
        The window that they start from, or tokens that were read.

    Raises:
        UserError: naming the method, and one that does.
    """
    made = record_in(folder.path)
    if made.get("method", "none") not in ("none", Uncut.name):
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
    if methods.of(Uncut) is not None:
        if folder.window is not None and to > folder.window:
            raise UserError(
                f"{methods.id} does not reach {to:,} tokens: the table of positions has {folder.window:,} rows",
                "Choose a method that makes it longer: --method recurrent.",
            )
        if to <= (folder.reads or 0):
            raise UserError(
                f"the target of {to:,} tokens is not beyond the {folder.reads:,} that {folder.name} reads",
                f"Say --to {show(folder.window or 2 * to)}.",
            )
    if growing is None and (not methods.parts or to < min(window, folder.reads or window)):
        raise UserError(
            f"{methods.id} makes nothing longer, and {to:,} tokens are " + (
                "what is read already" if to == window else f"fewer than the {window:,} that are read"),
            f"Choose a method that makes it longer, and say --to {show(2 * window)}, or more.",
        )  # fmt: skip
    if (table := methods.of(TableMethod)) is not None and table.follow:
        raise UserError(
            f"{table.id} cannot be saved: a folder holds one table, which fits one length", "Leave follow out."
        )
    return window


def _bring_rest(folder: EncoderFolder, weights: Sequence[Path], new: Path) -> list[str]:
    """All files of the folder and of its modules, but weights and what is written anew; names of what else there is."""
    left_out: list[str] = []
    index, whole = (folder.encoder / name for name in ("model.safetensors.index.json", "model.safetensors"))
    read = [*weights, *([] if whole in weights else [index])]
    places = dict.fromkeys([folder.path, *(part.folder for part in folder.parts if part.folder.is_dir())])
    for place in places:
        for file in sorted(place.iterdir()):
            inside = file.relative_to(folder.path)
            if file in weights or file.name == RECORD or file.name.startswith("."):
                continue
            if file.is_dir():
                left_out += [] if any(one.is_relative_to(file) for one in places) else [f"{inside}/"]
            elif place == folder.encoder and file not in read and _is_of_weights(file):
                left_out.append(str(inside))
            elif file.is_file():
                refuse_led_out(folder.path, file)
                bring(file, new / inside, LINKED)
    return left_out


def _mark_card(card: Path, method: str, to: int, before: int | None) -> None:
    """Say at the top of a model card, behind its settings, what it does not know of."""
    if not card.is_file():
        return
    text = card.read_bytes().decode("utf-8", "surrogateescape")
    told = f"> Changed by ropewalk {__version__}, `{method}`: it reads texts of up to {to:,} tokens. "
    told += "What follows is of the model that it was made of"
    told += f", which cut them at {before:,}.\n\n" if before else ".\n\n"
    settings = CARD_SETTINGS.match(text)
    at = settings.end() if settings else 0
    card.write_bytes((text[:at] + told + text[at:]).encode("utf-8", "surrogateescape"))


def _is_of_weights(file: Path) -> bool:
    return file.suffix in WEIGHTS or file.name.endswith(".index.json")


def _changed(files: Sequence[Path], folder: EncoderFolder, to: int, methods: EncoderMethods) -> dict[str, Tensor]:
    """Name of a weight -> what the methods make of it; of all files, as what belongs together may lie apart.

    Raises:
        UserError: if the table that they change is not there once, or a number is beyond the type of its tensor.
    """
    import torch
    from safetensors import safe_open

    found: dict[str, Tensor] = {}
    if (family := folder.family) is None:
        return found
    weights, wanted = {}, [part for part in (family.table, family.queries, family.bias, NUMBERED) if part]
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                if folder.owns(name) and any(part in name for part in wanted):
                    weights[name] = tensors.get_tensor(name)
    if (table := methods.of(TableMethod)) is not None:
        first = family.row(folder.config)
        tables = [name for name in weights if folder.holds_table(name)]
        if len(tables) != 1:
            raise UserError(
                f"{folder.encoder}: the weights hold {len(tables)} tables of positions ({family.table}), expected one",
                "Restore the weights from where the model came.",
            )
        found[tables[0]] = torch.cat([weights[tables[0]][:first], table.table(weights[tables[0]][first:], to)])
        for name, weight in weights.items():
            if weight.shape[-1:] == (folder.config["max_position_embeddings"],) and name.endswith(NUMBERED):
                found[name] = torch.arange(first + to, dtype=weight.dtype)[None]
    if (logits := methods.of(LogitMethod)) is not None:
        found |= scaled_logits(weights, folder, logits.scale)
    beyond = [name for name, one in found.items() if not is_finite(one)]
    if beyond:
        raise UserError(
            f"{methods.id}: {beyond[0]!r} would hold numbers beyond the largest of {str(found[beyond[0]].dtype)[6:]}",
            "Choose a temperature nearer to 1.",
        )
    return found


def _said_of_weights(folder: EncoderFolder, changed: Mapping[str, Tensor], methods: EncoderMethods) -> dict[str, Any]:
    said: dict[str, Any] = {}
    for name, one in changed.items():
        if folder.holds_table(name) or name.endswith(NUMBERED):
            said[name] = f"{list(folder.shapes[name])} -> {list(one.shape)}"
    logits, scaled = methods.of(LogitMethod), len(changed) - len(said)
    return said | ({} if logits is None else {"queries": f"{scaled} tensors times {logits.scale:.4g}"})


def _write_limits(folder: EncoderFolder, inside: Path, to: int, methods: EncoderMethods) -> dict[str, Any]:
    """Raise what says how long texts may be, wherever it stands."""
    changed: dict[str, Any] = {}

    def put(file: Path, keys: Mapping[str, Any]) -> None:
        content = read_json(file, MOST_WORDS) if file.is_file() else {}
        file.unlink(missing_ok=True)  # never write through a link into the source
        for key, value in keys.items():
            set_key(file, content, key.split("."), value)
        write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        changed.update({f"{file.name}:{key}": value for key, value in keys.items()})

    if methods.of(TableMethod) is not None and folder.family is not None:
        rows = folder.family.row(folder.config) + to
        put(inside / "config.json", dict.fromkeys(folder.places("max_position_embeddings"), rows))
    if folder.parts:
        told = [key for key in CUTS if folder.key(folder.settings_file.name, key) in folder.told]
        put(inside / folder.settings_file.name, dict.fromkeys([MOST, *told], to))
    put(inside / TOKENIZER, {"model_max_length": to})
    fast = inside / "tokenizer.json"
    cut = read_json(fast, MOST_WORDS).get("truncation") if fast.is_file() else None
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


def _notes(folder: EncoderFolder, window: int, to: int, methods: EncoderMethods, left_out: Sequence[str]) -> list[str]:
    table, notes = methods.of(TableMethod), []
    causal = folder.family is not None and folder.family.causal
    if (rope := methods.of(RopeMethod)) is not None:
        notes += extension_notes(folder.rotating.config, rope.method, to)
        if rope.method.length_dependent:
            notes.append(f"{rope.method.id} is saved for {to:,} tokens: texts of every length have the base of those")
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
    if left_out:
        notes.append(f"not taken along, as it is not what is read, or holds the old model: {', '.join(left_out)}")
    return notes
