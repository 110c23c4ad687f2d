"""Whether every engine rotates as the checkpoint means: one row per engine, each difference with the key that mends it.

What is meant is what ropewalk wrote down (the key ``ropewalk``), else what transformers makes of the files.
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ropewalk.checkpoint.edits import set_key
from ropewalk.checkpoint.gguf import llama_rope
from ropewalk.common.errors import UserError
from ropewalk.common.outside import read_json
from ropewalk.common.whole import write_text
from ropewalk.engines import launch, llama_cpp, sglang, transformers, vllm
from ropewalk.engines.gguf.to_gguf import holds_factors
from ropewalk.engines.reading import Files
from ropewalk.rope import architecture, formulas
from ropewalk.rope import config as rope_config
from ropewalk.rope.spec import ALL, Reading, served

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

FREQUENCY = 1e-5  # relative; engines and transformers round their formulas to float32
FACTOR = 1e-4  # relative
ENGINES = ("transformers", "transformers 4", "vllm", "sglang", "llama.cpp")


@dataclass(frozen=True)
class Row:
    """One engine's line of the table.

    Attributes:
        engine: one of ``ENGINES``.
        version: whose rules were applied; empty where they have not changed.
        loads: False if the engine refuses the checkpoint; the next three are None then.
        same_frequencies: in every layer type, at the promised length.
        same_attention_factor: likewise.
        same_length: the engine takes the promised length by itself.
        note: what differs, or why it does not load.
        mend: the command; empty where keys mend it.
        keys: [FILE:]key -> value; what ``--fix`` writes.
    """

    engine: str
    version: str
    loads: bool
    same_frequencies: bool | None = None
    same_attention_factor: bool | None = None
    same_length: bool | None = None
    note: str = ""
    mend: str = ""
    keys: dict[str, Any] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """Rotates alike; a length that must be stated is on the launch line."""
        return self.loads and bool(self.same_frequencies and self.same_attention_factor)

    @property
    def usable(self) -> bool:
        """Rotates alike, and takes the promised length: by itself, or as told by the line in ``mend``."""
        return self.sound and bool(self.same_length or (self.mend and not self.keys))


@dataclass(frozen=True)
class Asked:
    """How the engines are started.

    Attributes:
        overrides: of ``--hf-overrides`` (vLLM) and ``--json-model-override-args`` (SGLang); what they say is meant, and
            engines that take none are left out.
        flags: of llama.cpp; they meet a GGUF that the stock converter wrote.
        versions: engine -> version; the latest known where it is not named.
        via_transformers: vLLM and SGLang run transformers' modelling code (``--model-impl transformers``).
    """

    overrides: Mapping[str, Any] = field(default_factory=dict)
    flags: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    via_transformers: bool = False


def check_export(folder: Path, asked: Asked | None = None, config: PreTrainedConfig | None = None) -> list[Row]:
    """Compare what each engine derives with what the checkpoint means; ``config`` is as in ``Files.load``.

    Raises:
        UserError: if the folder has no readable configuration.
    """
    asked = asked or Asked()
    asked = replace(asked, overrides=_of_text(asked.overrides))
    files = Files.load(folder, config)
    want = meant(files, asked.overrides)
    length = served(want)
    engines = [engine for engine in ENGINES if not asked.overrides or _takes_overrides(engine, asked)]
    return [row(engine, files, want, length, asked) for engine in engines]


def _takes_overrides(engine: str, asked: Asked) -> bool:
    return engine in ("transformers", "vllm", "sglang") or (engine == "llama.cpp" and bool(asked.flags))


def row(engine: str, files: Files, want: Mapping[str, Reading], length: int, asked: Asked) -> Row:
    """One engine's row: what it makes of ``files`` against ``want``, at ``length`` tokens."""
    try:
        return _compared(engine, files, asked, want, READERS[engine](files, length, asked))
    except UserError as error:
        return _refused(engine, files, asked, error)


def meant(files: Files, overrides: Mapping[str, Any] | None = None) -> dict[str, Reading]:
    """Layer type -> the rotation that was meant, at the promised length."""
    record = rope_config.record_of(files.config)
    if overrides:
        files = files.replaced(completed(files, overrides))
    elif record is not None and "rope_parameters" in record:
        table = {**files.entries, **record["rope_parameters"]}
        files = files.replaced(
            {
                "rope_parameters": table.get(ALL, table),
                "max_position_embeddings": int(record["target"]),
                **architecture.listed_bases(files.config, next(iter(record["rope_parameters"].values()))["rope_theta"]),
            }
        )
        if hasattr(files.config, "original_max_position_embeddings"):
            originals = {entry.get("original_max_position_embeddings") for entry in table.values()} - {None}
            files.config.original_max_position_embeddings = originals.pop() if originals else int(record["target"])
    first = transformers.read(files, files.length)
    length = served(first)
    return first if length == files.length else transformers.read(files, length)


