"""Prompt log-probabilities and token ids from llama.cpp; runs in an environment of its own, which has llama-cpp-python.

Reads a JSON request from standard input, writes a JSON answer to standard output:

    {"gguf": PATH, "prompts": [[ids]], "texts": [str], "parameters": {field of llama_context_params: number}}
    {"engine": "llama-cpp-python 0.3.36", "logprobs": [[float]], "tokens": [[ids]], "context_trained": int}

``logprobs[p][i]`` is log p(ids[i + 1] | ids[: i + 1]). The key-value cache is float32, flash attention is off and
weights are used as they lie in the file, so that what differs from another engine is the engine. (The last also because
AMX's own weight layout crashes on Q8_0 embeddings that are the output head too, in llama-cpp-python 0.3.36.)
"""

from __future__ import annotations

import ctypes
import json
import sys
from importlib.metadata import version
from typing import Any

import llama_cpp
import numpy as np

F32 = 0  # ggml's number of the type
BATCH = 512


class Engine:
    """A loaded file and a context as long as the longest prompt."""

    def __init__(self, path: str, length: int, parameters: dict[str, Any]):
        llama_cpp.llama_backend_init()
        how = llama_cpp.llama_model_default_params()
        how.use_extra_bufts = False
        self.model = llama_cpp.llama_model_load_from_file(path.encode(), how)
        if not self.model:
            sys.exit(f"llama.cpp cannot load {path}")
        context = llama_cpp.llama_context_default_params()
        settings = {"n_ctx": length, "n_batch": BATCH, "n_ubatch": BATCH, "n_threads": 1, "n_threads_batch": 1,
                    "type_k": F32, "type_v": F32, "flash_attn_type": 0}  # fmt: skip
        for name, value in (settings | parameters).items():
            setattr(context, name, value)
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        self.vocabulary = llama_cpp.llama_model_get_vocab(self.model)

    def logprobs(self, ids: list[int]) -> list[float]:
        """Log-probability of each token but the first, in float64 from the engine's float32 logits."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        found: list[float] = []
        for start in range(0, len(ids), BATCH):
            logits = self._logits(ids[start : start + BATCH], start).astype(np.float64)
            top = logits.max(1, keepdims=True)
            total = top[:, 0] + np.log(np.exp(logits - top).sum(1))
            following = ids[start + 1 : start + BATCH + 1]
            found += (logits[np.arange(len(following)), following] - total[: len(following)]).tolist()
        return found

    def _logits(self, ids: list[int], start: int) -> np.ndarray[Any, Any]:
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, identity in enumerate(ids):
            batch.token[i], batch.pos[i], batch.logits[i] = identity, start + i, True
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
        failed = llama_cpp.llama_decode(self.context, batch)
        llama_cpp.llama_batch_free(batch)
        if failed:
            sys.exit(f"llama.cpp cannot decode {len(ids)} tokens from position {start}: {failed}")
        shape = (len(ids), llama_cpp.llama_vocab_n_tokens(self.vocabulary))
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self.context), shape=shape)

    def tokens(self, text: str) -> list[int]:
        """Ids without begin and end tokens; special tokens in the text are recognised."""
        content = text.encode()
        ids = (ctypes.c_int32 * (len(content) + 8))()
        n = llama_cpp.llama_tokenize(self.vocabulary, content, len(content), ids, len(ids), False, True)
        return list(ids[:n])


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Load the file once and do all that is asked."""
    prompts = request.get("prompts", [])
    engine = Engine(request["gguf"], max(map(len, prompts), default=64), request.get("parameters", {}))
    return {
        "engine": f"llama-cpp-python {version('llama_cpp_python')}",
        "logprobs": [engine.logprobs(ids) for ids in prompts],
        "tokens": [engine.tokens(text) for text in request.get("texts", [])],
        "context_trained": llama_cpp.llama_model_n_ctx_train(engine.model),
    }


if __name__ == "__main__":
    json.dump(answer(json.load(sys.stdin)), sys.stdout)
