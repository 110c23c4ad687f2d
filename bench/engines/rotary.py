"""The rotations of an engine's own classes; runs in the engine's environment and imports nothing of ropewalk.

    python rotary.py {vllm,sglang} < jobs.json > tables.json

A job holds head_dim, rotary_dim, max_position, max_model_len, neox, rope_parameters and positions. Its answer is
{"cos": rows, "sin": rows} with the attention factor in them, or {"error": why the engine refuses}. Unit vectors are
rotated, so that it does not matter where the class keeps its tables.
"""

from __future__ import annotations

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import torch


def from_vllm(job: dict[str, Any]) -> torch.nn.Module:
    from vllm.model_executor.layers import rotary_embedding
    from vllm.model_executor.layers.rotary_embedding import phi3_long_rope_scaled_rope

    served = SimpleNamespace(model_config=SimpleNamespace(max_model_len=job["max_model_len"]))
    phi3_long_rope_scaled_rope.get_current_vllm_config = lambda: served
    rotary_embedding._ROPE_DICT.clear()  # its key leaves max_model_len out
    return rotary_embedding.get_rope(
        job["head_dim"], job["max_position"], job["neox"], job["rope_parameters"], dtype=torch.float32
    )


def from_sglang(job: dict[str, Any]) -> torch.nn.Module:
    if "vllm" not in sys.modules:  # without a GPU the class imports vLLM's compiled kernel, which is not called here
        sys.modules["vllm"] = ModuleType("vllm")
        sys.modules["vllm._custom_ops"] = ModuleType("vllm._custom_ops")
        sys.modules["vllm._custom_ops"].rotary_embedding = None
    from sglang.srt.layers.rotary_embedding import get_rope

    return get_rope(
        job["head_dim"], job["rotary_dim"], job["max_position"], job["rope_parameters"]["rope_theta"], job["neox"],
        job["rope_parameters"], dtype=torch.float32,
    )  # fmt: skip


def tables(module: torch.nn.Module, job: dict[str, Any]) -> dict[str, Any]:
    positions = torch.tensor(job["positions"])
    d = job["rotary_dim"]
    first = torch.zeros(job["head_dim"])
    first[: d // 2 if job["neox"] else d : 1 if job["neox"] else 2] = 1.0
    query = first.repeat(len(positions), 1)
    forward = getattr(module, "forward_native", module.forward)
    rotated = forward(positions, query.clone(), query.clone())[0].reshape(len(positions), -1)[:, :d]
    cos, sin = rotated.chunk(2, dim=-1) if job["neox"] else (rotated[:, ::2], rotated[:, 1::2])
    return {"cos": cos.double().tolist(), "sin": sin.double().tolist()}


def answer(engine: str, job: dict[str, Any]) -> dict[str, Any]:
    try:
        return tables({"vllm": from_vllm, "sglang": from_sglang}[engine](job), job)
    except Exception as error:  # the engine's refusal is the answer
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    engine = sys.argv[1]
    if engine == "vllm":
        from vllm.config import VllmConfig, set_current_vllm_config

        with set_current_vllm_config(VllmConfig()):
            found = [answer(engine, job) for job in json.load(sys.stdin)]
    else:
        found = [answer(engine, job) for job in json.load(sys.stdin)]
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
