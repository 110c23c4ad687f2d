"""A tiny random CLIP, and its folder with a tokenizer of single characters."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

LETTERS = sorted(ByteLevel.alphabet())
BEGIN, END, SIZE = 2 * len(LETTERS), 2 * len(LETTERS) + 1, 2 * len(LETTERS) + 2
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "projection_dim": 16}  # fmt: skip
SIDE = 32  # of an image, in pixels


def tokenizer(window: int = 77) -> CLIPTokenizer:
    """A token for each character, with that of its end at the end of a word, as CLIP has them."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=window)


def clip(end: int = END, seed: int = 0, **text: Any) -> CLIPModel:
    """A random model; ``text`` overrides keys of its text tower's configuration."""
    said = TOWER | {"vocab_size": SIZE, "bos_token_id": BEGIN, "eos_token_id": end, "pad_token_id": 1} | text
    torch.manual_seed(seed)
    config = CLIPConfig(
        text_config=said, vision_config=TOWER | {"image_size": SIDE, "patch_size": 8}, projection_dim=16
    )
    return CLIPModel(config).eval()


def save(folder: Path, model: CLIPModel | None = None) -> Path:
    """Write a model, its tokenizer and its image processor."""
    (model or clip()).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}).save_pretrained(
        folder
    )
    return folder


@cache
def captions(tokens: int, n: int = 3, seed: int = 0) -> torch.Tensor:
    """int64 [n, tokens]: random texts of so many tokens, the first and the last token of a text among them."""
    ids = torch.randint(0, BEGIN, (n, tokens), generator=torch.Generator().manual_seed(seed))
    ids[:, 0], ids[:, -1] = BEGIN, END
    return ids


def texts(model: CLIPModel, ids: torch.Tensor) -> torch.Tensor:
    """float32 [n, e]: a model's vectors of texts."""
    with torch.no_grad():
        found: torch.Tensor = model.get_text_features(ids).pooler_output
    return found


def tower(seed: int = 0) -> CLIPTextModelWithProjection:
    """The text tower of ``clip()``, by itself."""
    whole = clip(seed=seed)
    alone = CLIPTextModelWithProjection(whole.config.text_config)
    alone.load_state_dict({name: one for name, one in whole.state_dict().items() if name.startswith("text_")})
    return alone.eval()
