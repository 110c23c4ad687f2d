"""The biases of ALiBi that a live BLOOM, MPT or Falcon hands to its layers: looked at, and replaced."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ropewalk.attention import cache_argument
from ropewalk.common.errors import UserError
from ropewalk.rope.live import still

if TYPE_CHECKING:
    from ropewalk.carriers.carrier import Carrier

PADDED, PROBED = 2, 7  # tokens of padding, and of a text, on which a model's own biases are looked at
ROUNDED = 2**-7  # relative: Falcon keeps slopes in bfloat16
Ratios = Callable[[Tensor], Tensor]  # lengths of texts, int64 [B] -> what slopes are multiplied by, float64 [B, H]


class HandedSlopes:
    """Biases on their way into the layers of one model.

    Args:
        body: its decoder.
        carrier: what carries its positions.
    """

    def __init__(self, body: nn.Module, carrier: Carrier):
        self.body, self.kind, self.heads = body, carrier.model_type, carrier.heads
        self.word = "position_bias" if self.kind == "mpt" else "alibi"
        blocks: Any = body.blocks if self.kind == "mpt" else body.h
        self.blocks: list[nn.Module] = list(blocks)
        self.names = list(inspect.signature(body.forward).parameters)
        slopes = torch.tensor(carrier.slopes)
        self.slopes = slopes.bfloat16().float() if self.kind == "falcon" else slopes

    def refuse_other(self) -> None:
        """Refuse a model whose biases are not those of the formula, on a text with padding before it.

        Raises:
            UserError: naming what was seen and expected.
        """
        device = next(self.body.parameters()).device
        mask = torch.ones(2, PADDED + PROBED, dtype=torch.long, device=device)
        mask[0, :PADDED] = 0
        seen: list[dict[str, Any]] = []
        watch = self.blocks[0].register_forward_pre_hook(lambda *given: seen.append(given[-1]), with_kwargs=True)
        try:
            with still(self.body), torch.no_grad():
                self.body(input_ids=torch.ones_like(mask), attention_mask=mask, use_cache=False)
        finally:
            watch.remove()
        self._refuse_unhanded(seen[0])
        bias, places = seen[0][self.word].float().cpu(), _places(mask).cpu()
        if self.kind == "mpt":
            bias, places = bias[None, ..., -places.shape[1] :], torch.arange(1.0 - places.shape[1], 1.0)[None]
        rows = len(places)
        meant = self.slopes[None, :, None] * places[:, None]
        self._refuse_off(bias.reshape(rows, self.heads, -1), meant, "the biases")
        if self.kind == "falcon":
            if self.body.config._attn_implementation != "sdpa":  # type: ignore[union-attr]
                raise UserError(
                    f"Falcon's attention is {self.body.config._attn_implementation!r}, in which transformers adds its "  # type: ignore[union-attr]
                    "biases twice, once by the mask",
                    "Load it with attn_implementation='sdpa', as it is by default.",
                )
            last = seen[0]["attention_mask"][:, :, -1].float().cpu()
            visible = (mask.cpu() > 0)[:, None].expand_as(last)
            self._refuse_off(last[visible], (meant / math.sqrt(self._head_dim))[visible], "the biases in the mask")

    @contextmanager
    def replaced(self, ratios: Ratios) -> Iterator[None]:
        """Slopes are multiplied by ``ratios``; where all are 1, layers are handed what they were, bit for bit.

        MPT's biases, made for ``max_seq_len`` tokens, grow with the text.
        """
        now: dict[str, Any] = {}

        def begin(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
            given = dict(zip(self.names, arguments, strict=False)) | keywords
            tokens = given["input_ids"] if given.get("input_ids") is not None else given["inputs_embeds"]
            cache, mask = cache_argument.among(given), given.get("attention_mask")
            keys = tokens.shape[1] + (0 if cache is None else int(cache.get_seq_length()))
            if mask is not None and mask.ndim != 2:
                mask = None
            lengths = torch.full((len(tokens),), keys) if mask is None else mask.sum(-1).cpu()
            now.clear()
            now.update(mask=mask, ratio=ratios(lengths))

        def hand(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            self._refuse_unhanded(keywords)
            if "new" not in now:
                now["new"] = self._new(keywords, now["mask"], now["ratio"])
            return arguments, keywords | now["new"]

        hooks = [self.body.register_forward_pre_hook(begin, with_kwargs=True)]
        hooks += [block.register_forward_pre_hook(hand, with_kwargs=True) for block in self.blocks]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _new(self, handed: dict[str, Any], mask: Tensor | None, ratio: Tensor) -> dict[str, Any]:
        """The arguments of a layer that change."""
        bias, same = handed[self.word], bool((ratio == 1).all())
        slopes = (self.slopes.double() * ratio).float().to(bias.device)  # [B, H]
        if self.kind == "mpt":
            keys = handed["attention_mask"].shape[-1]
            if same and keys <= bias.shape[-1]:
                return {}
            if not bool((slopes == slopes[0]).all()):
                raise UserError(
                    "MPT has one bias for all texts of a batch, and these are of lengths that need several",
                    "Read texts of different lengths one at a time, or leave out follow.",
                )
            return {self.word: slopes[0][:, None, None] * torch.arange(1 - keys, 1, device=bias.device)}
        if same:
            return {}
        places = torch.arange(bias.shape[-1], device=bias.device)[None] if mask is None else _places(mask)
        new = (slopes[:, :, None] * places[:, None]).to(bias.dtype)  # [B, H, K]
        if self.kind == "bloom":
            return {self.word: new.view_as(bias)}
        if handed.get("output_attentions"):
            raise UserError("with output_attentions transformers adds Falcon's biases twice", "Leave it out.")
        own = handed["attention_mask"]
        hidden = own == torch.finfo(own.dtype).min
        return {self.word: new.view_as(bias),
                "attention_mask": (new[:, :, None] / math.sqrt(self._head_dim)).expand_as(own).masked_fill(
                    hidden, torch.finfo(own.dtype).min)}  # fmt: skip

    @property
    def _head_dim(self) -> int:
        return int(self.body.config.hidden_size) // self.heads  # type: ignore[union-attr, arg-type]

    def _refuse_unhanded(self, keywords: dict[str, Any]) -> None:
        if not isinstance(keywords.get(self.word), Tensor):
            raise UserError(
                f"the layers of {type(self.body).__name__} are not handed {self.word!r}, where their biases were",
                "Use transformers 5.24, or measure the model as it is.",
            )

    @staticmethod
    def _refuse_off(seen: Tensor, meant: Tensor, what: str) -> None:
        if seen.shape != meant.shape or not torch.allclose(seen, meant, rtol=ROUNDED, atol=1e-6):
            off = "of another shape" if seen.shape != meant.shape else f"off by {float((seen - meant).abs().max()):.3g}"
            raise UserError(
                f"{what} of this model are not those of ALiBi's formula: {off}",
                "Measure the model as it is: ropewalk compare --methods none.",
            )


def _places(mask: Tensor) -> Tensor:
    """Positions of keys, by a mask of padding [B, K]: as transformers counts them, 0 where there is padding."""
    return ((mask.cumsum(-1) - 1) * mask).float()
