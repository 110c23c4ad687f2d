"""CLIP's text tower with a rope in the place of its table of positions (TULIP, arXiv 2410.10034)."""

from __future__ import annotations

from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from ropewalk.common.errors import UserError
from ropewalk.methods.frequencies.ntk import ntk_base
from ropewalk.rope.formulas import plain
from ropewalk.rope.rotation import rotate, tables


class RotaryCLIPTextConfig(CLIPTextConfig):
    """A text tower's configuration, of another model type, so that nothing loads it as one with a table.

    Attributes:
        rope_theta: base of the rope.
    """

    model_type = "rotary_clip_text_model"
    rope_theta: float = 10000.0


class TokensAlone(nn.Module):
    """The embeddings of tokens, without positions.

    The table is there with no row: a class that reads rows of it finds another shape in the file, and fails.
    """

    def __init__(self, tokens: nn.Embedding, most: int):
        super().__init__()
        self.token_embedding = tokens
        self.position_embedding = nn.Embedding.from_pretrained(tokens.weight.new_empty(0, tokens.embedding_dim))
        self.most = most

    def forward(self, input_ids: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Float [B, n, h].

        Raises:
            UserError: for more tokens than the configuration allows, or positions, which the rope counts by itself.
        """
        if input_ids.shape[-1] > self.most or position_ids is not None:
            raise UserError(
                f"{input_ids.shape[-1]:,} tokens{'' if position_ids is None else ' with position_ids'}, expected "
                f"{self.most:,} at most, and no positions"
            )
        embedded: Tensor = self.token_embedding(input_ids)
        return embedded


class RotatedProjection(nn.Linear):
    """A projection to queries or keys, each head rotated by its position; pairs are neighbours, as in TULIP's code."""

    def __init__(self, size: int, heads: int, base: float):
        super().__init__(size, size)
        self.heads, self.base = heads, base

    def forward(self, x: Tensor) -> Tensor:
        """Float [B, n, h]."""
        heads = super().forward(x).unflatten(-1, (self.heads, -1)).transpose(-2, -3)
        positions = torch.arange(x.shape[-2], device=x.device)[None]
        cos, sin = tables(positions, plain(self.base, heads.shape[-1]).float().to(x.device), 1.0)
        return rotate(heads, cos, sin, "interleaved").transpose(-2, -3).flatten(-2)


class RotaryCLIPText(CLIPTextModelWithProjection):
    """The text tower and its projection; saved and loaded as transformers does it.

    Plain transformers has no such model: what is saved is read by this class alone.
    """

    config: RotaryCLIPTextConfig
    config_class = RotaryCLIPTextConfig

    def __init__(self, config: RotaryCLIPTextConfig):
        super().__init__(config)
        size, heads, base = config.hidden_size, config.num_attention_heads, config.rope_theta
        if not (isinstance(base, (int, float)) and isfinite(base) and base > 0):
            raise UserError(f"the base of the rope is {base!r}, expected a finite number above 0")
        if size // heads % 2:
            raise UserError(f"heads have {size // heads} dimensions, expected an even number: a rope turns pairs")
        tower = self.text_model
        tower.embeddings = TokensAlone(tower.embeddings.token_embedding, config.max_position_embeddings)
        for layer in tower.encoder.layers:
            layer.self_attn.q_proj = RotatedProjection(size, heads, config.rope_theta)
            layer.self_attn.k_proj = RotatedProjection(size, heads, config.rope_theta)

    @classmethod
    def of(cls, teacher: CLIPTextModelWithProjection, base: float = 10000.0) -> RotaryCLIPText:
        """A student: a text tower's weights, all but its positions.

        Raises:
            UserError: if the teacher has a rope already, or the base is no finite number above 0.
        """
        if isinstance(teacher, RotaryCLIPText):
            raise UserError(
                "the teacher has a rope and no table of positions, expected a CLIPTextModelWithProjection",
                "Make it read longer texts by its longer(tokens).",
            )
        values = teacher.config.to_dict()
        values.pop("model_type")
        return _filled(RotaryCLIPTextConfig(**values, rope_theta=base), teacher)

    def longer(self, to: int, stretch: float = 8.0) -> RotaryCLIPText:
        """The same weights for longer texts, by another base.

        Args:
            to: tokens that it reads.
            stretch: the base grows as ``stretch * to / length - (stretch - 1)``.

        Raises:
            UserError: if it would read less than before, or by a base that is no finite number.
        """
        config = self.config
        head = config.hidden_size // config.num_attention_heads
        base = stretched_base(config.rope_theta, head, config.max_position_embeddings, to, stretch)
        values = config.to_dict() | {"max_position_embeddings": to, "rope_theta": base}
        values.pop("model_type")
        return _filled(RotaryCLIPTextConfig(**values), self)


def stretched_base(base: float, head: int, before: int, to: int, stretch: float = 8.0) -> float:
    """TULIP's base for longer texts: NTK-aware, with ``alpha = stretch * to / before - (stretch - 1)``.

    Args:
        base: of the rope.
        head: dimensions of a head.
        before: tokens that the base is for.
        to: tokens that it shall be for; with ``before`` the base stays.
        stretch: how fast it grows.

    Raises:
        UserError: if ``to`` is smaller, which would shrink the base, as the defaults of TULIP's code do, or if a head
            has one pair, which turns alike by every base.
    """
    if head <= 2:
        raise UserError(f"heads have {head} dimensions, expected 4 at least: one pair turns alike by every base")
    if not stretch > 0:
        raise UserError(f"stretch is {stretch!r}, expected a number above 0")
    if to < before:
        raise UserError(
            f"the target of {to:,} tokens is below the {before:,} that the rope is for", f"Say {before:,} or more."
        )
    return ntk_base(base, head, stretch * to / before - (stretch - 1))


def _filled(config: RotaryCLIPTextConfig, source: nn.Module) -> RotaryCLIPText:
    model = RotaryCLIPText(config)
    weights: dict[str, Any] = source.state_dict()
    weights |= {name: one for name, one in model.state_dict().items() if not one.numel()}  # the table
    model.load_state_dict(weights)
    plainly: nn.Module = model
    plainly.to(dtype=next(source.parameters()).dtype)
    return model.eval()
