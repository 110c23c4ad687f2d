"""A rope as GGUF entries: what to write so that llama.cpp rotates as a RopeSpec says.

llama.cpp divides the plain frequencies by the tensor ``rope_freqs`` and multiplies cos and sin by the key
``rope.scaling.attn_factor``: any static rope fits these two, for the architectures that use the tensor. The others have
``rope.freq_base`` and the scaling types linear and yarn, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.errors import UserError
from ropewalk.loading import resolve
from ropewalk.rope.config import load_config, read
from ropewalk.rope.engines import llama_cpp
from ropewalk.rope.engines.base import Reading
from ropewalk.rope.inspect import refuse_unsound
from ropewalk.rope.spec import ALL, RopeSpec

# Architectures that divide the frequencies of all layers, of queries and keys, by a factor tensor.
SLOTS = {
    **dict.fromkeys(
        "apertus arcee deci exaone granite granitemoe llama minicpm mistral3 nanbeige".split(), ("rope_freqs",)
    ),
    **dict.fromkeys(("phi3", "phimoe"), ("rope_factors_long", "rope_factors_short")),
}
# These load the tensor and then rotate without it (pangu-embedded: only the queries with it; refact does not rotate).
LOADED_UNUSED = frozenset({"falcon-h1", "llada", "pangu-embedded", "refact"})
NEVER_LONG = frozenset({"arcee", "exaone", "nanbeige"})  # the others trade rope_freqs for two sets if so typed
FACTOR_TENSORS = ("rope_freqs", "rope_factors_long", "rope_factors_short")
SCALING_KEYS = (
    "type factor original_context_length attn_factor finetuned yarn_ext_factor yarn_attn_factor yarn_beta_fast "
    "yarn_beta_slow yarn_log_multiplier"
).split()
SAME = 1e-5  # relative; llama.cpp computes angles in float32


@dataclass(frozen=True)
class Entries:
    """What a GGUF says about a rope; everything else about it is to be removed.

    Attributes:
        keys: key without the architecture's name -> value.
        factors: tensor name without ``.weight`` -> divisors of the plain frequencies, [d/2].
    """

    keys: dict[str, Any]
    factors: dict[str, tuple[float, ...]]


@dataclass(frozen=True)
class Native:
    """A rope that llama.cpp derives from keys alone, beside the one that is wanted.

    Attributes:
        method: how ``ropewalk extend`` is told to make it.
        keys: what says it.
        error: largest relative error of a frequency.
    """

    method: str
    keys: dict[str, Any]
    error: float


def rope_of_checkpoint(model: str) -> RopeSpec:
    """The one rope of a folder, config.json or hub id.

    Raises:
        UserError: if the configuration is unsound, or its layers have several ropes.
    """
    name = resolve(model)
    refuse_unsound(name)
    specs = read(load_config(name))
    if set(specs) != {ALL}:
        raise UserError(f"{name} has one rope per layer type ({', '.join(specs)}); a GGUF from here has one for all")
    return specs[ALL]


def loaded(architecture: str, scaling_type: str | None) -> tuple[str, ...]:
    """The factor tensors that llama.cpp loads and uses; any other stops the load, or is passed over."""
    if scaling_type == "longrope" and architecture in SLOTS and architecture not in NEVER_LONG:
        return ("rope_factors_long", "rope_factors_short")
    return SLOTS.get(architecture, ())


def one_set(spec: RopeSpec) -> RopeSpec:
    """The spec with the factors that hold at its full length."""
    return spec if spec.long_factors is None else replace(spec, factors=spec.long_factors, long_factors=None)


def entries(spec: RopeSpec, architecture: str) -> Entries:
    """The GGUF entries that say ``spec``.

    Raises:
        UserError: if it switches between two factor sets, depends on the length, or llama.cpp has no slot for its
            factors in this architecture; the nearest rope that it has is named with its error.
    """
    if spec.long_factors is not None or spec.rope_type == "dynamic":
        kind = "two factor sets" if spec.long_factors else "frequencies that depend on the length"
        raise UserError(
            f"rope_type {spec.rope_type!r} has {kind}; a GGUF says one rope for all lengths",
            "Save a static method first: ropewalk extend MODEL --to LENGTH --method yarn -o OUT",
        )
    keys = {"context_length": spec.length, "rope.dimension_count": spec.rotary_dim, "rope.freq_base": spec.base}
    if spec.length != spec.window:
        keys["rope.scaling.original_context_length"] = spec.window
    if architecture in SLOTS:
        factors = {} if all(f == 1.0 for f in spec.factors) else dict.fromkeys(SLOTS[architecture], spec.factors)
        return Entries(keys | _attention(spec.attention_factor), factors)
    native = nearest(spec)
    if native.error > SAME:
        raise UserError(
            f"llama.cpp has no place for one factor per dimension in architecture {architecture!r}; the nearest that "
            f"it has is {native.method}, with frequencies off by up to {native.error:.2%}",
            f"ropewalk extend MODEL --to {spec.length} --method '{native.method}' -o OUT, and use that"
            + ("; or write the weights as 'llama', which has room" if architecture == "qwen2" else ""),
        )
    return Entries(keys | native.keys, {})


def nearest(spec: RopeSpec) -> Native:
    """The rope without factors whose frequencies are nearest to those of ``spec``; its attention factor is kept."""
    logs = [math.log(f) for f in spec.factors]
    steps = [2 * i / spec.rotary_dim for i in range(len(logs))]
    base = spec.base * math.exp(_minimax_slope(steps, logs))
    s = spec.scale(spec.length)
    yarn = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": s,
        "rope.scaling.original_context_length": spec.window,
    }
    candidates: list[tuple[str, dict[str, Any], float]] = [  # method, its keys, the attention factor that comes with it
        ("none", {}, 1.0),
        (f"abf(base={base:.8g})", {"rope.freq_base": base}, 1.0),
        ("pi", {"rope.scaling.type": "linear", "rope.scaling.factor": s}, 1.0),
        ("yarn", yarn, 0.1 * math.log(s) + 1.0),
    ]
    made = [
        Native(method, keys | _attention(spec.attention_factor / own), _error(spec, keys))
        for method, keys, own in candidates
    ]
    exact = [native for native in made if native.error <= SAME]
    return exact[0] if exact else min(made, key=lambda native: native.error)


def _attention(factor: float) -> dict[str, float]:
    return {} if abs(factor - 1.0) < 1e-7 else {"rope.scaling.attn_factor": factor}


def _minimax_slope(x: list[float], y: list[float]) -> float:
    """The c that makes the largest abs(y - c x) smallest: a convex function, halved in thirds."""
    low, high = 0.0, max(abs(value) for value in y) / min(v for v in x if v > 0) if len(x) > 1 else 0.0

    def worst(c: float) -> float:
        return max(abs(b - c * a) for a, b in zip(x, y, strict=True))

    for _ in range(200):
        third = (high - low) / 3
        low, high = (low, high - third) if worst(low + third) <= worst(high - third) else (low + third, high)
    return (low + high) / 2


def _error(spec: RopeSpec, keys: dict[str, Any]) -> float:
    plain = {
        "context_length": spec.length,
        "rope.dimension_count": spec.rotary_dim,
        "rope.freq_base": spec.base,
    }
    return error(llama_cpp.read(plain | keys), spec)


def error(reading: Reading, spec: RopeSpec) -> float:
    """Largest relative error of a frequency."""
    return float(((reading.inv_freq - spec.inv_freq).abs() / spec.inv_freq).max())
