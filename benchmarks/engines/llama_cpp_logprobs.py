"""Prompt log-probabilities and token ids from llama.cpp; runs in an environment of its own, which has llama-cpp-python.

Reads a JSON request from standard input, writes a JSON answer to standard output:

    {"gguf": PATH, "prompts": [[ids]], "texts": [str], "context": int}
    {"engine": "llama-cpp-python 0.3.36", "logprobs": [[float]], "tokens": [[ids]], "context_trained": int}

``logprobs[p][i]`` is log p(ids[i + 1] | ids[: i + 1]). The key-value cache is float32 and flash attention is off, so
that what differs from another engine is the engine.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import version
from typing import Any

import llama_cpp
import numpy as np

F32 = 0  # ggml's number of the type


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load the file once and do all that is asked."""
    prompts, texts = request.get("prompts", []), request.get("texts", [])
    context = request.get("context") or max((len(ids) for ids in prompts), default=64)
    engine = llama_cpp.Llama(
        model_path=request["gguf"], n_ctx=context, n_batch=512, n_threads=1, n_threads_batch=1, type_k=F32, type_v=F32,
        flash_attn=False, logits_all=True, verbose=False,
    )  # fmt: skip
    return {
        "engine": f"llama-cpp-python {version('llama_cpp_python')}",
        "logprobs": [logprobs(engine, ids) for ids in prompts],
        "tokens": [engine.tokenize(text.encode(), add_bos=False, special=True) for text in texts],
        "context_trained": llama_cpp.llama_model_n_ctx_train(engine.model),
    }


def logprobs(engine: llama_cpp.Llama, ids: list[int]) -> list[float]:
    """Log-probability of each token but the first, in float64 from the engine's float32 logits."""
    engine.reset()
    engine.eval(ids)
    logits = engine.scores[: len(ids) - 1].astype(np.float64)
    top = logits.max(1, keepdims=True)
    total = top[:, 0] + np.log(np.exp(logits - top).sum(1))
    chosen = logits[np.arange(len(ids) - 1), ids[1:]]
    values: list[float] = (chosen - total).tolist()
    return values


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
