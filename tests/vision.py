"""Tiny random vision-language models whose tokens have three positions, and what they read."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel

from ropewalk.rope.live import rotaries
from tests.models import COMMON, tokens

IMAGE, VIDEO, START, END = 90, 91, 92, 93  # ids of tokens
THETA = {"rope_type": "default", "rope_theta": 1e6}
TURNS = {**THETA, "mrope_interleaved": True}
TEXT = {key: value for key, value in COMMON.items() if key != "head_dim"}
SEEN = {
    "depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4,
    "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # the language model's part, and that of pictures
    "qwen2_vl": (
        {**TEXT, "rope_parameters": {**THETA, "mrope_section": [2, 3, 3]}},
        {**SEEN, "embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2},
    ),
    "qwen2_5_vl": (
        {**TEXT, "rope_parameters": {**THETA, "mrope_section": [2, 3, 3]}},
        {**SEEN, "window_size": 16, "fullatt_block_indexes": [0]},
    ),
    "qwen3_vl": (
        {**COMMON, "rope_parameters": {**TURNS, "mrope_section": [4, 2, 2]}},
        {**SEEN, "num_position_embeddings": 64, "deepstack_visual_indexes": [0]},
    ),
    "qwen3_5": (
        {**COMMON, "head_dim": 32, "layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2,
         "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 16,
         "rope_parameters": {**TURNS, "mrope_section": [2, 1, 1], "partial_rotary_factor": 0.25}},
        {**SEEN, "num_position_embeddings": 64},
    ),
}  # fmt: skip
AXES = {  # which position turns each pair: 0 time, 1 height, 2 width
    "qwen2_vl": (0, 0, 1, 1, 1, 2, 2, 2),
    "qwen2_5_vl": (0, 0, 1, 1, 1, 2, 2, 2),
    "qwen3_vl": (0, 1, 2, 0, 1, 2, 0, 0),
    "qwen3_5": (0, 1, 2, 0),
}


def seeing(kind: str) -> PreTrainedModel:
    """A fresh random model in float32 and evaluation mode, always with the same weights."""
    torch.manual_seed(0)
    text, vision = copy.deepcopy(MODELS[kind])
    special = {"image_token_id": IMAGE, "video_token_id": VIDEO, "vision_start_token_id": START,
               "vision_end_token_id": END}  # fmt: skip
    config = AutoConfig.for_model(kind, text_config=text, vision_config=vision, **special)
    model = AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
    return model.eval()


@cache
def shared(kind: str) -> PreTrainedModel:
    """One model per kind for tests that leave it as it was."""
    return seeing(kind)


def words(n: int = 100, batch: int = 1) -> Tensor:
    """Text alone, without the ids that stand for pictures."""
    return tokens(batch, n) % 86 + 3


def pictures(n: int = 150) -> dict[str, Tensor]:
    """A text with two pictures in it, of 4 x 6 and 3 x 4 tokens."""
    ids = words(n)
    ids[:, 10:36] = torch.tensor([START, *[IMAGE] * 24, END])
    ids[:, 60:74] = torch.tensor([START, *[IMAGE] * 12, END])
    grid = torch.tensor([[1, 8, 12], [1, 6, 8]])
    return {"input_ids": ids, "image_grid_thw": grid, "pixel_values": _pixels(grid),
            "mm_token_type_ids": (ids == IMAGE).long()}  # fmt: skip


def film(n: int = 70, steps: int = 5, at: int = 10) -> dict[str, Tensor]:
    """A text with a video in it, of 2 x 3 tokens at each of ``steps`` steps in time."""
    ids, grid = words(n), torch.tensor([[steps, 4, 6]])
    ids[:, at : at + 6 * steps] = VIDEO
    return {"input_ids": ids, "video_grid_thw": grid, "pixel_values_videos": _pixels(grid),
            "mm_token_type_ids": (ids == VIDEO).long() * 2}  # fmt: skip


def _pixels(grid: Tensor) -> Tensor:
    return torch.randn(int(grid.prod(1).sum()), 3 * 2 * 4 * 4, generator=torch.Generator().manual_seed(0))


def positions(model: PreTrainedModel, read: dict[str, Tensor]) -> Tensor:
    """Where the model puts what it reads, int64 [3, 1, n]."""
    grids = {key: value for key, value in read.items() if key.endswith("grid_thw")}
    return model.model.get_rope_index(read["input_ids"], read["mm_token_type_ids"], **grids)[0]


@torch.no_grad()
def turned(model: PreTrainedModel, places: Tensor) -> list[Tensor]:
    """Cosines and sines [n, d/2] of one row as attention takes them; it joins the axes where a module does not."""
    axes, made = AXES[model.config.model_type], rotaries(model)[0].module(torch.zeros(1), places)
    return [
        torch.stack([table[axis, 0, :, i] if table.ndim == 4 else table[0, :, i] for i, axis in enumerate(axes)], -1)
        for table in made
    ]


def joins(model: PreTrainedModel) -> bool:
    """Whether the rotary module joins the axes itself, so that its forward shows which pair is of which."""
    return rotaries(model)[0].module(torch.zeros(1), torch.zeros(3, 1, 1))[0].ndim == 3


@torch.no_grad()
def logits(model: PreTrainedModel, read: dict[str, Tensor] | Tensor, **more: Any) -> Tensor:
    given = {"input_ids": read} if isinstance(read, Tensor) else read
    return model(**given, **more, use_cache=False).logits
