"""The lines that start each engine on an extended checkpoint, with what that engine does not read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

# llama.cpp loads one factor per dimension ("rope_freqs") for these model types, so llama3 scaling converts.
LLAMA_CPP_ROPE_FREQS = frozenset(
    "llama mistral mixtral granite granitemoe exaone exaone4 phi3 minicpm apertus deci".split()
)


def launch_lines(folder: Path, model_type: str, parameters: Mapping[str, Any], length: int) -> dict[str, str]:
    """Engine -> launch line, or what is missing; ``parameters`` are those of the extended layers.

    A line states the length wherever an engine would derive another one from the keys (vLLM and SGLang multiply
    max_position_embeddings by the factor of ``linear``).
    """
    rope_type = str(parameters.get("rope_type", "default"))
    lines = {
        "transformers": f"AutoModelForCausalLM.from_pretrained({str(folder)!r})",
        "vllm": f"vllm serve {folder} --max-model-len {length}",
        "sglang": f"python -m sglang.launch_server --model-path {folder} --context-length {length}",
    }
    convert = (
        f"python convert_hf_to_gguf.py {folder} --outfile {folder}.gguf && llama-server -m {folder}.gguf -c {length}"
    )
    if rope_type == "longrope":
        lines["llama.cpp"] = "not with the stock converter: it drops longrope factors for this architecture"
    elif rope_type == "llama3" and model_type not in LLAMA_CPP_ROPE_FREQS:
        lines["llama.cpp"] = (
            f"not for {model_type}: llama.cpp has no per-dimension factors there; use yarn or ntk-aware"
        )
    else:
        lines["llama.cpp"] = convert
    return lines
