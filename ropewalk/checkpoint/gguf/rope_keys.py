"""A rope as GGUF entries: what to write so that llama.cpp rotates as a RopeSpec says.

llama.cpp divides the plain frequencies by the tensor ``rope_freqs`` and multiplies cos and sin by the key
``rope.scaling.attn_factor``: any static rope fits these two, for the architectures that use the tensor. The others have
``rope.freq_base`` and the scaling types linear and yarn, and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from ropewalk.checkpoint.gguf import llama_rope
from ropewalk.checkpoint.gguf.llama_rope import UNSTRETCHED_SLIDING
from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.methods.frequencies.ntk import ntk_base
from ropewalk.rope.spec import ALL, Reading, RopeSpec

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
REMOVED = 1e6  # factors from here on stand for "does not rotate"
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
        error: largest relative error of a frequency (of the larger of the two, so at most 1).
        mean: the same on average over the dimensions.
    """

    method: str
    keys: dict[str, Any]
    error: float
    mean: float

    def __str__(self) -> str:
        return f"{self.method}, with frequencies off by {self.mean:.1%} on average and {self.error:.1%} at most"


def loaded(architecture: str, scaling_type: str | None) -> tuple[str, ...]:
    """The factor tensors that llama.cpp loads and uses; any other stops the load, or is passed over."""
    if scaling_type == "longrope" and architecture in SLOTS and architecture not in NEVER_LONG:
        return ("rope_factors_long", "rope_factors_short")
    return SLOTS.get(architecture, ())


def one_set(spec: RopeSpec) -> RopeSpec:
    """The spec with the factors that hold at its full length."""
    return spec if spec.long_factors is None else replace(spec, factors=spec.long_factors, long_factors=None)


def entries(spec: RopeSpec, architecture: str, name: str) -> Entries:
    """The GGUF entries that say ``spec``, of the checkpoint ``name``.

    Raises:
        UserError: if it switches between two factor sets, depends on the length, or llama.cpp has no slot for its
            factors in this architecture; the nearest rope that it has is named with its error. Also if it would
            change the layers that are not meant.
    """
    if spec.long_factors is not None or spec.rope_type == "dynamic":
        kind = "two factor sets" if spec.long_factors else "frequencies that depend on the length"
        raise UserError(
            f"rope_type {spec.rope_type!r} has {kind}; a GGUF says one rope for all lengths",
            f"Save a static method first: {_extending(name, spec, 'yarn')}",
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
            f"llama.cpp has no place for one factor per dimension in architecture {architecture!r}; the nearest rope "
            f"that it has is {native}",
            f"{_extending(name, spec, native.method)}   (and use that"
            + ("; or write the weights as 'llama', which has room" if architecture == "qwen2" else "")
            + ")",
        )
    kept_apart = architecture in UNSTRETCHED_SLIDING and "rope.scaling.attn_factor" not in native.keys
    if spec.layer_type != ALL and not kept_apart:
        raise UserError(
            f"the {spec.layer_type} layers have a rope of their own; llama.cpp would change the sliding ones of "
            f"{architecture!r} too",
            "Extend with a method that llama.cpp keeps apart there: yarn or pi on Gemma 3, none elsewhere.",
        )
    return Entries(keys | native.keys, {})


def _extending(name: str, spec: RopeSpec, method: str) -> str:
    return command("extend", name, "--to", spec.length, "--method", method)


def nearest(spec: RopeSpec) -> Native:
    """The rope without factors whose frequencies are nearest to those of ``spec``; its attention factor is kept."""
    s, widest = spec.scale(spec.length), max(1.0, *(f for f in spec.factors if f < REMOVED))
    window = round(spec.length / s)
    if spec.rope_type == "yarn" and widest > s * (1 + SAME):  # its factor is for more than the promised length
        s, window = float(f"{widest:.7g}"), spec.window
    elif s == 1.0:  # a flat configuration without its record does not say the window
        s, window = widest, round(spec.length / widest)
    yarn = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": s,
        "rope.scaling.original_context_length": window,
    }
    candidates: list[tuple[str, dict[str, Any], float]] = [  # method, its keys, the attention factor that comes with it
        ("none", {}, 1.0),
        ("ntk-aware", {"rope.freq_base": ntk_base(spec.base, spec.rotary_dim, s)}, 1.0),
        ("pi", {"rope.scaling.type": "linear", "rope.scaling.factor": s}, 1.0),
        ("yarn", yarn, 0.1 * math.log(s) + 1.0),
    ]
    plain = {
        "context_length": spec.length,
        "rope.dimension_count": spec.rotary_dim,
        "rope.freq_base": spec.base,
    }
    made = []
    for method, keys, own in candidates:
        errors = relative_errors(llama_rope.read(plain | keys), spec)
        keys = keys | _attention(spec.attention_factor / own)
        made.append(Native(method, keys, float(errors.max()), float(errors.mean())))
    return min(made, key=lambda native: native.mean)


def _attention(factor: float) -> dict[str, float]:
    return {} if abs(factor - 1.0) < 1e-7 else {"rope.scaling.attn_factor": factor}


def error(reading: Reading, spec: RopeSpec) -> float:
    """Largest relative error of a frequency, at most 1."""
    return float(relative_errors(reading, spec).max())


def relative_errors(reading: Reading, spec: RopeSpec) -> Tensor:
    """Difference of the frequencies over the larger of the two, float64 [d/2]."""
    return (reading.inv_freq - spec.inv_freq).abs() / reading.inv_freq.maximum(spec.inv_freq)