def _of_text(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of the language model, under the newer name of the rope dict."""
    keys = dict(overrides.get("text_config", overrides))
    rope = keys.pop("rope_scaling", None)
    return keys if rope is None else {**keys, "rope_parameters": rope}


def completed(files: Files, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides with the keys of the checkpoint's own rope dict that they forget (``rope_theta`` above all)."""
    whole = dict(overrides)
    rope = whole.get("rope_parameters")
    if isinstance(rope, dict) and ALL in files.entries:
        own = files.entries[ALL]
        kept = {
            key: own[key]
            for key in own
            if key not in rope_config.OF_TYPES or key in ("rope_theta", "partial_rotary_factor")
        }
        whole["rope_parameters"] = {**kept, **rope}
    return whole


def _transformers(files: Files, length: int, asked: Asked) -> dict[str, Reading]:
    return transformers.read(files.replaced(completed(files, asked.overrides)), length)


def _transformers_4(files: Files, length: int, asked: Asked) -> dict[str, Reading]:
    return transformers.read(files, length, "4.57")


def _vllm(files: Files, length: int, asked: Asked) -> dict[str, Reading]:
    version = asked.versions.get("vllm", vllm.LATEST)
    return vllm.read(files.replaced(asked.overrides), length, version, asked.via_transformers)


def _sglang(files: Files, length: int, asked: Asked) -> dict[str, Reading]:
    version = asked.versions.get("sglang", sglang.LATEST)
    merges = sglang.rules(version).merges_overrides
    overrides = asked.overrides
    if merges and isinstance(overrides.get("rope_parameters"), dict):
        overrides = {**overrides, "rope_parameters": {**files.config.rope_parameters, **overrides["rope_parameters"]}}
    return sglang.read(files.replaced(overrides), length, version, asked.via_transformers)


def _llama_cpp(files: Files, length: int, asked: Asked) -> dict[str, Reading]:
    architecture, metadata = llama_cpp.converted(files)
    flags = llama_rope.Flags.parse(asked.flags)
    return {
        key: replace(
            llama_rope.read(metadata, flags, architecture, sliding=key == "sliding_attention"),
            stairs=rope_config.stairs(entry) if entry.get("rope_type") == "yarn" else None,
        )
        for key, entry in files.entries.items()
    }


READERS: dict[str, Callable[[Files, int, Asked], dict[str, Reading]]] = {
    "transformers": _transformers,
    "transformers 4": _transformers_4,
    "vllm": _vllm,
    "sglang": _sglang,
    "llama.cpp": _llama_cpp,
}


def _version(engine: str, asked: Asked) -> str:
    latest = {"vllm": vllm.LATEST, "sglang": sglang.LATEST, "transformers": transformers.LATEST}
    return asked.versions.get(engine, latest.get(engine, ""))


def _refused(engine: str, files: Files, asked: Asked, error: UserError) -> Row:
    keys = {} if error.mend else _keys(engine, files, None)
    return Row(engine, _version(engine, asked), False, note=error.message, mend=error.mend, keys=keys)


def _compared(
    engine: str, files: Files, asked: Asked, want: Mapping[str, Reading], found: Mapping[str, Reading]
) -> Row:
    pairs = [(want[key], found.get(key) or found[ALL]) for key in want]
    frequencies = [_same_frequencies(wish, have) for wish, have in pairs]
    factors = [_same_factors(wish, have) for wish, have in pairs]
    length, taken = served(want), served(found)
    compared = Row(engine, _version(engine, asked), True, all(frequencies), all(factors), taken == length)
    notes, mend, keys = [], "", {}
    if not compared.sound:
        keys = _keys(engine, files, want) if _same_stairs(want, found) or engine == "transformers 4" else {}
        mend = "" if keys else _mend(engine, files, asked, want, all(frequencies))
        differing = [a and b for a, b in zip(frequencies, factors, strict=True)].index(False)
        notes.append(_difference(*pairs[differing]))
    if taken < length and engine == "vllm" and (files.tokenizer_limit or length) < length:
        keys["tokenizer_config.json:model_max_length"] = length
    elif taken != length:
        notes.append(f"takes {taken:,} tokens by itself, meant are {length:,}")
        mend = mend or _line(engine, files, asked, length)
    if compared.sound and goes_by_forward(engine, files, asked):
        notes.append("rotates by the longest of what it reads at once: one request at a time, in one piece")
        mend = mend or _line(engine, files, asked, length)
    notes += [f"{key} is {_seen(files, key)!r}, {engine} needs {_short(value)}" for key, value in keys.items()]
    return replace(compared, note="; ".join(notes), mend=mend, keys=keys)


def _line(engine: str, files: Files, asked: Asked, length: int) -> str:
    """The line that starts an engine with a length; empty where its length is what the files say."""
    if engine == "vllm":
        alone = goes_by_forward(engine, files, asked)
        return launch.vllm_line(files.folder, length, asked.overrides, asked.via_transformers, alone=alone)
    if engine == "sglang":
        alone = goes_by_forward(engine, files, asked)
        return launch.sglang_line(files.folder, length, asked.overrides, asked.via_transformers, alone)
    if engine == "llama.cpp":
        own = f"-c {length} --override-kv {llama_cpp.converted(files)[0]}.context_length=int:{length}"
        return launch.llama_cpp_line(files.folder, f"{asked.flags} {own}".strip())
    return ""


def goes_by_forward(engine: str, files: Files, asked: Asked) -> bool:
    """Whether an engine rotates by the last position of whatever it reads in one forward.

    transformers' own code does so where a rope has two sets of factors, or is dynamic. In transformers that is the
    whole text; a server reads prompts in pieces and several requests at once, and keeps keys that were rotated before.
    """
    own = {"vllm": vllm.VIA_TRANSFORMERS, "sglang": sglang.VIA_TRANSFORMERS}.get(engine, frozenset())
    if files.model_type not in own and not (asked.via_transformers and engine in ("vllm", "sglang")):
        return False
    specs = rope_config.read(files.replaced(completed(files, asked.overrides)).config).values()
    return any(spec.switches or spec.rope_type == "dynamic" for spec in specs)


def _same_frequencies(want: Reading, have: Reading) -> bool:
    if want.inv_freq.shape != have.inv_freq.shape:
        return False
    return bool(torch.isclose(have.inv_freq, want.inv_freq, rtol=FREQUENCY, atol=1e-15).all())


def _same_factors(want: Reading, have: Reading) -> bool:
    """Whether logits are scaled alike: by cos and sin, by attention itself, and by the query's position."""
    pairs = ((want.attention_factor, have.attention_factor), (want.logit_scale, have.logit_scale))
    return all(math.isclose(*pair, rel_tol=FACTOR) for pair in pairs) and want.stairs == have.stairs


def _same_stairs(want: Mapping[str, Reading], found: Mapping[str, Reading]) -> bool:
    return {one.stairs for one in want.values()} == {one.stairs for one in found.values()}


def _difference(want: Reading, have: Reading) -> str:
    if want.inv_freq.shape != have.inv_freq.shape:
        return f"rotates {2 * have.inv_freq.numel()} dimensions, meant are {2 * want.inv_freq.numel()}"
    if not _same_frequencies(want, have):
        ratio = (have.inv_freq / want.inv_freq.clamp_min(1e-30)).tolist()
        worst = max(range(len(ratio)), key=lambda i: abs(math.log(max(ratio[i], 1e-30))))
        seen, meant = float(have.inv_freq[worst]), float(want.inv_freq[worst])
        return f"frequency {worst} is {seen:.4g} radians per token, meant is {meant:.4g}"
    if not math.isclose(want.logit_scale, have.logit_scale, rel_tol=FACTOR):
        return f"logits are scaled by {have.logit_scale:.6g} besides, meant is {want.logit_scale:.6g} (mscale_all_dim)"
    if want.stairs != have.stairs:
        return f"queries grow with their position by {have.stairs}, meant is {want.stairs} (llama_4_scaling_beta)"
    return f"attention factor is {have.attention_factor:.6g}, meant is {want.attention_factor:.6g}"


def _keys(engine: str, files: Files, want: Mapping[str, Reading] | None) -> dict[str, Any]:
    """[FILE:]key -> value that makes the engine agree; empty where no key does."""
    found: dict[str, Any] = {}
    for layer_type, entry in files.entries.items():
        t = want[layer_type].attention_factor if want is not None and layer_type in want else None
        for key, value in _entry_keys(engine, files, entry, t).items():
            found |= {path + key: value for path in _paths(files, layer_type)}
    if engine == "transformers 4" and ALL in files.entries:
        rope = dict(files.entries[ALL])
        found = {f"{files.prefix}rope_theta": rope.pop("rope_theta", None)}
        if rope.get("rope_type", "default") != "default":
            found[f"{files.prefix}rope_scaling"] = rope
    partial = next(iter(files.entries.values())).get("partial_rotary_factor")
    if engine == "sglang" and partial is not None and getattr(files.config, "partial_rotary_factor", None) != partial:
        found[f"{files.prefix}partial_rotary_factor"] = partial
    return {key: value for key, value in found.items() if value is not None and not _is(_seen(files, key), value)}


def _is(seen: Any, value: Any) -> bool:
    return type(seen) is type(value) and seen == value  # 4 is not 4.0 to an engine


def _entry_keys(engine: str, files: Files, entry: Mapping[str, Any], t: float | None) -> dict[str, Any]:
    kind, factor = entry.get("rope_type", "default"), entry.get("factor")
    if kind == "linear" and isinstance(factor, int):
        return {"factor": float(factor)}
    if engine == "vllm" and kind == "yarn" and files.model_type == "gpt_oss":
        return {"beta_fast": entry.get("beta_fast", 32.0), "beta_slow": entry.get("beta_slow", 1.0)}
    if t is None or engine not in ("vllm", "sglang") or (engine == "vllm" and vllm.enlarges(files.model_type, entry)):
        return {}
    if kind == "yarn" and isinstance(factor, (int, float)) and files.model_type != "gpt_oss":
        return {"attn_factor": t / formulas.yarn_magnitude(float(factor)), "attention_factor": t}
    if kind == "longrope":
        return {"short_mscale": t, "long_mscale": t}
    return {}


def _paths(files: Files, layer_type: str) -> list[str]:
    """Where a layer type's parameters stand in the file: under the new name, the old one, or both."""
    inner = "" if layer_type == ALL else f"{layer_type}."
    names = [name for name in ("rope_parameters", "rope_scaling") if isinstance(files.raw.get(name), dict)]
    return [f"{files.prefix}{name}.{inner}" for name in names]


def _seen(files: Files, key: str) -> Any:
    if key.startswith("tokenizer_config.json:"):
        return files.tokenizer_limit
    value: Any = files.raw
    for step in key.removeprefix(files.prefix).split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def _mend(engine: str, files: Files, asked: Asked, want: Mapping[str, Reading], only_factor: bool) -> str:
    """What to do where no key of the file helps."""
    model, length, place = shlex.quote(files.name), served(want), Path(files.name)
    if asked.overrides and engine in ("vllm", "sglang"):
        return _line(engine, files, replace(asked, overrides=completed(files, asked.overrides)), length)
    if engine == "transformers":
        return f"the file was changed after ropewalk wrote it: extend the original again with -o {model} --overwrite"
    if any(entry.get("rope_type") == "dynamic" for entry in files.entries.values()):
        if length > files.length:
            return f"ropewalk extend {model} --to {length} --method dynamic-ntk   (freezes its base there)"
        return f"ropewalk inspect {model}   (names the key that makes its rope static)"
    if engine == "llama.cpp":
        return _in_gguf(files, model, length)
    if only_factor and not any(reading.stairs for reading in want.values()):
        return f"ropewalk export {model} --engine {engine} --fold -o {shlex.quote(f'{place.name}-{engine}')}"
    return _line(engine, files, replace(asked, via_transformers=True), length)


def _in_gguf(files: Files, model: str, length: int) -> str:
    """What says a rope to llama.cpp that its converter drops."""
    if not holds_factors(files.model_type):
        return f"ropewalk extend {model} --to {length} --method yarn   (or ntk-aware or pi, which have keys there)"
    file = shlex.quote(f"{Path(files.name).name}.gguf")
    return f"ropewalk export {model} --engine llama.cpp --gguf {file}   (the file holds the factors)"


def fix(
    folder: Path,
    asked: Asked | None = None,
    engines: Collection[str] = ENGINES,
    write: Callable[[Path, str], object] = write_text,
) -> dict[str, Any]:
    """Write the keys that make engines agree.

    Args:
        folder: of the checkpoint.
        asked: what else the engines are told.
        engines: those that must agree.
        write: writes the text of a file.

    Returns:
        [FILE:]key -> value as written.

    Raises:
        UserError: if a file cannot be read or written.
    """
    written: dict[str, Any] = {}
    while True:  # a key for one engine may bring in a dict where another engine's key belongs too
        rows = check_export(folder, asked)
        wanted = {key: value for row in rows if row.engine in engines for key, value in row.keys.items()}
        if not wanted.keys() - written.keys():
            return written
        by_file: dict[str, dict[str, Any]] = {}
        for key, value in wanted.items():
            name, colon, inside = key.rpartition(":")
            by_file.setdefault(name if colon else "config.json", {})[inside] = value
        for name, keys in by_file.items():
            content = read_json(folder / name)
            for key, value in keys.items():
                set_key(folder / name, content, key.split("."), value)
            write(folder / name, json.dumps(content, indent=2) + "\n")
        written |= wanted
