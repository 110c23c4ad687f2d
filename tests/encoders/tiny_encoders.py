"""Tiny random encoders of every kind of table, as folders of sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.processors import TemplateProcessing

from tests.tokenizers import byte_level

WINDOW = 32
SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "initializer_range": 0.5,
}  # fmt: skip
CLASSES = {
    "bert": "Bert", "electra": "Electra", "roberta": "Roberta", "xlm-roberta": "XLMRoberta", "camembert": "Camembert",
    "mpnet": "MPNet", "distilbert": "DistilBert", "albert": "Albert",
}  # fmt: skip
FIRST = {"roberta": 3, "xlm-roberta": 3, "camembert": 3, "mpnet": 2}  # row of position 0


def rows(kind: str) -> int:
    """Of the table."""
    return WINDOW + FIRST.get(kind, 0)


def model(kind: str) -> Any:
    """A random one, in evaluation mode."""
    tokenizer = byte_level()
    name = CLASSES[kind]
    shape: dict[str, Any] = dict(SHAPE)
    if kind == "distilbert":
        shape = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "initializer_range": 0.5}
    if kind in ("electra", "albert"):
        shape["embedding_size"] = 16
    pad = 1 if kind == "mpnet" else tokenizer.pad_token_id
    config = getattr(transformers, f"{name}Config")(
        vocab_size=len(tokenizer), max_position_embeddings=rows(kind), pad_token_id=pad, **shape
    )
    torch.manual_seed(0)
    return getattr(transformers, f"{name}Model")(config).eval()


def folder(
    place: Path, kind: str = "bert", pooling: str = "mean", limit: int | None = WINDOW, modules: bool = True
) -> Path:
    """A folder with one.

    Args:
        place: where; it is made.
        kind: of ``CLASSES``.
        pooling: as sentence-transformers names it.
        limit: its ``max_seq_length``; None leaves the file out.
        modules: list modules, as sentence-transformers does.
    """
    tokenizer = byte_level()
    ends = ("<s>", "<s>") if kind == "mpnet" else ("<s>", "</s>")  # whose code takes id 1, </s>, for padding
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{ends[0]} $A {ends[1]}",
        special_tokens=[(one, tokenizer.convert_tokens_to_ids(one)) for one in dict.fromkeys(ends)],
    )
    tokenizer.model_max_length = WINDOW
    model(kind).save_pretrained(place)
    tokenizer.save_pretrained(place)
    if modules:
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
        listed = [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
            for i, (path, name) in enumerate(kinds)
        ]
        (place / "modules.json").write_text(json.dumps(listed))
        (place / "1_Pooling").mkdir()
        (place / "1_Pooling" / "config.json").write_text(
            json.dumps({"embedding_dimension": 16, "pooling_mode": pooling, "include_prompt": True})
        )
        (place / "config_sentence_transformers.json").write_text(json.dumps({"prompts": {"query": "", "document": ""}}))
        if limit is not None:
            (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit}))
    return place


def in_a_folder(place: Path) -> Path:
    """The same model as older ones are laid out: the encoder in a folder of its own."""
    inside = place / "0_Transformer"
    inside.mkdir()
    for file in list(place.iterdir()):
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(inside / file.name)
    listed = json.loads((place / "modules.json").read_text())
    listed[0]["path"] = inside.name
    (place / "modules.json").write_text(json.dumps(listed))
    return place
