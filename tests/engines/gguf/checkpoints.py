"""Tiny checkpoints with a byte-level tokenizer, and GGUF files of other architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from ropewalk import method
from ropewalk.checkpoint.write import extend
from tests.models import config, tiny
from tests.tokenizers import VOCABULARY, byte_level

TARGET = 256  # of a window of 64
ROWS = VOCABULARY + 8


def checkpoint(
    folder: Path,
    family: str = "llama",
    spelling: str | None = None,
    dtype: str = "float32",
    tokenizer: Any = None,
    **more: Any,
) -> Path:
    """A random model of a family with a small tokenizer (byte-level by default), extended if a method is named."""
    source = folder / "source"
    model = tiny(family, **{"vocab_size": ROWS, **more})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.5)
            elif parameter.ndim == 1:  # norms, which would all be 1
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.to(getattr(torch, dtype)).save_pretrained(source)
    (tokenizer or byte_level()).save_pretrained(source)
    if spelling is None:
        return source
    return extend(str(source), TARGET, method(spelling), folder / "extended").folder


def configuration(folder: Path, family: str, spelling: str, **more: Any) -> Path:
    """A config.json alone, extended: enough to say a rope."""
    model = config(family, **more)
    method(spelling).write(model, TARGET)
    model.save_pretrained(folder)
    return folder


def foreign(path: Path, architecture: str, keys: dict[str, Any] | None = None, factors: Any = None) -> Path:
    """A GGUF with one weight, of any architecture, with 16 rotated dimensions and a window of 64."""
    writer = gguf.GGUFWriter(path, architecture)
    given = {"block_count": 2, "context_length": 64, "embedding_length": 64, "attention.head_count": 4} | (keys or {})
    for key, value in given.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
        add[type(value)](f"{architecture}.{key}", value)
    writer.add_array("tokenizer.ggml.tokens", ["a", "ü", "</s>"])
    writer.add_tensor("blk.0.weight", np.arange(64, dtype=np.float32).reshape(2, 32))
    if factors is not None:
        writer.add_tensor("rope_freqs.weight", np.asarray(factors, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def edit(folder: Path, **keys: Any) -> Path:
    """Change keys of a config.json."""
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))
    return folder
