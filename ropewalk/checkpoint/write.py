"""Extending a checkpoint on disk: a new configuration beside the same weights."""

from __future__ import annotations

import copy
import difflib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ropewalk import __version__
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.weights import refuse_not_finite
from ropewalk.common.errors import UserError
from ropewalk.common.files import RECORD, folder_to_write
from ropewalk.common.results import Result
from ropewalk.common.whole import new_folder, write_text
from ropewalk.methods.base import USE_IT_LIVE
from ropewalk.methods.fit_file import refuse_elsewhere
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope import config as rope_config
from ropewalk.rope import trial
from ropewalk.rope.config import load_config
from ropewalk.rope.keys import read_beside
from ropewalk.rope.live import check, rounding

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor
    from transformers import PreTrainedConfig, PreTrainedModel

    from ropewalk.methods.base import Method
    from ropewalk.rope.spec import Frequencies

LINKED = (".safetensors", ".bin", ".gguf")  # large and never changed: hard links where the file system allows
LEFT_OUT = frozenset({"config.json", RECORD})
INDEX = frozenset({"model.safetensors.index.json"})
OF_OTHER_WEIGHTS = frozenset(  # the card and the logs of a training, by the names that transformers and ropewalk give
    "README.md training_log.json trainer_state.json trainer_log.jsonl training_args.bin all_results.json "
    "train_results.json eval_results.json recipe.json training.json training.html".split()
)


@dataclass(frozen=True, repr=False)
class Extension(Result):
    """What ``extend`` wrote.

    Attributes:
        folder: the new checkpoint.
        method: canonical spelling.
        window: pretrained window L in tokens.
        target: new length T in tokens.
        scale: T / L.
        rope_parameters: layer type -> parameters now in the configuration.
        config_diff: unified diff of config.json.
        notes: what else to know.
    """

    folder: Path
    method: str
    window: int
    target: int
    scale: float
    rope_parameters: dict[str, dict[str, Any]]
    config_diff: str
    notes: list[str]

    def show(self, console: Console) -> None:
        console.print(f"{self.method}: {self.window:,} -> {self.target:,} tokens (s = {self.scale:g})", style="bold")
        console.print(self.config_diff)
        console.print(f"\nwritten to {self.folder}\n")
        for note in self.notes:
            console.print(note)


def extended_config(
    config: PreTrainedConfig, method: Method, to: int, on_top: bool | None = None
) -> tuple[PreTrainedConfig, dict[str, dict[str, Any]]]:
    """A copy of ``config`` that says ``method`` for ``to`` tokens, and its rope parameters.

    Raises:
        UserError: if the method cannot be saved, or what transformers would derive from the copy is not what the method
            meant.
    """
    method, changed = _saveable(method), copy.deepcopy(config)
    parameters = method.write(changed, to, on_top)
    meant = method.static_plan(config, to, on_top)
    _verify(method, changed, meant, to)
    trial.compare(config, changed, meant, method.rounding(config, to, on_top))
    return changed, parameters


def refuse_fitted_elsewhere(checkpoint: Checkpoint, method: Method, to: int) -> None:
    """Refuse a method that was fitted on other weights, for another target, or beside others.

    A configuration does not tell what weights are beside it: they are loaded, as they were when the method was fitted.

    Raises:
        UserError: naming both.
    """
    for part in getattr(method, "parts", (method,)):
        if part.fit is not None:
            refuse_elsewhere(part, checkpoint.config, to, method)  # before weights are loaded
            refuse_elsewhere(part, checkpoint.load(part.fit.model.get("dtype", "auto"), "cpu"), to, method)


def _saveable(method: Method) -> FrequencyMethod:
    if not isinstance(method, FrequencyMethod):
        raise UserError(f"{method.id} cannot be saved in a configuration: {method.why_not_saved()}", USE_IT_LIVE)
    return method


def _verify(method: Method, written: PreTrainedConfig, meant: Mapping[str, Frequencies], to: int) -> None:
    specs = rope_config.read(written)
    for key, want in meant.items():
        spec = specs[key]
        off = float(((spec.inv_freq - want.inv_freq).abs() / want.inv_freq.clamp_min(1e-20)).max())
        if off > rounding(spec, to) or abs(spec.attention_factor - want.attention_factor) > 1e-6:
            raise UserError(
                f"{method.id}: what transformers would read back for layer type {key!r} is off by {off:.2g} in "
                f"frequency and {abs(spec.attention_factor - want.attention_factor):.2g} in attention factor; "
                "nothing was saved"
            )


