"""What a GGUF says about its rope, what llama.cpp makes of it, and where it differs from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ropewalk.checkpoint.checkpoint import Checkpoint
from ropewalk.checkpoint.gguf.from_gguf import RopeOfFile, read
from ropewalk.checkpoint.gguf.hyperparameters import FULL, OR_SLIDING, SLIDING, layer_types
from ropewalk.checkpoint.gguf.mistakes import notes, problem, problems, rewriting
from ropewalk.checkpoint.gguf.rope_keys import SAME, error, one_set
from ropewalk.checkpoint.inspection import Inspection
from ropewalk.common.errors import UserError
from ropewalk.rope.problems import Problem
from ropewalk.rope.spec import ALL, RopeSpec

CACHE = 2  # bytes per value: llama.cpp's cache is float16 unless told otherwise


def inspect_gguf(path: Path, against: str | Path | Checkpoint | None = None) -> Inspection:
    """Inspect a GGUF file; no weights are read.

    Args:
        path: the file.
        against: folder, config.json or hub id of the checkpoint that it should agree with.

    Raises:
        UserError: if the file is broken, or a value has the wrong type; file, key and value are named.
    """
    file = read(path)
    found, layers = list(problems(file)), layer_types(file)
    kinds = list(dict.fromkeys(layers))
    try:
        specs, unreadable = {kind: file.spec(kind) for kind in (kinds if SLIDING in kinds else [ALL])}, None
    except UserError as refusal:
        specs, unreadable = {}, refusal.message
    spec = specs.get(FULL) or next(iter(specs.values()), None)
    known = spec is not None and OR_SLIDING not in kinds
    if spec is not None and against is not None:
        checkpoint = Checkpoint.open(against)
        found += _differences(file, spec, one_set(checkpoint.rope), checkpoint.name)
    return Inspection(
        model=str(path),
        architecture=file.architecture,
        layers={kind: layers.count(kind) for kind in kinds},
        specs=specs,
        window=None if spec is None else spec.window,
        length=None if spec is None else spec.length,
        kv_bytes_per_token=layers.count(FULL) * 2 * spec.kv_heads * spec.head_dim * CACHE if spec and known else None,
        dtype="float16",
        extended_by=None,
        unreadable=unreadable,
        problems=found,
        notes=notes(file),
    )


def _differences(file: RopeOfFile, seen: RopeSpec, wanted: RopeSpec, against: str) -> Iterator[Problem]:
    """Where llama.cpp would rotate otherwise than the checkpoint says; how either spells it does not matter."""
    mend = rewriting(file, "--against", against)

    def differs(key: str, one: Any, other: Any) -> Problem:
        return problem(file, "differs-from-checkpoint", key, one, other, mend)

    if seen.rotary_dim != wanted.rotary_dim:
        other = f"{wanted.rotary_dim}: {against} is another model"
        yield problem(
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
