"""A model without a rope as a folder that reads more: other weights where positions are carried, all else as it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk import __version__
from ropewalk.carriers.carrier import Carrier
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.weights import is_finite, refuse_not_finite
from ropewalk.checkpoint.write import LEFT_OUT, bring_all, raise_limits, write_weights
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD, folder_to_write
from ropewalk.common.lengths import show
from ropewalk.common.results import Result
from ropewalk.common.whole import new_folder, write_text
from ropewalk.methods.carriers.bias_alignment import BiasAlignment
from ropewalk.methods.carriers.carrier_entries import fitting

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from ropewalk.methods.carriers.carrier_method import CarrierMethod

ALSO = ("n_ctx", "n_positions", "max_position_embeddings")  # other keys that say the window, where they stand


@dataclass(frozen=True, repr=False)
class CarrierExtension(Result):
    """What was written.

    Attributes:
        folder: the new model.
        method: canonical spelling, with what was measured.
        window: tokens that the model was made for.
        target: tokens that the folder is for.
        changed: key of config.json, or weights -> what it is now.
        notes: what else to know.
    """

    folder: Path
    method: str
    window: int
    target: int
    changed: dict[str, Any]
    notes: list[str]

    def show(self, console: Console) -> None:
        console.print(f"{self.method}: {self.window:,} -> {self.target:,} tokens", style="bold")
        for key, value in self.changed.items():
            console.print(f"{key}: {value}")
        console.print(f"\nwritten to {self.folder}\n")
        for note in self.notes:
            console.print(note)


def extend_carrier(
    checkpoint: Checkpoint, to: int, method: CarrierMethod, out: Path, overwrite: bool = False
) -> CarrierExtension:
    """Write a folder whose weights say ``method`` for ``to`` tokens.

    Files of weights that do not change are linked. The folder appears when it is complete; ``overwrite`` lets it take
    the place of one that ropewalk wrote.

    Raises:
        UserError: for everything that a user can mend; nothing is left behind.
    """
    checkpoint.refuse_unsound()
    carrier = checkpoint.carrier
    assert carrier is not None
    made = checkpoint.made
    if made.get("method", "none") != "none":
        raise UserError(
            f"{checkpoint.name} was extended already, by {made['method']} to {made.get('target')} tokens",
            f"Extend what it was made of: {made.get('source')}.",
        )
    if method.name == "none":
        raise UserError(
            f"none does not make {checkpoint.name} read more",
            f"For it there are {', '.join(fitting(carrier.kind))}.",
        )
    window, files = method.check(carrier, to), checkpoint.weights
    out = folder_to_write(out, [checkpoint.folder], overwrite)
    checkpoint.refuse_renamed()
    refuse_not_finite(files)
    if isinstance(method, BiasAlignment) and method.measures:
        method = _measured(method, checkpoint, carrier, to)
    changed = method.weights(carrier, _carrying(files, carrier), to)
    beyond = [name for name, one in changed.items() if not is_finite(one)]
    if beyond:
        raise UserError(f"{method.id}: {beyond[0]!r} would hold numbers beyond the largest of its type")
    content, said = _config(checkpoint.raw, carrier, to)
    record = {"ropewalk": __version__, "method": method.id, "source": checkpoint.name, "window": window, "target": to,
              "scale": to / window}  # fmt: skip
    with new_folder(out, [checkpoint.folder], overwrite) as folder:
        names = {file.relative_to(checkpoint.folder).as_posix() for file in files}
        bring_all(checkpoint.folder, [], folder, LEFT_OUT | names)
        for file in files:
            write_weights(file, folder / file.relative_to(checkpoint.folder), changed)
        write_text(folder / "config.json", json.dumps(content, indent=2, sort_keys=True) + "\n")
        raise_limits(folder, to)
        write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
        again = Checkpoint(str(folder))
        again.refuse_unsound()
        again.refuse_renamed()
    tables = {name: f"now {list(one.shape)}" for name, one in changed.items() if carrier.family.table}
    said |= tables or {"weights": f"{len(changed)} tensors"}
    return CarrierExtension(out, method.id, window, to, said, _notes(method, out, to))


def _measured(method: BiasAlignment, checkpoint: Checkpoint, carrier: Carrier, to: int) -> BiasAlignment:
    """The method with its tau, measured on texts of English, one behind the other."""
    from ropewalk.texts import documents

    texts = documents.load("topics")
    tokenizer = checkpoint.tokenizer()
    rows = documents.tokenise(texts, tokenizer, 2).values()
    return method.calibrated(checkpoint.load(device="cpu"), carrier, [one for row in rows for one in row], to)


def _carrying(files: list[Path], carrier: Carrier) -> dict[str, Tensor]:
    """The weights that carry positions, by name."""
    from safetensors import safe_open

    family = carrier.family
    ends = tuple(end for end in (family.table, family.bias, family.queries) if end)
    found: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in tensors.keys() if name.endswith(ends)}  # noqa: SIM118
    return found


def _config(raw: Mapping[str, Any], carrier: Carrier, to: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json for ``to`` tokens, and the keys that changed in it."""
    own = carrier.window
    keys = {key for key in ALSO if own is not None and raw.get(key) == own} | {carrier.family.key}
    changed = dict.fromkeys(sorted(keys), to)
    return {**raw, **changed}, changed


def _notes(method: CarrierMethod, out: Path, to: int) -> list[str]:
    found = [f"measure it: {command('evaluate', out, '--lengths', show(to))}"]
    if isinstance(method, BiasAlignment):
        return ["texts of every length are attended to more sharply than before: keep the plain folder for short ones"]
    if method.name == "recurrent":
        return ["texts of the old window are read as before, bit for bit", *found]
    return ["texts of every length are read otherwise than before: keep the plain folder for short ones", *found]