def config_text(config: PreTrainedConfig) -> str:
    """config.json as it will be written: all that the source had, the changes, and their spelling for older readers.

    transformers 4 and engines of its time read ``rope_theta`` and ``rope_scaling``; the same numbers stand there too,
    where one rope serves all layers and all of the head.
    """
    content = json.loads(config.to_json_string(use_diff=True))
    rope = content.get("rope_parameters")
    if isinstance(rope, dict) and "rope_theta" in rope and rope.get("partial_rotary_factor", 1.0) == 1.0:
        content["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            content["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return json.dumps(content, indent=2, sort_keys=True) + "\n"


def diff(before: PreTrainedConfig, after: PreTrainedConfig) -> str:
    """Unified diff of two configurations, long factor lists on one line."""
    return "\n".join(
        difflib.unified_diff(_lines(before), _lines(after), "config.json", "config.json (extended)", lineterm="", n=1)
    )


def _lines(config: PreTrainedConfig) -> list[str]:
    lines = sorted(_flat(json.loads(config_text(config))).items())
    return [f"{key}: {value}" for key, value in lines if rope_config.RECORD not in key.split(".")]


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, str]:
    out: dict[str, str] = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            out |= _flat(inner, f"{prefix}{key}.")
        elif isinstance(inner, list) and len(inner) > 4:
            out[prefix + key] = (
                f"[{inner[0]:.6g}, {inner[1]:.6g}, ... {inner[-1]:.6g}] ({len(inner)})"
                if _numeric(inner)
                else str(inner)
            )
        else:
            out[prefix + key] = json.dumps(inner)
    return out


def _numeric(values: list[Any]) -> bool:
    return all(isinstance(v, (int, float)) for v in values)


def extend(
    model: str | Path | Checkpoint,
    to: int,
    method: Method,
    out: Path,
    overwrite: bool = False,
    on_top: bool | None = None,
    trust_remote_code: bool = False,
) -> Extension:
    """Write a checkpoint at ``out`` whose configuration says ``method`` for ``to`` tokens.

    Weights are hard-linked where that is possible, else copied. The folder appears only when it is complete;
    ``overwrite`` lets it take the place of one that ropewalk wrote.

    Raises:
        UserError: for everything that a user can mend; nothing is left behind.
    """
    checkpoint = Checkpoint.open(model, trust_remote_code)
    config = checkpoint.config
    method = _saveable(method)
    changed, parameters = extended_config(config, method, to, on_top)
    refuse_fitted_elsewhere(checkpoint, method, to)
    source, _ = checkpoint.source, checkpoint.weights
    out = folder_to_write(out, [source], overwrite)
    checkpoint.refuse_renamed()
    window = rope_config.window_of(method.starting(config, on_top))
    record = {
        "ropewalk": __version__,
        "method": method.id,
        "source": checkpoint.name,
        "window": window,
        "target": to,
        "scale": to / window,
        **checkpoint.training,
    }
    with new_folder(out, [source], overwrite) as folder:
        notes = [*_fill(folder, checkpoint), *extension_notes(config, method, to, on_top)]
        if checkpoint.unwritten is not None:
            notes.append(
                f"the weights were trained with {checkpoint.unwritten.seen}, which {method.id} takes the place of"
            )
        write_config(folder, changed, config, method, to, on_top)
        raise_limits(folder, to)
        write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    return Extension(
        folder=out,
        method=method.id,
        window=window,
        target=to,
        scale=to / window,
        rope_parameters=parameters,
        config_diff=diff(config, changed),
        notes=notes,
    )


def write_config(
    folder: Path,
    changed: PreTrainedConfig,
    config: PreTrainedConfig,
    method: Method,
    to: int,
    on_top: bool | None = None,
) -> None:
    """Write what ``extended_config`` made of ``config`` into a folder, and read it back.

    Raises:
        UserError: if what is read is not what the method meant.
    """
    file = folder / "config.json"
    file.unlink(missing_ok=True)  # never write through a link into the source
    write_text(file, config_text(changed))
    _verify(method, load_config(str(folder)), _saveable(method).static_plan(config, to, on_top), to)


