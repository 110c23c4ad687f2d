"""What a GGUF says about its rope, what llama.cpp makes of it, and where it differs from a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ropewalk.checkpoint.inspection import Inspection
from ropewalk.common.errors import UserError
from ropewalk.engines.gguf.from_gguf import RopeOfFile, read
from ropewalk.engines.gguf.rope_keys import LOADED_UNUSED, SAME, error, loaded, one_set, rope_of_checkpoint
from ropewalk.engines.llama_cpp import READS_YARN_BETAS, READS_YARN_EXTRAPOLATION
from ropewalk.rope.problems import Problem
from ropewalk.rope.spec import ALL, RopeSpec

CACHE = 2  # bytes per value: llama.cpp's cache is float16 unless told otherwise


def inspect_gguf(path: Path, against: str | None = None) -> Inspection:
    """Inspect a GGUF file; no weights are read.

    Args:
        path: the file.
        against: folder, config.json or hub id of the checkpoint that it should agree with.

    Raises:
        UserError: if the file is broken, or a value has the wrong type; file, key and value are named.
    """
    file = read(path)
    found = list(_problems(file))
    try:
        spec, unreadable = file.spec(), None
    except UserError as refusal:
        spec, unreadable = None, refusal.message
    if spec is not None and against is not None:
        found += _differences(file, spec, one_set(rope_of_checkpoint(against)), against)
    layers = int(file.keys.get("block_count", 0))
    return Inspection(
        model=str(path),
        architecture=file.architecture,
        layers={"full_attention": layers},
        specs={} if spec is None else {ALL: spec},
        window=None if spec is None else spec.window,
        length=None if spec is None else spec.length,
        kv_bytes_per_token=None if spec is None else layers * 2 * spec.kv_heads * spec.head_dim * CACHE,
        dtype="float16",
        extended_by=None,
        unreadable=unreadable,
        problems=found,
    )


def _problem(file: RopeOfFile, code: str, key: str, seen: Any, expected: Any, mend: str) -> Problem:
    return Problem(code, ALL, f"{file.architecture}.{key}", seen, expected, mend)


def _set(file: RopeOfFile, keys: Mapping[str, Any]) -> str:
    pairs = " ".join(f"--set '{file.architecture}.{key}={json.dumps(value)}'" for key, value in keys.items())
    return f"ropewalk inspect {file.path} {pairs} {_patch(file)}"


def _patch(file: RopeOfFile) -> str:
    return f"--patch {file.path.with_suffix('')}-patched.gguf"


def _problems(file: RopeOfFile) -> Iterator[Problem]:
    keys, again = file.keys, f"ropewalk inspect {file.path} --against CHECKPOINT {_patch(file)}"
    kind, factor = keys.get("rope.scaling.type"), keys.get("rope.scaling.factor", 0.0)
    if kind == "longrope" and not file.factors:
        yield _problem(
            file, "factors-missing", "rope.scaling.type", kind,
            "a factor tensor beside it: without one llama.cpp rotates as the model that was not extended", again,
        )  # fmt: skip
    for name in set(file.factors) - set(loaded(file.architecture, kind)):
        what = (
            "loads the tensor and rotates without it" if file.architecture in LOADED_UNUSED else "has no place for it"
        )
        yield _problem(
            file, "factors-not-used", name, f"{len(file.factors[name])} factors",
            f"no such tensor: llama.cpp {what} in this architecture", again,
        )  # fmt: skip
    if kind is None and factor not in (0.0, 1.0):
        yield _problem(
            file, "scaling-type-missing", "rope.scaling.type", None,
            f"a type beside the factor {factor:g}; without one llama.cpp takes linear",
            _set(file, {"rope.scaling.type": "linear"}) + "   (or yarn, if that was meant)",
        )  # fmt: skip
    yield from _yarn_problems(file, kind, factor)
    original = keys.get("rope.scaling.original_context_length")
    if kind in ("linear", "yarn") and factor > 1 and original:
        promised = round(original * factor)
        if abs(keys["context_length"] - promised) > 0.01 * promised:
            yield _problem(
                file, "length-contradicts-factor", "context_length", keys["context_length"],
                f"{promised} = {original} x {factor:g}; llama-server gives no slot more than this key says",
                _set(file, {"context_length": promised}),
            )  # fmt: skip


def _yarn_problems(file: RopeOfFile, kind: Any, factor: float) -> Iterator[Problem]:
    keys, architecture = file.keys, file.architecture
    extrapolation = keys.get("rope.scaling.yarn_ext_factor", 1.0)
    if extrapolation not in (-1.0, 0.0, 1.0):
        yield _problem(
            file, "yarn-ext-factor", "rope.scaling.yarn_ext_factor", extrapolation,
            "1.0: the share of YaRN's ramp that is used, not the factor of the extension",
            _set(file, {"rope.scaling.yarn_ext_factor": 1.0}),
        )  # fmt: skip
    attention = keys.get("rope.scaling.yarn_attn_factor", 1.0)
    if attention != 1.0 and architecture not in READS_YARN_EXTRAPOLATION:
        yield _problem(
            file, "attention-factor-unread", "rope.scaling.yarn_attn_factor", attention,
            "the key rope.scaling.attn_factor, which llama.cpp reads",
            _set(file, {"rope.scaling.attn_factor": attention, "rope.scaling.yarn_attn_factor": None}),
        )  # fmt: skip
    for key, default in (("yarn_beta_fast", 32.0), ("yarn_beta_slow", 1.0)):
        beta = keys.get(f"rope.scaling.{key}", default)
        if kind == "yarn" and beta != default and architecture not in READS_YARN_BETAS:
            yield _problem(
                file, "beta-unread", f"rope.scaling.{key}", beta,
                f"{default:g}: llama.cpp reads this key for {', '.join(sorted(READS_YARN_BETAS))} only",
                f"llama-server -m {file.path} --{key.replace('_', '-')} {beta:g}",
            )  # fmt: skip
    if kind == "yarn" and factor > 1 and "rope.scaling.original_context_length" not in keys:
        window = round(keys["context_length"] / factor)
        yield _problem(
            file, "original-length-missing", "rope.scaling.original_context_length", None, window,
            _set(file, {"rope.scaling.original_context_length": window}),
        )  # fmt: skip


def _differences(file: RopeOfFile, seen: RopeSpec, wanted: RopeSpec, against: str) -> Iterator[Problem]:
    """Where llama.cpp would rotate otherwise than the checkpoint says; how either spells it does not matter."""
    mend = f"ropewalk inspect {file.path} --against {against} {_patch(file)}"

    def differs(key: str, one: Any, other: Any) -> Problem:
        return _problem(file, "differs-from-checkpoint", key, one, other, mend)

    if seen.rotary_dim != wanted.rotary_dim:
        other = f"{wanted.rotary_dim}: {against} is another model"
        yield _problem(
            file, "differs-from-checkpoint", "rope.dimension_count", seen.rotary_dim, other,
            "Give the checkpoint that the GGUF was made from.",
        )  # fmt: skip
        return
    off = error(file.reading(), wanted)
    if off > SAME and abs(seen.base / wanted.base - 1) > SAME:
        yield differs("rope.freq_base", seen.base, wanted.base)
    elif off > SAME:
        yield differs("rope_freqs", _summary(seen), f"{_summary(wanted)} (frequencies are off by up to {off:.2%})")
    if abs(seen.attention_factor - wanted.attention_factor) > SAME:
        yield differs("rope.scaling.attn_factor", round(seen.attention_factor, 6), round(wanted.attention_factor, 6))
    if seen.length != wanted.length:
        yield differs("context_length", seen.length, wanted.length)


def _summary(spec: RopeSpec) -> str:
    low, high = min(spec.factors), max(spec.factors)
    return "no factors" if low == high == 1.0 else f"factors {low:.4g} to {high:.4g}"
