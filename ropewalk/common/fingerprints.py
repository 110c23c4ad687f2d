"""Hashes of models and tokenizers, so that a stored result can be found again by what it was computed with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

WHOLE_BYTES = 2**28  # up to this size all weights are hashed
SAMPLED = 4096  # elements of each tensor of a larger model
ROOMS = "rope", "attention", "methods", "backends", "tasks"
OPENED_AS = frozenset({"dtype", "torch_dtype"})
NOT_THE_MODEL = frozenset({"_name_or_path", "transformers_version", "use_cache"})  # entries of a config


def model_fingerprint(model: PreTrainedModel) -> str:
    """sha256 over the config, the attention implementation and the name, type, shape and values of every weight.

    Of a model of more than 256 MiB, 4096 evenly spaced values of each tensor stand for all: enough to tell checkpoints
    apart, not to prove that two are equal. Where the model lies and its file names do not count.
    """
    weights = model.state_dict()
    whole = sum(tensor.nbytes for tensor in weights.values()) <= WHOLE_BYTES
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_THE_MODEL}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    digest.update(str(getattr(model.config, "_attn_implementation", None)).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor if whole else _sample(tensor)))
    return digest.hexdigest()


def base_fingerprint(model: PreTrainedModel) -> str:
    """sha256 over a model as ``model_fingerprint``, in whatever type and by whatever attention it was opened.

    Values count as bfloat16 rounds them, which float32 holds as they are.
    """
    config = {name: value for name, value in model.config.to_dict().items() if name not in NOT_THE_MODEL | OPENED_AS}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    weights = model.state_dict()
    whole = sum(tensor.numel() for tensor in weights.values()) * 2 <= WHOLE_BYTES
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        held = tensor if whole else _sample(tensor)
        digest.update(_bytes(held.bfloat16() if held.is_floating_point() else held))
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """sha256 over the vocabulary, the special tokens and, of a fast tokenizer, its whole pipeline."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        pipeline = json.dumps(sorted(tokenizer.get_vocab().items()))
    else:  # how long a text may be is set by every call
        pipeline = json.dumps(json.loads(backend.to_str()) | {"truncation": None, "padding": None})
    return hashlib.sha256((pipeline + repr(sorted(tokenizer.special_tokens_map.items()))).encode()).hexdigest()


@cache
def code_fingerprint(rooms: tuple[str, ...] = ROOMS) -> str:
    """sha256 over all code that decides a result: transformers, torch, and ours that models, reads, asks and scores.

    Args:
        rooms: of ours.
    """
    digest = hashlib.sha256()
    for package in ("transformers", "torch"):
        digest.update(f"{package} {version(package)}".encode())
    for room in rooms:
        for file in sorted((Path(__file__).parents[1] / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()


def ids_fingerprint(ids: Iterable[int]) -> str:
    """sha256 of token ids."""
    return hashlib.sha256(torch.tensor(list(ids), dtype=torch.int32).numpy().tobytes()).hexdigest()


def _sample(tensor: Tensor) -> Tensor:
    flat = tensor.flatten()
    return flat[:: max(1, len(flat) // SAMPLED)]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
