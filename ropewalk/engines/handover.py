"""Handing a checkpoint to an engine: the keys it needs, the line that starts it, the proof that it rotates alike."""

from __future__ import annotations

import copy
import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint import fold as folding
from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.write import (
    bring_all,
    config_text,
    extend,
    extended_config,
    extension_notes,
    refuse_fitted_elsewhere,
)
from ropewalk.common import lengths
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.files import RECORD, folder_to_write
from ropewalk.common.naming import find
from ropewalk.common.results import Result
from ropewalk.common.whole import new_folder, write_text
from ropewalk.engines import agreement as check
from ropewalk.engines import launch, llama_cpp
from ropewalk.engines.agreement import Asked, Row
from ropewalk.engines.gguf.to_gguf import holds_factors
from ropewalk.engines.reading import Files
from ropewalk.rope import config as rope_config
from ropewalk.rope import formulas
from ropewalk.rope.spec import ALL, Frequencies, RopeSpec, served

if TYPE_CHECKING:
    from rich.console import Console
    from transformers import PreTrainedConfig

    from ropewalk.methods.base import Method

ENGINES = ("transformers", "vllm", "sglang", "llama.cpp")
FOLD_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.02}  # log-probabilities, by the weights' type
WRITE = "Name a folder to write with -o."


@dataclass(frozen=True)
class Profile:
    """One way to serve the same weights.

    Attributes:
        name: "native" (the pretrained window, best on short text) or "long".
        length: tokens.
        folder: the checkpoint that the line names.
        line: starts the engine.
        row: what the engine makes of it against what is meant.
    """

    name: str
    length: int
    folder: Path
    line: str
    row: Row


@dataclass(frozen=True, repr=False)
class Export(Result):
    """What ``export`` wrote and found.

    Attributes:
        engine: one of ``ENGINES``.
        folder: what was written; None where a launch line says it all.
        profiles: native and long; long alone where the pretrained rope is not known, or weights were trained away from
            it.
        keys: [FILE:]key -> value added for this engine.
        folded: tensors that took the attention factor.
        fold_error: largest difference of log-probabilities, folded against keys; None without folding.
        notes: what became of the scaling that the configuration had, and why there is no native profile.
    """

    engine: str
    folder: Path | None
    profiles: list[Profile]
    keys: dict[str, Any]
    folded: list[str]
    fold_error: float | None
    notes: list[str]

    def show(self, console: Console) -> None:
        for note in self.notes:
            console.print(note, markup=False)
        for key, value in self.keys.items():
            console.print(f"for {self.engine}: {key} = {json.dumps(value)}")
        if self.fold_error is not None:
            console.print(f"attention factor folded into {len(self.folded)} tensors")
            console.print(f"largest difference of log-probabilities: {self.fold_error:.2g}")
        for profile in self.profiles:
            use = "best on short text" if profile.name == "native" else "for long text"
            name = f"{profile.name}, {use}" if len(self.profiles) > 1 else "as it is"
            console.print(f"{name}, {lengths.show(profile.length)} tokens:")
            console.print(profile.line)
        if self.folder is not None:
            console.print(f"written to {self.folder}")


def called(engine: str) -> str:
    """The engine's name, as people write names.

    Raises:
        UserError: if there is none of that name.
    """
    found = find(engine, ENGINES)
    if found is None:
        seen = f"engine is {engine!r}{did_you_mean(engine, ENGINES)}" if engine else "export needs --engine"
        raise UserError(seen, f"Say --engine {', '.join(ENGINES[:-1])} or {ENGINES[-1]}.")
    return found