@contextmanager
def trained_folder(
    model: PreTrainedModel,
    checkpoint: Checkpoint,
    out: Path,
    record: Mapping[str, Any],
    *,
    length: int | None = None,
    sources: Sequence[Path] = (),
    overwrite: bool = False,
    weights: dict[str, Tensor] | None = None,
) -> Iterator[Path]:
    """Write a live model, trained from ``checkpoint``, as a folder that appears when the caller is done with it.

    Args:
        model: whose weights and configuration are written.
        checkpoint: whose tokenizer and other files come along, but for what is said of its own weights.
        out: the folder.
        record: for ``RECORD``.
        length: tokens that tokenizer and generation are told of; None leaves them as they are.
        sources: what else the folder is made of.
        overwrite: replace a folder that ropewalk wrote.
        weights: of a model that does not hold them itself.

    Yields:
        The folder, to put more into.

    Raises:
        UserError: as ``new_folder``, and where the configuration would be read as another rope than the model's.
    """
    with new_folder(out, [checkpoint.source, *sources], overwrite) as folder:
        with rope_config.quiet():
            model.save_pretrained(folder, state_dict=weights)
            if checkpoint.gguf is not None:
                checkpoint.tokenizer().save_pretrained(folder)
        if checkpoint.gguf is None:
            (folder / "generation_config.json").unlink(missing_ok=True)  # its own comes
            files = {file.relative_to(checkpoint.folder).as_posix() for file in checkpoint.weights}
            bring_all(checkpoint.folder, [], folder, LEFT_OUT | files | INDEX | OF_OTHER_WEIGHTS)
        write_text(folder / "config.json", config_text(model.config))
        _refuse_reread(folder, model)
        if length is not None:
            raise_limits(folder, length)
        write_text(folder / RECORD, json.dumps({"ropewalk": __version__, **record}, indent=2) + "\n")
        yield folder


def _refuse_reread(folder: Path, model: PreTrainedModel) -> None:
    """Refuse a configuration that does not say the ropes which the model rotates by."""
    try:
        check(model, rope_config.read(load_config(str(folder))))
    except UserError as error:
        raise UserError(f"what was trained cannot be saved as it is: {error.message}", error.mend) from None


def extension_notes(config: PreTrainedConfig, method: Method, to: int, on_top: bool | None = None) -> list[str]:
    """What became of the scaling that a configuration had, and what does not change."""
    method = _saveable(method)
    notes, starting, same = [], method.starting(config, on_top), kept(config, method, to, on_top)
    record = rope_config.record_of(config)
    if record is not None:
        window, had = record["window"], f"{record['method']} to {record['target']:,} tokens"
        notes.append(f"replaces the extension that ropewalk wrote ({had}), and starts from the window of {window:,}")
    for key, spec in rope_config.pretrained_specs(config).items():
        if spec.sliding or spec.is_plain or record is not None:
            continue
        had = spec.scaling
        if key in same:
            notes.append(f"keeps {had}; only the length that is promised is raised, from {spec.length:,} to {to:,}")
        elif starting[key].is_plain and spec.trained_in:
            notes.append(f"raises the factor of the {had} that the model was trained with")
        elif starting[key].is_plain:
            notes.append(f"replaces {had}; add --on-top if the model was trained with it")
        else:
            notes.append(f"goes on top of {had}, as trained with; --no-on-top replaces it")
        if spec.logit_scale != 1.0:
            notes.append(
                f"keeps the scale of logits that it was trained with (x{spec.logit_scale:.4g}, mscale_all_dim)"
            )
    for _ in unchanged(config, method, to, on_top):
        notes.append(
            f"{method.id} changes no frequency here: every pair that rotates turns often inside the window; "
            "only the length is raised, so measure it"
        )
    return notes


def kept(config: PreTrainedConfig, method: Method, to: int, on_top: bool | None = None) -> list[str]:
    """Layer types that rotate after an extension as the configuration says now, so that only the length is raised."""
    now, plan = rope_config.read(config), _saveable(method).static_plan(config, to, on_top)
    return [
        key
        for key, found in plan.items()
        if now[key].long_factors is None
        and now[key].rope_type != "dynamic"  # which is another one past its window
        and torch.allclose(found.inv_freq, now[key].inv_freq, rtol=1e-6, atol=1e-12)
        and abs(found.attention_factor - now[key].attention_factor) < 1e-6
    ]


