"""What SGLang makes of a checkpoint.

Facts from the wheels of sglang 0.4.3 to 0.5.23 (``srt/layers/rotary_embedding``, ``srt/utils/hf_transformers``,
``srt/models``). The configuration is loaded through transformers.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.engines import transformers
from ropewalk.engines.reading import Files, linear_factor, longrope, proportional, refuse_axes, rules_of
from ropewalk.rope import formulas
from ropewalk.rope.spec import ALL, Reading

NAME = "SGLang"
LATEST = "0.5.23"
# No class of SGLang's own, or one that takes its frequencies from transformers' functions.
VIA_TRANSFORMERS = frozenset(
    "aria_text bamba bitnet cwm diffllama doge dots1 ernie4_5 falcon flex_olmo gemma3 gemma3_text glm gpt_neox helium "
    "jais2 jetmoe ministral moshi nanochat nemotron olmo3 olmo_hybrid phimoe seed_oss smollm3 solar_open "
    "vaultgemma".split()
)


@dataclass(frozen=True)
class Rules:
    """What changed between versions.

    Attributes:
        since: first version.
        keys: "rope_scaling" is the pair of transformers 4, read beside ``rope_theta``.
        truncate: YaRN's key ``truncate`` is read.
        mscale: YaRN's keys ``mscale`` and ``mscale_all_dim`` are read.
        merges_overrides: ``--json-model-override-args`` keeps the rope keys that it does not name.
    """

    since: str
    keys: Literal["rope_parameters", "rope_scaling"] = "rope_parameters"
    truncate: bool = True
    mscale: bool = True
    merges_overrides: bool = True


RULES = (
    Rules("0.4.3", "rope_scaling", False, False, False),
    Rules("0.5.7", "rope_scaling", True, False, False),
    Rules("0.5.10", "rope_parameters", True, False, False),
    Rules("0.5.16", "rope_parameters", True, True, False),
    Rules("0.5.23"),
)


def rules(version: str = LATEST) -> Rules:
    """The rules of a version.

    Raises:
        UserError: if it is older than what is known.
    """
    return rules_of(RULES, NAME, version)


def read(
    files: Files, length: int | None = None, version: str = LATEST, via_transformers: bool = False
) -> dict[str, Reading]:
    """Layer type -> the rotation in a batch whose longest row has ``length`` tokens.

    Args:
        files: the checkpoint.
        length: None means what SGLang derives.
        version: of SGLang.
        via_transformers: ``--model-impl transformers``, which runs transformers' own modelling code.

    Raises:
        UserError: if it would refuse the checkpoint.
    """
    known = rules(version)
    if files.raw.get("dual_chunk_attention_config"):
        raise UserError("SGLang has no backend for dual chunk attention (key 'dual_chunk_attention_config')")
    if known.keys == "rope_scaling":
        files = transformers.as_version_4(files)
    longest = max_length(files)
    served = length or longest
    if via_transformers or files.model_type in VIA_TRANSFORMERS:
        found = transformers.read(files, served)
        return {key: replace(reading, max_length=longest) for key, reading in found.items()}
    if ALL not in files.entries:
        raise UserError(f"SGLang's {files.model_type} takes one rope_parameters for all layers, not one per layer type")
    entry = files.entries[ALL]
    refuse_axes(entry, NAME)
    return {ALL: Reading(*_rotation(files, entry, served, known), longest, files.logit_scale(entry))}


def max_length(files: Files) -> int:
    """The length that SGLang derives: x factor, unless the keys hold an original length or the type is llama3."""
    entry = files.entries.get(ALL, {})
    scaled = "original_max_position_embeddings" in entry or entry.get("rope_type") == "llama3"
    return int(files.length * (1.0 if scaled else entry.get("factor") or 1.0))


def _rotation(files: Files, entry: Mapping[str, Any], served: int, rules: Rules) -> tuple[Tensor, float]:
    base = float(entry.get("rope_theta") or 10000.0)
    d = int(files.head_dim() * float(getattr(files.config, "partial_rotary_factor", None) or 1.0))  # the top key only
    kind = entry.get("rope_type", "default")
    factor = float(entry.get("factor") or 1.0)
    original = int(entry.get("original_max_position_embeddings") or files.length)
    if kind == "default":
        return formulas.plain(base, d), 1.0
    if kind == "proportional":
        return proportional(base, files.head_dim(), d), 1.0
    if kind == "linear":
        return formulas.plain(base, d) / linear_factor(entry, NAME), 1.0
    if kind == "dynamic":  # one table, for the extended length
        alpha = entry.get("alpha", factor * factor - (factor - 1))
        return formulas.ntk(base, d, float(alpha)), 1.0
    if kind == "llama3":
        low, high = entry.get("low_freq_factor", 1.0), entry.get("high_freq_factor", 4.0)
        return formulas.llama3(base, d, factor, low, high, original), 1.0
    if kind == "yarn":
        betas = entry.get("beta_fast", 32), entry.get("beta_slow", 1)
        truncate = bool(entry.get("truncate", True)) or not rules.truncate
        return formulas.yarn(base, d, factor, original, *betas, truncate), _yarn_factor(entry, factor, rules)
    if kind == "longrope":
        long = served - 1 > original  # the largest position, not the length
        start = (
            f"python -m sglang.launch_server --model-path {shlex.quote(str(files.folder))} --model-impl transformers"
        )
        return longrope(files, entry, base, d, long, original, NAME, start)
    raise UserError(f"SGLang stops: rope_type is {kind!r}, which it does not know")


def _yarn_factor(entry: Mapping[str, Any], factor: float, rules: Rules) -> float:
    """``attn_factor`` multiplies the default; ``attention_factor`` is not read."""
    found = formulas.yarn_magnitude(factor)
    if rules.mscale and entry.get("mscale") is not None and entry.get("mscale_all_dim") is not None:
        above, below = (formulas.yarn_magnitude(factor, entry[key]) for key in ("mscale", "mscale_all_dim"))
        found = above / below
    return found * float(entry.get("attn_factor", 1.0))
