"""What the stock converter writes for llama.cpp, and the flags that say a rope on its command line.

Facts as in ``checkpoint.gguf.llama_rope``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ropewalk.checkpoint.gguf.llama_rope import FREQUENCY_FACTORS
from ropewalk.common.errors import UserError
from ropewalk.engines.reading import Files
from ropewalk.rope.formulas import llama3, longrope_magnitude, plain, yarn_magnitude
from ropewalk.rope.spec import ALL

ARCHITECTURES = {  # model_type -> GGUF's name
    "apertus": "apertus", "arcee": "arcee", "cohere": "command-r", "cohere2": "cohere2", "exaone4": "exaone4",
    "gemma2": "gemma2", "gemma3": "gemma3", "gemma3_text": "gemma3", "glm4": "glm4", "gpt_neox": "gptneox",
    "gpt_oss": "gpt-oss", "granite": "granite", "granitemoe": "granitemoe", "llama": "llama", "minicpm3": "minicpm3",
    "mistral": "llama", "mixtral": "llama", "ministral3": "mistral3", "olmo": "olmo", "olmo2": "olmo2",
    "olmo3": "olmo2", "olmoe": "olmoe", "phi3": "phi3", "phimoe": "phimoe", "qwen2": "qwen2",
    "qwen2_moe": "qwen2moe", "qwen3": "qwen3", "qwen3_moe": "qwen3moe", "smollm3": "smollm3",
    "starcoder2": "starcoder2",
}  # fmt: skip
PARTIAL = frozenset({"gptneox", "phi3", "phimoe", "glm4"})  # the converter reads partial_rotary_factor


def flags_for(entry: Mapping[str, Any], length: int, architecture: str, stored: str | None = None) -> str:
    """The flags that make a GGUF rotate by ``entry`` (rope parameters) up to ``length``.

    Args:
        entry: rope parameters.
        length: tokens.
        architecture: GGUF's name of it.
        stored: the scaling type that the file states, if it does.

    Raises:
        UserError: if no flags say it.
    """
    kind = entry.get("rope_type", "default")
    flags = [f"-c {length}"]
    overrides = {}
    if kind == "default":
        flags += ["--rope-scaling none"] if stored not in (None, "none") else []
        flags.append(f"--rope-freq-base {entry['rope_theta']!r}")
    elif kind in ("linear", "yarn"):
        flags.append(f"--rope-scaling {kind} --rope-scale {entry['factor']!r}")
    else:
        raise UserError(
            f"llama.cpp has no flags for rope_type {kind!r}",
            "Extend with yarn, ntk-aware or pi, or write a GGUF that holds the factors.",
        )
    if kind == "yarn":
        if not entry.get("truncate", True):
            raise UserError("llama.cpp always rounds the ends of YaRN's ramp (key 'truncate' is false)")
        flags.append(f"--yarn-orig-ctx {entry['original_max_position_embeddings']}")
        flags += [
            f"--yarn-{key.replace('_', '-')} {entry[key]!r}" for key in ("beta_fast", "beta_slow") if key in entry
        ]
        t = entry.get("attention_factor")
        if t is not None and not math.isclose(t, yarn_magnitude(entry["factor"])):
            overrides["rope.scaling.attn_factor"] = f"float:{t / yarn_magnitude(entry['factor'])!r}"
    else:
        overrides["context_length"] = f"int:{length}"
    if overrides:
        flags.append("--override-kv " + ",".join(f"{architecture}.{key}={value}" for key, value in overrides.items()))
    return " ".join(flags)


def converted(files: Files) -> tuple[str, dict[str, Any]]:
    """The architecture and the metadata that the stock ``convert_hf_to_gguf.py`` writes for a checkpoint.

    It writes no factors for ``longrope`` but for Phi-3 (whose attention factor it computes itself), none for ``llama3``
    where the architecture loads none, and nothing at all for ``dynamic``.

    Raises:
        UserError: if the model type has no name in GGUF that is known here.
    """
    architecture = ARCHITECTURES.get(files.model_type)
    if architecture is None:
        raise UserError(f"ropewalk does not know llama.cpp's name of model_type {files.model_type!r}")
    entry = files.entries.get("full_attention") or files.entries.get(ALL) or {}
    kind = entry.get("rope_type", "default")
    partial = float(entry.get("partial_rotary_factor") or 1.0) if architecture in PARTIAL else 1.0
    n_rot = int(files.head_dim() * partial)
    base = float(entry.get("rope_theta", 10000.0))
    original = entry.get("original_max_position_embeddings", files.length)
    kv: dict[str, Any] = {
        "context_length": files.length,
        "attention.key_length": files.head_dim(),
        "rope.dimension_count": n_rot,
        "rope.freq_base": base,
    }
    if "sliding_attention" in files.entries:
        kv["rope.freq_base_swa"] = float(files.entries["sliding_attention"].get("rope_theta", 10000.0))
    if kind in ("linear", "yarn") and entry.get("factor") is not None:
        kv |= {"rope.scaling.type": kind, "rope.scaling.factor": float(entry["factor"])}
    if kind == "yarn":
        kv["rope.scaling.original_context_length"] = original
        names = {"beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow", "attention_factor": "yarn_attn_factor"}
        kv |= {f"rope.scaling.{names[key]}": entry[key] for key in names if entry.get(key) is not None}
    elif kind == "longrope":
        kv["rope.scaling.type"] = "longrope"
        if architecture in ("phi3", "phimoe"):
            kv["rope.scaling.original_context_length"] = original
            kv["rope.scaling.attn_factor"] = longrope_magnitude(files.length, original)
            kv |= {"rope_factors_short": entry["short_factor"], "rope_factors_long": entry["long_factor"]}
    elif kind == "llama3" and architecture in FREQUENCY_FACTORS:
        scaled = llama3(
            base, n_rot, entry["factor"], entry["low_freq_factor"], entry["high_freq_factor"], int(original)
        )
        kv["rope_freqs"] = (plain(base, n_rot) / scaled).tolist()
    return architecture, kv