def unchanged(config: PreTrainedConfig, method: Method, to: int, on_top: bool | None = None) -> list[str]:
    """Layer types that a method makes longer without changing a frequency."""
    method = _saveable(method)
    starting, plan = method.starting(config, on_top), method.static_plan(config, to, on_top)
    return [
        key
        for key, found in plan.items()
        if to > starting[key].window and torch.allclose(found.inv_freq, starting[key].inv_freq, rtol=1e-6, atol=1e-12)
    ]


def _fill(folder: Path, checkpoint: Checkpoint) -> list[str]:
    """Put the weights, the tokenizer and what else there is into a folder; what to know about that."""
    if checkpoint.gguf is not None:
        with rope_config.quiet():
            checkpoint.load(device="cpu").save_pretrained(folder)
            checkpoint.tokenizer().save_pretrained(folder)
        return [checkpoint.dequantised()]
    bring_all(checkpoint.folder, checkpoint.weights, folder, LEFT_OUT)
    return []


def bring_all(source: Path, weights: Sequence[Path], to: Path, without: Collection[str] = ()) -> None:
    """The files of a model folder, and its weights in subfolders.

    Raises:
        UserError: naming a link that leads out of the folder: what lies there is not the model's; or a tensor that
            holds no numbers.
    """
    refuse_not_finite(weights)
    files = {file for file in source.iterdir() if not file.name.startswith(".") and file.name not in without}
    for file in sorted(files | set(weights)):
        if file.is_file():
            refuse_led_out(source, file)
            bring(file, to / file.relative_to(source))


def refuse_led_out(folder: Path, file: Path) -> None:
    """Refuse a file that lies elsewhere; a hub cache keeps the files of its snapshots in ``blobs`` beside them.

    Args:
        folder: of the whole model.
        file: in it, or in a folder of it.

    Raises:
        UserError: naming the file and where it leads.
    """
    here, place = folder.resolve(), file.resolve()
    snapshot = here.parent.name == "snapshots"
    allowed = [here, here.parent.parent / "blobs"] if snapshot else [here]
    if not any(place.is_relative_to(inside) for inside in allowed):
        raise UserError(
            f"{file} is a link out of the model's folder, to {place}; ropewalk copies no files from elsewhere",
            f"If it belongs to the model: cp --remove-destination {place} {file}",
        )


def bring(file: Path, to: Path, linked: Collection[str] = LINKED) -> None:
    """Link large files that never change, by their endings; copy the others."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix in linked:
        try:
            os.link(file.resolve(), to)
            return
        except OSError:  # another file system, or links are not allowed
            pass
    shutil.copyfile(file, to)


def write_weights(file: Path, to: Path, changed: Mapping[str, Tensor], linked: Collection[str] = LINKED) -> None:
    """A file of weights with tensors that changed, or a link to it if it has none of them."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, framework="pt") as tensors:
        names, metadata = list(tensors.keys()), tensors.metadata()
        weights = {name: tensors.get_tensor(name) for name in names} if not changed.keys().isdisjoint(names) else {}
    if not weights:
        bring(file, to, linked)
        return
    to.parent.mkdir(parents=True, exist_ok=True)
    written = {name: changed.get(name, weight).contiguous() for name, weight in weights.items()}
    save_file(written, to, metadata or {"format": "pt"})


def raise_limits(folder: Path, length: int) -> None:
    """Set the limits of tokenizer and generation to ``length`` tokens, where they are stated."""
    _raise_limit(folder / "tokenizer_config.json", "model_max_length", length)
    _raise_limit(folder / "generation_config.json", "max_length", length, add=False)


def _raise_limit(file: Path, key: str, length: int, add: bool = True) -> None:
    """Set a length limit in a JSON file, if the file is there (and the key, unless ``add``)."""
    content = read_beside(file)
    if not file.is_file():
        return
    if add or isinstance(content.get(key), int):
        content[key] = length
        file.unlink()  # never write through a link into the source
        write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
