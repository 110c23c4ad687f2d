"""What llama.cpp makes of GGUF metadata and of its command-line flags.

Facts from ggml-org/llama.cpp (``llama-model.cpp``, ``llama-context.cpp``, ``ggml.c``, ``src/models``, ``conversion``)
as vendored by llama-cpp-python 0.3.36; the metadata keys are those of the GGUF specification without the architecture's
name in front.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.rope.formulas import plain, yarn_magnitude, yarn_ramp
from ropewalk.rope.spec import Reading

# One factor per dimension (tensor ``rope_freqs``) is loaded for these only; elsewhere the extra tensor stops the load.
FREQUENCY_FACTORS = frozenset(
    "apertus arcee cogvlm deci exaone exaone-moe exaone4 falcon-h1 gemma4 granite granite_swa granitehybrid granitemoe "
    "llada llama llama4 minicpm mistral3 nanbeige pangu-embedded refact step35".split()
)
# The pair ``rope_factors_short`` and ``rope_factors_long``.
LONG_SHORT_FACTORS = frozenset(
    "apertus deci granite granite_swa granitemoe llama minicpm minicpm3 mistral3 pangu-embedded phi3 phimoe refact "
    "step35".split()
)
# The converter writes the YaRN keys for all; these alone read them back, for the others only the flags count.
READS_YARN_BETAS = frozenset({"grok", "mistral3"})
READS_YARN_EXTRAPOLATION = frozenset({"grok"})
READS_YARN_LOG_MULTIPLIER = frozenset({"deepseek2", "deepseek32", "mistral3"})
SCALING_TYPES = ("none", "linear", "yarn", "longrope")
UNSTRETCHED_SLIDING = frozenset("gemma3 gemma3n laguna olmo2".split())  # sliding layers keep a scale of 1 there


@dataclass(frozen=True)
class Flags:
    """The flags of llama-server and llama-cli that move a rotation; None where one is not given."""

    ctx_size: int | None = None
    rope_scaling: str | None = None
    rope_freq_base: float | None = None
    rope_freq_scale: float | None = None
    yarn_orig_ctx: int | None = None
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_slow: float | None = None
    yarn_beta_fast: float | None = None
    override_kv: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, line: str) -> Flags:
        """Read a command line; flags about other things are passed over.

        Raises:
            UserError: if a flag has no value, or not a number where one is wanted.
        """
        words = shlex.split(line)
        found: dict[str, Any] = {}
        overrides: dict[str, Any] = {}
        for flag, value in zip(words, [*words[1:], None], strict=False):
            name = {"-c": "ctx_size"}.get(flag, flag.removeprefix("--").replace("-", "_"))
            if name not in FLAG_TYPES or (not flag.startswith("--") and flag != "-c"):
                continue
            if value is None:
                raise UserError(f"llama.cpp flag {flag} has no value")
            try:
                if name == "rope_scale":
                    found["rope_freq_scale"] = 1.0 / float(value)
                elif name == "override_kv":
                    overrides.update(_override(value))
                else:
                    found[name] = FLAG_TYPES[name](value)
            except (ValueError, ZeroDivisionError):
                raise UserError(f"llama.cpp flag {flag} has the value {value!r}, expected a number above 0") from None
        return cls(**found, override_kv=overrides)


FLAG_TYPES: dict[str, type] = {
    "ctx_size": int, "rope_scaling": str, "rope_scale": float, "rope_freq_base": float, "rope_freq_scale": float,
    "yarn_orig_ctx": int, "yarn_ext_factor": float, "yarn_attn_factor": float, "yarn_beta_slow": float,
    "yarn_beta_fast": float, "override_kv": str,
}  # fmt: skip


def _override(value: str) -> dict[str, Any]:
    """``ARCH.KEY=TYPE:VALUE[,...]`` as metadata without the architecture."""
    pairs = {}
    for part in value.split(","):
        key, _, typed = part.partition("=")
        kind, _, text = typed.partition(":")
        pairs[key.partition(".")[2]] = {"int": int, "float": float}.get(kind, str)(text)
    return pairs


def read(
    metadata: Mapping[str, Any], flags: Flags | None = None, architecture: str = "llama", sliding: bool = False
) -> Reading:
    """The rotation that llama.cpp computes.

    Args:
        metadata: keys without the architecture's name: ``context_length``, ``rope.dimension_count`` (or
            ``attention.key_length``, or ``embedding_length`` and ``attention.head_count``), ``rope.freq_base``,
            ``rope.freq_base_swa``, ``rope.scaling.type``, ``.factor``, ``.original_context_length``, ``.attn_factor``,
            ``.yarn_ext_factor``, ``.yarn_attn_factor``, ``.yarn_beta_fast``, ``.yarn_beta_slow``,
            ``.yarn_log_multiplier``; and the tensors ``rope_freqs``, ``rope_factors_short``, ``rope_factors_long``.
        flags: of the command line; they win over the metadata.
        architecture: GGUF's name of it.
        sliding: True for the sliding-window layers of a mixed model.

    Raises:
        UserError: if llama.cpp would refuse the file.
    """
    flags = flags or Flags()
    kv = {**metadata, **flags.override_kv}
    _refuse_unloadable(kv, architecture)
    trained_length = int(kv["context_length"])
    n_rot = _rotary_dimensions(kv)
    scaling = _first(flags.rope_scaling, kv.get("rope.scaling.type"), "linear")
    stored = float(kv.get("rope.scaling.factor", kv.get("rope.scale_linear", 0.0)))
    stored_scale = 1.0 / stored if stored else 1.0
    freq_scale = 1.0 if scaling == "none" else _first(flags.rope_freq_scale, stored_scale)
    original = int(flags.yarn_orig_ctx or kv.get("rope.scaling.original_context_length") or trained_length)
    extrapolation = _extrapolation(flags, kv, architecture, scaling)
    factor = _attention_factor(flags, kv, architecture, freq_scale, extrapolation)

    served = flags.ctx_size or trained_length
    capped = int(original / freq_scale) if scaling == "yarn" and freq_scale != stored_scale else trained_length

    if sliding and architecture in UNSTRETCHED_SLIDING:
        freq_scale = 1.0
    theta = base(kv, architecture, sliding, flags)
    unscaled = plain(theta, n_rot) / _dimension_factors(kv, served, original, n_rot)
    kept = _ramp(flags, kv, architecture, n_rot, original, theta) * extrapolation
    if extrapolation:  # the kernel's own
        factor *= 1.0 + 0.1 * math.log(1.0 / freq_scale)
    return Reading(unscaled * (freq_scale * (1 - kept) + kept), factor, min(served, capped))


def base(kv: Mapping[str, Any], architecture: str, sliding: bool, flags: Flags | None = None) -> float:
    """The base of the rotation in all layers, or in the sliding ones."""
    theta = float(_first((flags or Flags()).rope_freq_base, kv.get("rope.freq_base"), 10000.0))
    own = 10000.0 if architecture.startswith("gemma3") else theta
    return float(kv.get("rope.freq_base_swa", own)) if sliding else theta


def _first(*values: Any) -> Any:
    return next(value for value in values if value is not None)


def _refuse_unloadable(kv: Mapping[str, Any], architecture: str) -> None:
    if "context_length" not in kv:
        raise UserError(f"key '{architecture}.context_length' is missing, expected the length in tokens")
    kind = kv.get("rope.scaling.type", "linear")
    if kind not in SCALING_TYPES:
        raise UserError(
            f"key '{architecture}.rope.scaling.type' is {kind!r}, expected one of {', '.join(SCALING_TYPES)}",
            "Convert the checkpoint again: ropewalk export DIR --engine llama.cpp",
        )
    pair = architecture in LONG_SHORT_FACTORS and (kind == "longrope" or architecture not in FREQUENCY_FACTORS)
    loaded = {"rope_factors_short", "rope_factors_long"} if pair else {"rope_freqs"}
    for tensor in sorted({"rope_factors_short", "rope_factors_long", "rope_freqs"} & kv.keys()):
        if tensor not in loaded or not (pair or architecture in FREQUENCY_FACTORS):
            raise UserError(
                f"llama.cpp does not load the tensor {tensor!r} for architecture {architecture!r} and "
                f"rope.scaling.type {kind!r} ('wrong number of tensors')",
                "Extend with a method that needs no factor per dimension: yarn, ntk-aware or pi.",
            )


def _rotary_dimensions(kv: Mapping[str, Any]) -> int:
    for key in ("rope.dimension_count", "attention.key_length"):
        if key in kv:
            return int(kv[key])
    return int(kv["embedding_length"]) // int(kv["attention.head_count"])


def _extrapolation(flags: Flags, kv: Mapping[str, Any], architecture: str, scaling: str) -> float:
    """The share of YaRN's ramp that is used: 1 with YaRN, else 0, unless given."""
    stored = kv.get("rope.scaling.yarn_ext_factor") if architecture in READS_YARN_EXTRAPOLATION else None
    given = flags.yarn_ext_factor if flags.yarn_ext_factor is not None and flags.yarn_ext_factor >= 0 else stored
    return float(given) if given is not None and given >= 0 else float(scaling == "yarn")