def export(
    model: str | Path | Checkpoint,
    engine: str,
    to: int | None = None,
    method: Method | None = None,
    out: Path | None = None,
    fold: bool = False,
    two_profiles: bool = False,
    overwrite: bool = False,
    on_top: bool | None = None,
) -> Export:
    """Prepare a checkpoint for an engine.

    Without ``out`` nothing is written: the launch line carries the keys. With ``out`` a folder is written that needs no
    such keys; with ``two_profiles`` it holds ``native`` and ``long``, sharing their weights on disk.

    Args:
        model: folder, hub id or ``demo``; extended already, unless ``to`` is given.
        engine: one of ``ENGINES``.
        to: extend to this length first.
        method: with ``to``; YaRN by default.
        out: folder to write.
        fold: put the attention factor into the weights. Needs ``out``.
        two_profiles: write both profiles as folders. Needs ``out``.
        overwrite: replace ``out`` if ropewalk wrote it.
        on_top: with ``to``: keep the scaling that the configuration has; see ``rope.config.starting_specs``.

    Raises:
        UserError: if the engine cannot be made to rotate as meant; the message names the key and the mend.
    """
    engine = called(engine)
    if out is None and (fold or two_profiles):
        raise UserError("folding and two profiles write files", WRITE)
    if to is not None and method is None:
        from ropewalk.methods.frequencies.yarn import YaRN

        method = YaRN()
    checkpoint = Checkpoint.open(model)
    if checkpoint.unwritten is not None:
        checkpoint.unwritten.refuse(checkpoint.unwritten.line("serve", "--method"))
    if checkpoint.gguf is not None:
        return _of_gguf(checkpoint, checkpoint.gguf, engine, to, method, out)
    if out is None:
        return _by_line(checkpoint, engine, to, method, on_top)
    return _by_folder(checkpoint, engine, to, method, out, fold, two_profiles, overwrite, on_top)


def refuse_unread(config: PreTrainedConfig, method: Method, to: int, engine: str) -> None:
    """Refuse what an engine would not rotate as meant, whatever keys are written for it; needs no weights.

    Raises:
        UserError: saying what differs, or that no configuration says the method.
    """
    changed, parameters = extended_config(config, method, to)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        write_text(place / "config.json", config_text(changed))
        if engine == "llama.cpp" and in_gguf(changed, parameters):
            return
        check.fix(place, engines=(engine,))
        _profile("long", place, Files.load(place), engine, {}, to)


