"""Random encoders that rotate, or have a bias by distance alone, as folders of sentence-transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedModel, T5Config, T5EncoderModel

from tests.tokenizers import byte_level

WINDOW = 64
SHAPE: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64, "vocab_size": 600,
    "max_position_embeddings": WINDOW, "pad_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
IDS = {"bos_token_id": 0, "eos_token_id": 1}
TWO = {"num_key_value_heads": 2, "head_dim": 16}


def of(name: str, **more: Any) -> PreTrainedModel:
    """A model of transformers, by the beginning of its classes' names."""
    model: PreTrainedModel = getattr(transformers, f"{name}Model")(
        getattr(transformers, f"{name}Config")(**SHAPE, **more)
    )
    return model


def modernbert(**more: Any) -> PreTrainedModel:
    return of("ModernBert", **IDS, cls_token_id=0, sep_token_id=1, local_attention=16, **more)


def gemma() -> PreTrainedModel:
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    more: dict[str, Any] = {"sliding_window": 16, "hidden_size_per_layer_input": 16, "embedding_dim": 32}
    config = transformers.EmbeddingGemma2TextConfig(**SHAPE, **TWO, **more, layer_types=kinds, per_layer_config={})
    return transformers.EmbeddingGemma2TextModel(config)


EVERY: dict[str, tuple[str, Callable[[], PreTrainedModel], str]] = {  # name -> class, model and pooling
    "modernbert": ("ModernBert", modernbert, "cls"),
    "nomic_bert": ("NomicBert", lambda: of("NomicBert"), "mean"),
    "eurobert": ("EuroBert", lambda: of("EuroBert", **IDS, mask_token_id=3), "mean"),
    "jina_embeddings_v3": ("JinaEmbeddingsV3", lambda: of("JinaEmbeddingsV3"), "mean"),
    "gte": ("Gte", lambda: of("Gte"), "cls"),
    "embedding_gemma2_text": ("EmbeddingGemma2Text", gemma, "mean"),
    "qwen3": ("Qwen3", lambda: of("Qwen3", **TWO), "lasttoken"),
    "mistral": ("Mistral", lambda: of("Mistral", **TWO, sliding_window=None), "lasttoken"),
}
MODELS = {  # those that this version of transformers has
    name: (make, pooling) for name, (cls, make, pooling) in EVERY.items() if hasattr(transformers, f"{cls}Config")
}


def t5() -> PreTrainedModel:
    shape = {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_layers": 2, "num_heads": 2, "vocab_size": 600}
    return T5EncoderModel(T5Config(**shape, initializer_factor=3.0, relative_attention_max_distance=32))


def folder_of(live: PreTrainedModel, pooling: str, folder: Path, limit: int | None = WINDOW) -> Path:
    """A model as sentence-transformers keeps it, with prompts, one token before and one behind every text."""
    live.eval().save_pretrained(folder)
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(one, tokenizer.convert_tokens_to_ids(one)) for one in ("<s>", "</s>")]
    )
    if limit is not None:
        tokenizer.model_max_length = limit
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder)
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    size = live.config.hidden_size
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": size, "pooling_mode": pooling},
        "config_sentence_transformers.json": {"prompts": {"query": "ask: ", "document": ""}},
    }
    if limit is not None:
        files["sentence_bert_config.json"] = {"max_seq_length": limit, "do_lower_case": False}
    (folder / "1_Pooling").mkdir()
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return folder


def made(name: str, folder: Path) -> Path:
    """One of ``MODELS``, or ``t5``, with random weights."""
    torch.manual_seed(0)
    make, pooling = (t5, "mean") if name == "t5" else MODELS[name]
    return folder_of(make(), pooling, folder)
