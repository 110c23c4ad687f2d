"""What is wrong with a GGUF file, seen from its keys: what llama.cpp or transformers takes otherwise than meant."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from ropewalk.checkpoint.gguf.from_gguf import RopeOfFile
from ropewalk.checkpoint.gguf.hyperparameters import strange
from ropewalk.checkpoint.gguf.llama_rope import READS_YARN_BETAS, READS_YARN_EXTRAPOLATION, SCALING_TYPES
from ropewalk.checkpoint.gguf.rope_keys import LOADED_UNUSED, loaded
from ropewalk.common.command_lines import command, settings
from ropewalk.rope.problems import Problem
from ropewalk.rope.spec import ALL, ROUNDED

ORIGIN = "Use the checkpoint that the file was made from."
AGAINST = "Write it again with the rope of the checkpoint that it was made from:"
SCALED_BY_TENSORS = ("phi3", "phimoe")  # the converter writes factors for them, and no type
PLAUSIBLE = 8192  # tokens that models with the base 10,000 were trained on


def problem(file: RopeOfFile, code: str, key: str, seen: Any, expected: Any, mend: str) -> Problem:
    return Problem(code, ALL, f"{file.architecture}.{key}", seen, expected, mend)


def _set(file: RopeOfFile, keys: Mapping[str, Any]) -> str:
    return rewriting(file, *settings({f"{file.architecture}.{key}": value for key, value in keys.items()}))


def rewriting(file: RopeOfFile, *words: str) -> str:
    """The line that writes a file again beside itself, as further words say."""
    return command("inspect", file.path, *words, "--patch", f"{file.path.with_suffix('')}-patched.gguf")


def problems(file: RopeOfFile) -> Iterator[Problem]:
    """Misconfigurations; a sound file yields none."""
    keys, again = file.keys, f"{AGAINST} {rewriting(file)} --against, and its name."
    kind, factor = keys.get("rope.scaling.type"), keys.get("rope.scaling.factor", 0.0)
    if kind is not None and kind not in SCALING_TYPES:
        yield problem(
            file, "scaling-type-unknown", "rope.scaling.type", kind,
            f"one of {', '.join(SCALING_TYPES)}; llama.cpp stops at any other", again,
        )  # fmt: skip
    if kind == "longrope" and not file.factors:
        yield problem(
            file, "factors-missing", "rope.scaling.type", kind,
            "a factor tensor beside it: without one llama.cpp rotates as the model that was not extended", again,
        )  # fmt: skip
    original, length = keys.get("rope.scaling.original_context_length"), keys["context_length"]
    by_tensors = file.architecture in SCALED_BY_TENSORS and kind is None and not factor and not file.factors
    if by_tensors and original and original < length:
        yield problem(
            file, "factors-missing", "rope.scaling.original_context_length", original,
            f"a scaling from {original} to {length} tokens (factor tensors, or a type and a factor); without one "
            "llama.cpp rotates as the model that was not extended", again,
        )  # fmt: skip
    if factor != 0.0 and not 1.0 <= factor < math.inf:
        inverse = 1 / factor if 0 < factor < 1 else 1.0
        yield problem(
            file, "factor-invalid", "rope.scaling.factor", factor,
            "at least 1: lengths are multiplied by it, positions divided", _set(file, {"rope.scaling.factor": inverse}),
        )  # fmt: skip
    lost = kind == "linear" and bool(original) and original < length
    if factor == 0.0 and "rope.scale_linear" not in keys and (kind == "yarn" or lost):
        meant = {"rope.scaling.factor": length / original} if original and original < length else {}
        yield problem(
            file, "factor-invalid", "rope.scaling.factor", keys.get("rope.scaling.factor"),
            f"the factor of {kind}: without one llama.cpp rotates as the model that was not extended",
            _set(file, meant or {"rope.scaling.type": None})
            + ("" if meant else "   (what llama.cpp computes; by how much it was extended, only its checkpoint says)"),
        )  # fmt: skip
    trained = original or length / max(factor, 1.0)
    if "rope.freq_base" not in keys and trained > PLAUSIBLE:
        yield problem(
            file, "freq-base-missing", "rope.freq_base", None,
            f"the base that the model was trained with: llama.cpp takes 10,000, too small for {length} tokens", again,
        )  # fmt: skip
    for name in set(file.factors) - set(loaded(file.architecture, kind)):
        what = (
            "loads the tensor and rotates without it" if file.architecture in LOADED_UNUSED else "has no place for it"
        )
        yield problem(
            file, "factors-not-used", name, f"{len(file.factors[name])} factors",
            f"no such tensor: llama.cpp {what} in this architecture", again,
        )  # fmt: skip
    if kind is None and factor not in (0.0, 1.0):
        yield problem(
            file, "scaling-type-missing", "rope.scaling.type", None,
            f"a type beside the factor {factor:g}; without one llama.cpp takes linear",
            _set(file, {"rope.scaling.type": "linear"}) + "   (or yarn, if that was meant)",
        )  # fmt: skip
    yield from _yarn_problems(file, kind, factor)
    yield from _size_problems(file)
    for found in strange(file):
        why, mend = "transformers has no such model", ORIGIN
        if found.passed_over:
            why = "llama.cpp passes over this key in this architecture, and computes without it"
            mend = _set(file, {found.key: None}) + "   (then the file says what llama.cpp computes; what was meant, "
            mend += "only the checkpoint knows that it was made from)"
        yield problem(
            file, "key-not-understood", found.key, found.seen, f"{found.allowed or 'no such key'}: {why}", mend
        )
    if (reached := _reached(file)) and original and not original <= length <= ROUNDED * reached:
        yield problem(
            file, "length-contradicts-factor", "context_length", length, f"{reached} = {original} x {factor:g}",
            _set(file, {"context_length": reached}),
        )  # fmt: skip


def _reached(file: RopeOfFile) -> int:
    """Tokens that a factor is for; 0 if there is none."""
    factor, original = (file.keys.get(f"rope.scaling.{key}") or 0 for key in ("factor", "original_context_length"))
    scaled = file.keys.get("rope.scaling.type") in ("linear", "yarn") and 1 < factor < math.inf
    return round(original * factor) if scaled else 0


def notes(file: RopeOfFile) -> list[str]:
    """What to know of a sound file: a factor that is for more tokens than the file states."""
    length, reached = file.keys["context_length"], _reached(file)
    if ROUNDED * length >= reached or length < file.keys.get("rope.scaling.original_context_length", length + 1):
        return []
    return [
        f"{length:,} tokens are promised: {file.architecture}.context_length says so, and llama-server gives no slot "
        f"more; the factor is for {reached:,}. To promise these: {_set(file, {'context_length': reached})}"
    ]


def _size_problems(file: RopeOfFile) -> Iterator[Problem]:
    """Layers and heads that the tensors do not have; a key that has one value per layer is not looked at."""
    keys = file.keys
    norms = [name for name in file.header.tensors if re.fullmatch(r"blk\.\d+\.attn_norm\.weight", name)]
    if norms and len(norms) != keys.get("block_count", len(norms)):
        yield problem(
            file, "block-count-invalid", "block_count", keys["block_count"], f"{len(norms)}, as tensors have", ORIGIN
        )
    width, heads = keys.get("embedding_length"), keys.get("attention.head_count")
    by_layer = f"{file.architecture}.attention.head_count_kv" in file.header.lists
    if width is None or heads is None or by_layer:
        return
    size, groups = keys.get("attention.key_length") or width // heads, keys.get("attention.head_count_kv", heads)
    if "attention.key_length" not in keys and width % heads:
        yield problem(
            file, "head-count-invalid", "attention.head_count", heads, f"a divisor of embedding_length {width}", ORIGIN
        )
        return
    if heads % groups:
        yield problem(
            file, "head-count-invalid", "attention.head_count_kv", groups, f"a divisor of head_count {heads}", ORIGIN
        )
        return
    for name, key, count in (("attn_q", "head_count", heads), ("attn_k", "head_count_kv", groups)):
        place = file.header.tensors.get(f"blk.0.{name}.weight")
        if place is not None and place.elements != count * size * width:
            yield problem(
                file, "head-count-invalid", f"attention.{key}", count,
                f"{place.elements / (size * width):g} heads of {size}, as tensor blk.0.{name}.weight has", ORIGIN,
            )  # fmt: skip


def _yarn_problems(file: RopeOfFile, kind: Any, factor: float) -> Iterator[Problem]:
    keys, architecture = file.keys, file.architecture
    extrapolation = keys.get("rope.scaling.yarn_ext_factor", 1.0)
    if extrapolation not in (-1.0, 0.0, 1.0):
        yield problem(
            file, "yarn-ext-factor", "rope.scaling.yarn_ext_factor", extrapolation,
            "1.0: the share of YaRN's ramp that is used, not the factor of the extension",
            _set(file, {"rope.scaling.yarn_ext_factor": 1.0}),
        )  # fmt: skip
    attention = keys.get("rope.scaling.yarn_attn_factor", 1.0)
    if attention != 1.0 and architecture not in READS_YARN_EXTRAPOLATION:
        yield problem(
            file, "attention-factor-unread", "rope.scaling.yarn_attn_factor", attention,
            "the key rope.scaling.attn_factor, which llama.cpp reads",
            _set(file, {"rope.scaling.attn_factor": attention, "rope.scaling.yarn_attn_factor": None}),
        )  # fmt: skip
    for key, default in (("yarn_beta_fast", 32.0), ("yarn_beta_slow", 1.0)):
        beta = keys.get(f"rope.scaling.{key}", default)
        if kind == "yarn" and beta != default and architecture not in READS_YARN_BETAS:
            yield problem(
                file, "beta-unread", f"rope.scaling.{key}", beta,
                f"{default:g}: llama.cpp reads this key for {', '.join(sorted(READS_YARN_BETAS))} only",
                _set(file, {f"rope.scaling.{key}": None})
                + f"   (what llama.cpp computes; as meant: llama-server --{key.replace('_', '-')} {beta:g})",
            )  # fmt: skip
    if kind == "yarn" and factor > 1 and "rope.scaling.original_context_length" not in keys:
        window = round(keys["context_length"] / factor)
        yield problem(
            file, "original-length-missing", "rope.scaling.original_context_length", None, window,
            _set(file, {"rope.scaling.original_context_length": window}),
        )  # fmt: skip