def in_gguf(config: PreTrainedConfig, parameters: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether llama.cpp gets a rope as a file that holds one factor per dimension, which its own converter drops."""
    kinds = {str(entry.get("rope_type")) for entry in parameters.values()}
    return "longrope" in kinds and holds_factors(str(rope_config.text_config(config).model_type))


def _of_gguf(
    checkpoint: Checkpoint, file: Path, engine: str, to: int | None, method: Method | None, out: Path | None
) -> Export:
    """The line for a file that llama.cpp reads as it is; its rope is read here by llama.cpp's rules, so it agrees."""
    if to is not None and method is not None:
        raise UserError(
            f"{checkpoint.name} is one file, and what is extended is a folder",
            checkpoint.extending(to, method.spelling),
        )
    if engine != "llama.cpp" or out is not None:
        _ = checkpoint.folder
    length = checkpoint.promised
    line = f"llama-server -m {shlex.quote(str(file))} -c {length}"
    row = Row(engine, "", True, True, True, True)
    return Export(engine, None, [Profile("long", length, file, line, row)], {}, [], None, [])


def _by_line(checkpoint: Checkpoint, engine: str, to: int | None, method: Method | None, on_top: bool | None) -> Export:
    checkpoint.refuse_alone()
    named = Path(checkpoint.place).expanduser()
    files = Files.load(checkpoint.config_file.parent, checkpoint.config)
    notes: list[str] = []
    if to is None:
        long = _profile("long", named, files, engine, {}, checkpoint.promised)
        native: list[Profile] = []
        if checkpoint.record is not None and not checkpoint.training:
            native, notes = _native_line(checkpoint, files, named, engine)
    else:
        assert method is not None
        config, _ = extended_config(checkpoint.config, method, to, on_top)
        refuse_fitted_elsewhere(checkpoint, method, to)
        overrides = _overrides(rope_config.text_config(config), config)
        long = _profile("long", named, files, engine, overrides, to)
        native, why = ([], []) if checkpoint.training else _native_line(checkpoint, files, named, engine, on_top)
        notes = [*extension_notes(checkpoint.config, method, to, on_top), *why]
    return Export(engine, None, [*native, long], {}, [], None, notes)


def _by_folder(
    checkpoint: Checkpoint,
    engine: str,
    to: int | None,
    method: Method | None,
    out: Path,
    fold: bool,
    two_profiles: bool,
    overwrite: bool,
    on_top: bool | None,
) -> Export:
    source = checkpoint.folder
    if two_profiles and checkpoint.training:
        raise UserError(
            f"{checkpoint.name} has no native profile: its weights were trained under the rope that it has now",
            "Leave out --two-profiles.",
        )
    out = folder_to_write(out, [source], overwrite)
    _ = checkpoint.weights
    notes: list[str] = []
    with new_folder(out, [source], overwrite) as stage:
        long = stage / "long"
        if to is not None:
            assert method is not None
            notes = extend(checkpoint, to, method, long, on_top=on_top).notes
        else:
            checkpoint.refuse_renamed()
            _copied(checkpoint, long)
        folded, error = _fold(long) if fold else ([], None)
        keys = check.fix(long, engines=(engine,))
        parts = {"long": long}
        if two_profiles:
            parts = {"native": _native_folder(checkpoint, stage / "native", on_top), "long": long}
            if to is None and (undone := taken_away(checkpoint, on_top)):
                notes.append(
                    f"the native profile is without {undone}; if the model was trained with it, --on-top keeps it there"
                )
        final = {name: out / name if two_profiles else out for name in parts}
        profiles = []
        for name, part in parts.items():
            written = Checkpoint.open(part, sound=False)
            files = Files.load(part, written.config)
            profiles.append(_profile(name, final[name], files, engine, {}, written.promised))
        if not two_profiles:
            if written.record is not None and not checkpoint.training:
                native, why = _native_line(written, files, out, engine)
                profiles, notes = [*native, *profiles], [*notes, *why]
            for file in long.iterdir():
                file.rename(stage / file.name)
            long.rmdir()
    return Export(engine, out, profiles, keys, folded, error, notes)


def _native_line(
    checkpoint: Checkpoint, files: Files, final: Path, engine: str, on_top: bool | None = None
) -> tuple[list[Profile], list[str]]:
    """The native profile, where the engine's line can bring it back; else why there is none."""
    native, window = native_overrides(checkpoint, on_top)
    try:
        return [_profile("native", final, files, engine, native or {}, window)], []
    except UserError as error:  # no flags of llama.cpp for a folded model; one key of several inside another's
        return [], [
            f"no line brings the native window of {window:,} tokens back: {error.message}; "
            "as folders: "
            + command("export", final, "--engine", engine, "--two-profiles", "-o", f"{final.name}-profiles")
        ]


def _copied(source: Checkpoint, to: Path) -> None:
    to.mkdir()
    bring_all(source.folder, source.weights, to)


def taken_away(checkpoint: Checkpoint, on_top: bool | None = None) -> str:
    """What the native profile does not have of the checkpoint's rope, in words; empty if it has all.

    Whatever ropewalk extended is undone, and a scaling that an extension would replace, since it is no part of what the
    model was trained with.
    """
    if checkpoint.record is not None and not on_top:
        return "the extension that ropewalk wrote"
    starting = checkpoint.starting(on_top)
    undone = [spec for key, spec in checkpoint.specs.items() if starting[key].is_plain and not spec.is_plain]
    return ", ".join(dict.fromkeys(spec.scaling for spec in undone))


def native_overrides(checkpoint: Checkpoint, on_top: bool | None = None) -> tuple[dict[str, Any] | None, int]:
    """Keys that bring back the pretrained rope, and its window; None where the checkpoint has it already."""
    specs = checkpoint.starting(on_top)
    window = rope_config.window_of(specs)
    if not taken_away(checkpoint, on_top):
        return None, min(window, checkpoint.promised)
    native = copy.deepcopy(checkpoint.config)
    rope_config.write(native, {key: _as_parameters(spec) for key, spec in specs.items()}, window)
    return _overrides(rope_config.text_config(native), native), window


def _as_parameters(spec: RopeSpec) -> dict[str, Any]:
    if spec.is_plain:
        plain = rope_config.complete(spec, {"rope_type": "default", "rope_theta": spec.base}, 1.0)
        if plain is not None:
            return plain
    return rope_config.flat_longrope(spec, Frequencies(spec.inv_freq, spec.attention_factor), spec.window)


def _overrides(text: Any, config: Any) -> dict[str, Any]:
    """The keys of a text configuration that an extension changes, complete: engines replace the rope dict whole."""
    keys = {"rope_parameters": text.rope_parameters, "max_position_embeddings": text.max_position_embeddings}
    if hasattr(text, "original_max_position_embeddings"):
        keys["original_max_position_embeddings"] = text.original_max_position_embeddings
    if getattr(type(text), "head_dim", 0) is None:  # what is written here, transformers' yarn cannot do without
        keys["head_dim"] = text.head_dim
    return {"text_config": keys} if text is not config else keys


def _row(files: Files, engine: str, asked: Asked) -> Row:
    want = check.meant(files, asked.overrides)
    length = served(want)
    return check.row(engine, files, want, length, asked)


def _profile(name: str, final: Path, files: Files, engine: str, overrides: Mapping[str, Any], length: int) -> Profile:
    """Find how the engine is started so that it rotates as meant.

    Raises:
        UserError: if it cannot.
    """
    inner = dict(overrides.get("text_config", overrides))
    if engine == "llama.cpp":
        return _llama_cpp_profile(name, final, files, inner, length)
    via_transformers = False
    row = _row(files, engine, Asked(inner))
    if not row.sound and engine in ("vllm", "sglang") and files.model_type != "gpt_oss":
        other = _row(files, engine, Asked(inner, via_transformers=True))
        via_transformers, row = (True, other) if other.sound else (False, row)
    if not row.sound:
        raise UserError(f"{engine} would not rotate as meant: {row.note}", _mend(row, final))
    if files.prefix and overrides and engine == "transformers":
        raise UserError(
            "from_pretrained replaces 'text_config' whole; one line cannot change a part",
            WRITE,
        )
    alone = check.goes_by_forward(engine, files, Asked(inner, via_transformers=via_transformers))
    lines = {
        "transformers": lambda: launch.transformers_line(final, files.auto, overrides),
        "sglang": lambda: launch.sglang_line(final, length, overrides, via_transformers, alone),
        "vllm": lambda: launch.vllm_line(
            final, length, overrides, via_transformers, (files.tokenizer_limit or length) < length, alone
        ),
    }
    return Profile(name, length, final, lines[engine](), row)


def _mend(row: Row, folder: Path) -> str:
    """What helps where an engine is refused; no line that starts it, since none was found that rotates as meant."""
    if row.mend and not launch.is_line(row.mend):
        return row.mend
    if row.keys:
        return f"Name a folder to write with -o: it gets {', '.join(row.keys)}."
    check = command("check-export", folder)
    return f"Choose another method (ropewalk methods), or an engine that reads this one ({check})."


def _llama_cpp_profile(name: str, final: Path, files: Files, overrides: Mapping[str, Any], length: int) -> Profile:
    """Flags on a GGUF of this folder; the keys are in the file where there are no overrides."""
    flags = f"-c {length}"
    if overrides:
        architecture, metadata = llama_cpp.converted(files)
        parameters = overrides["rope_parameters"]
        flags = llama_cpp.flags_for(
            parameters.get("full_attention", parameters), length, architecture, metadata.get("rope.scaling.type")
        )
    want = check.meant(files, overrides)
    row = check.row("llama.cpp", files, want, length, Asked(flags=flags))
    if not row.sound:
        raise UserError(f"llama.cpp would not rotate as meant: {row.note}", _mend(row, final))
    return Profile(name, length, final, launch.llama_cpp_line(final, flags), row)


def _native_folder(source: Checkpoint, to: Path, on_top: bool | None) -> Path:
    """A copy of the source with the pretrained rope."""
    _copied(source, to)
    overrides, window = native_overrides(source, on_top)
    if overrides is not None:
        config = copy.deepcopy(source.config)
        keys = overrides.get("text_config", overrides)
        table = keys["rope_parameters"]
        nested = {key: entry for key, entry in table.items() if isinstance(entry, dict)}
        rope_config.write(config, nested or {ALL: table}, window)
        (to / RECORD).unlink(missing_ok=True)
        write_text(to / "config.json", config_text(config))
    return to


def _fold(folder: Path) -> tuple[list[str], float | None]:
    """Move what keys cannot say of the attention factor into the weights of a folder, in place.

    YaRN's own factor stays: every engine computes it. All of the rest goes. The model is loaded before and after, one
    at a time, in float32, to compare log-probabilities.

    Raises:
        UserError: if there is nothing to fold, no place for it, or the folded model differs.
    """
    source = Checkpoint.open(folder, sound=False)
    config, record = copy.deepcopy(source.config), copy.deepcopy(source.record)
    parameters, factors = without_attention_factor(config)
    if not factors:
        raise UserError(
            f"{folder.name}: the attention factor is what every engine computes; there is nothing to fold",
            "Leave out --fold.",
        )
    before, files = _log_probabilities(source), source.weights
    temporary = folder / ".folded"
    temporary.mkdir()
    places = {file.name: file for file in files}
    if len(places) < len(files):
        raise UserError(f"{folder.name}: weights files in subfolders have the same names", "Leave out --fold.")
    names = folding.fold(files, temporary, config, factors)
    for file in temporary.iterdir():
        places[file.name].unlink()  # a link into the source
        file.rename(places[file.name])
    shutil.rmtree(temporary)
    if record is not None:
        record |= {"rope_parameters": parameters, "folded": factors}
        for key, factor in factors.items():  # these weights are the pretrained ones when divided by it
            pretrained = record["pretrained"][key]
            pretrained |= {"attention_factor": pretrained["attention_factor"] / factor, "trained_in": True}
    rope_config.write(config, parameters, int(rope_config.text_config(config).max_position_embeddings), record)
    write_text(folder / "config.json", config_text(config))
    error = float((before - _log_probabilities(Checkpoint.open(folder, sound=False))).abs().max())
    dtype = str(rope_config.text_config(config).dtype or "float32").removeprefix("torch.")
    allowed = FOLD_TOLERANCE.get(dtype, 1e-3)
    if error > allowed:
        raise UserError(
            f"folding changed log-probabilities by {error:.3g}, allowed are {allowed:g} for {dtype} weights; "
            "nothing was written",
            "Serve it with an engine that reads the factor from a key (transformers, vLLM).",
        )
    return names, error


def without_attention_factor(config: Any) -> tuple[dict[str, Any], dict[str, float]]:
    """Rope parameters with only the attention factor that engines compute themselves, and layer type -> the rest.

    Flat factors that are YaRN's become native ``yarn``; then its own 0.1 ln s + 1 need not be folded.
    """
    specs = rope_config.read(config)
    parameters: dict[str, Any] = {}
    factors: dict[str, float] = {}
    for key, entry in rope_config.rope_parameters(config).items():
        spec, changed = specs[key], dict(entry)
        kept = 1.0
        stated = entry.get("factor") if entry.get("rope_type") == "yarn" else None
        yarn = _as_yarn(spec, float(stated or spec.length / spec.window))
        if yarn is not None and rope_config.accepts(config, key, yarn, spec.length):
            changed, kept = yarn, formulas.yarn_magnitude(yarn["factor"])
        elif entry.get("rope_type") == "longrope":
            changed |= {"attention_factor": 1.0, "short_mscale": 1.0, "long_mscale": 1.0}
        if abs(spec.attention_factor / kept - 1) > 1e-9:
            factors[key] = spec.attention_factor / kept
        parameters[key] = changed
    return parameters, factors


def _as_yarn(spec: RopeSpec, factor: float) -> dict[str, Any] | None:
    """Native YaRN parameters, if the frequencies are YaRN's of this factor with default ends."""
    if factor <= 1:
        return None
    expected = formulas.yarn(spec.base, spec.rotary_dim, factor, spec.window)
    if float((expected / spec.inv_freq - 1).abs().max()) > check.FREQUENCY:
        return None
    yarn = {
        "rope_type": "yarn",
        "rope_theta": spec.base,
        "factor": factor,
        "original_max_position_embeddings": spec.window,
    }
    return rope_config.complete(spec, yarn, formulas.yarn_magnitude(factor))


def _log_probabilities(checkpoint: Checkpoint) -> Any:
    """Log-probabilities of fixed tokens, float32 [1, n, vocabulary], the model in float32."""
    import torch

    with rope_config.quiet(), torch.no_grad():
        model = checkpoint.load("float32", "cpu")
        vocabulary = int(rope_config.text_config(model.config).vocab_size)
        ids = torch.arange(7, 7 + 13 * 64, 13)[None] % vocabulary
        return model(ids, use_cache=False).logits.float().log_softmax(-1)
