"""DeciMamba (arXiv 2406.14528): deep layers of a Mamba pass on the tokens of the largest steps alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import MambaForCausalLM

from ropewalk.common.errors import UserError
from ropewalk.lab.state_space import SelectiveStateSpace


def largest(scores: Tensor, count: int, response: int = 0) -> Tensor:
    """Places of the ``count`` largest scores of each row, in order [B, count]; the last ``response`` are among them."""
    if response:
        scores = torch.cat([scores[:, :-response], torch.full_like(scores[:, -response:], torch.inf)], 1)
    return scores.topk(count, dim=1).indices.sort(1).values


def _taken(values: Tensor, kept: Tensor) -> Tensor:
    """Float [B, count, ...] of values [B, n, ...]."""
    return values.gather(1, kept[..., None].expand(-1, -1, values.shape[-1]))


@dataclass
class DeciMamba:
    """A Mamba of transformers whose chosen layers pass on some tokens alone; for reading, not for generating.

    The s-th of these layers keeps ``base * decay**s`` tokens, ``least`` at least: those whose step sizes have the
    largest norm over channels. They are chosen behind the convolution, and the recurrence sees no others; neither does
    the residual stream. Where all are kept, a layer is the model's own.

    Attributes:
        model: whose layers are of Mamba-1.
        layers: that decimate.
        base: tokens that the first of them keeps.
        decay: each keeps so much of what the one before it did.
        least: tokens that are always kept.
        response: last tokens that are always kept.
    """

    model: MambaForCausalLM
    layers: Sequence[int]
    base: int = 2000
    decay: float = 0.5
    least: int = 20
    response: int = 1

    def __post_init__(self) -> None:
        config = self.model.config
        seen = type(self.model).__name__, config.hidden_act, config.use_conv_bias, self.model.dtype
        if seen[:3] != ("MambaForCausalLM", "silu", True) or seen[3] not in (torch.float32, torch.float64):
            raise UserError(
                f"the model is {seen[0]} with hidden_act {seen[1]}, use_conv_bias {seen[2]}, in {seen[3]}; expected "
                f"MambaForCausalLM with silu and True, in torch.float32",
                "Load it in float32, if that is what differs.",
            )
        count = len(self.model.backbone.layers)
        if list(self.layers) != sorted(set(self.layers)) or not all(0 <= one < count for one in self.layers):
            raise UserError(f"layers are {list(self.layers)}, expected rising numbers from 0 to {count - 1}")
        if self.least < max(1, self.response) or not 0 < self.decay <= 1:
            raise UserError(
                f"least is {self.least}, response {self.response} and decay {self.decay}, expected least to be 1 or "
                f"more, at least response, and a decay above 0, 1 at most"
            )

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits of the tokens that are left [B, count, v], and their places [B, count].

        Args:
            input_ids: [B, n].
            attention_mask: [B, n], 0 at padding, which stands before a row and is kept last of all.

        Raises:
            UserError: if a row ends with padding, which would be its response.
        """
        if attention_mask is not None and not attention_mask[:, -1].all():
            raise UserError(
                "attention_mask is 0 at the last token of a row, expected padding on the left",
                'Say padding_side="left" to the tokenizer.',
            )
        backbone, order = self.model.backbone, list(self.layers)
        x = backbone.embeddings(input_ids)
        places = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
        for number, block in enumerate(backbone.layers):
            count = x.shape[1]
            if number in order:
                count = min(count, max(self.least, int(self.base * self.decay ** order.index(number))))
            if count == x.shape[1]:
                x = block(x, attention_mask=attention_mask)
                continue
            x, kept = self._decimated(block, x, attention_mask, count)
            places = places.gather(1, kept)
            attention_mask = None if attention_mask is None else attention_mask.gather(1, kept)
        logits: Tensor = self.model.lm_head(backbone.norm_f(x).to(self.model.lm_head.weight.dtype))
        return logits, places

    def _decimated(self, block: Any, x: Tensor, mask: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
        """The block's output for the tokens that it keeps, and their places."""
        mixer, real = block.mixer, None if mask is None else mask.bool()
        space = _of(mixer)
        signals = space.signals(mixer.in_proj(block.norm(x.to(block.norm.weight.dtype))), real)
        scores = torch.linalg.vector_norm(signals[2], dim=-1)
        kept = largest(scores, count, self.response)
        found = mixer.out_proj(space.scan(*(_taken(one, kept) for one in signals)))
        return _taken(x, kept) + found, kept


def _of(mixer: Any) -> SelectiveStateSpace:
    """The same weights, of a mixer of transformers."""
    channels, state = mixer.A_log.shape
    with torch.device("meta"):
        space = SelectiveStateSpace(channels, state, mixer.dt_proj.in_features, mixer.conv1d.kernel_size[0])
    own = space.state_dict().keys()
    space.load_state_dict({name: one for name, one in mixer.state_dict(keep_vars=True).items() if name in own},
                          assign=True)  # fmt: skip
    return space