def _attention_factor(
    flags: Flags, kv: Mapping[str, Any], architecture: str, freq_scale: float, extrapolation: float
) -> float:
    """The factor before the kernel's own 0.1 ln s + 1, which YaRN's cancels; ``--yarn-attn-factor`` is lost then."""
    stored = kv.get("rope.scaling.yarn_attn_factor") if architecture in READS_YARN_EXTRAPOLATION else None
    factor = float(_first(flags.yarn_attn_factor, stored, 1.0))
    if extrapolation:
        s = 1.0 / freq_scale
        logarithm = kv.get("rope.scaling.yarn_log_multiplier") if architecture in READS_YARN_LOG_MULTIPLIER else None
        factor = yarn_magnitude(s, 1.0)
        if logarithm:
            same = architecture == "deepseek2" and logarithm != 1.0
            factor = yarn_magnitude(s, logarithm if same else 1.0) / yarn_magnitude(s, logarithm)
        factor /= 1.0 + 0.1 * math.log(s)
    return factor * float(kv.get("rope.scaling.attn_factor", 1.0))


def _dimension_factors(kv: Mapping[str, Any], context: int, original: int, n_rot: int) -> Tensor:
    """Divisors of the plain frequencies, float64 [d/2]; the long ones where the context passes the original length."""
    name = "rope_factors_long" if context > original else "rope_factors_short"
    factors: Sequence[float] | None = kv.get("rope_freqs", kv.get(name))
    if factors is None:
        return torch.ones(n_rot // 2, dtype=torch.float64)
    return torch.as_tensor(factors, dtype=torch.float64)


def _ramp(flags: Flags, kv: Mapping[str, Any], architecture: str, n_rot: int, original: int, base: float) -> Tensor:
    """Share of each frequency that YaRN keeps, [d/2]; the ends are always rounded to whole dimensions."""
    stored = kv if architecture in READS_YARN_BETAS else {}
    fast = _first(flags.yarn_beta_fast, stored.get("rope.scaling.yarn_beta_fast"), 32.0)
    slow = _first(flags.yarn_beta_slow, stored.get("rope.scaling.yarn_beta_slow"), 1.0)
    return yarn_ramp(base, n_rot, original, fast, slow)
