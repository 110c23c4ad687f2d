"""The lines that start each engine on a checkpoint."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.checkpoint.gguf.llama_rope import FREQUENCY_FACTORS
from ropewalk.engines.gguf.to_gguf import holds_factors
from ropewalk.engines.llama_cpp import ARCHITECTURES
from ropewalk.engines.vllm import enlarges
from ropewalk.rope.config import text_config
from ropewalk.rope.problems import WITH_AXES
from ropewalk.rope.trial import auto_class

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

LINE = re.compile(r"(\w+=\S+ )?(vllm serve|python -m sglang|python convert_hf|llama-server|AutoModel)")


def is_line(text: str) -> bool:
    """Whether a text is one of these lines, with or without their model."""
    return bool(LINE.match(text))


def launch_lines(folder: Path, config: PreTrainedConfig, parameters: Mapping[str, Any], length: int) -> dict[str, str]:
    """Engine -> launch line, or what is missing; ``parameters`` are those of the extended layers.

    vLLM and SGLang run transformers' code where their own would not take M-RoPE's three positions as meant. A line
    states the length wherever an engine would derive another one from the keys (vLLM and SGLang multiply
    max_position_embeddings by the factor of ``linear``).
    """
    rope_type, model_type = str(parameters.get("rope_type", "default")), str(text_config(config).model_type)
    no_axes = bool(parameters.get("mrope_section")) and rope_type not in WITH_AXES
    lines = {
        "transformers": transformers_line(folder, auto_class(config).__name__),
        "vllm": vllm_line(folder, length, via_transformers=no_axes or enlarges(model_type, parameters)),
        "sglang": sglang_line(folder, length, via_transformers=no_axes),
        "llama.cpp": llama_cpp_line(folder, f"-c {length}"),
    }
    if rope_type == "longrope":
        lines["llama.cpp"] = "not with the stock converter: it drops longrope factors for this architecture"
        if holds_factors(model_type):
            file = shlex.quote(f"{folder.name}.gguf")
            lines["llama.cpp"] = f"ropewalk export {shlex.quote(str(folder))} --engine llama.cpp --gguf {file}"
    elif rope_type == "llama3" and ARCHITECTURES.get(model_type) not in FREQUENCY_FACTORS:
        lines["llama.cpp"] = (
            f"not for {model_type}: llama.cpp has no per-dimension factors there; use yarn or ntk-aware"
        )
    return lines


def transformers_line(folder: Path | str, auto: str, overrides: Mapping[str, Any] | None = None) -> str:
    """A line of Python with an auto class; overrides are given before the model is built: later they change nothing."""
    keys = "".join(f", {key}={value!r}" for key, value in (overrides or {}).items())
    return f"{auto}.from_pretrained({str(folder)!r}{keys})"


def vllm_line(
    folder: Path | str,
    length: int,
    overrides: Mapping[str, Any] | None = None,
    via_transformers: bool = False,
    past_derived: bool = False,
    alone: bool = False,
) -> str:
    """``past_derived``: the length passes what vLLM derives (a tokenizer's own limit), which it refuses unless told.

    ``alone``: one request at a time, its prompt in one piece.
    """
    line = "VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 " if past_derived else ""
    line += f"vllm serve {shlex.quote(str(folder))} --max-model-len {length}"
    line += f" --hf-overrides {shlex.quote(json.dumps(overrides))}" if overrides else ""
    line += " --model-impl transformers" if via_transformers else ""
    whole = (
        f" --max-num-seqs 1 --no-enable-chunked-prefill --max-num-batched-tokens {length} --no-enable-prefix-caching"
    )
    return line + (whole if alone else "")


def sglang_line(
    folder: Path | str,
    length: int,
    overrides: Mapping[str, Any] | None = None,
    via_transformers: bool = False,
    alone: bool = False,
) -> str:
    """``alone``: one request at a time, its prompt in one piece."""
    line = f"python -m sglang.launch_server --model-path {shlex.quote(str(folder))} --context-length {length}"
    line += f" --json-model-override-args {shlex.quote(json.dumps(overrides))}" if overrides else ""
    line += " --model-impl transformers" if via_transformers else ""
    return line + (" --max-running-requests 1 --chunked-prefill-size -1 --disable-radix-cache" if alone else "")


def llama_cpp_line(folder: Path | str, flags: str) -> str:
    """Convert and serve."""
    model, gguf = shlex.quote(str(folder)), shlex.quote(f"{folder}.gguf")
    return f"python convert_hf_to_gguf.py {model} --outfile {gguf} && llama-server -m {gguf} {flags}"
