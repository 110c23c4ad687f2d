"""One logit scale per head, learned for models without positions (NoPE) to read further (arXiv 2404.12224)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ropewalk.attention.regions import Layer
from ropewalk.common.errors import UserError
from ropewalk.methods.attention.attention_method import TEMPERATURE, AttentionMethod
from ropewalk.methods.base import Method
from ropewalk.rope.probe import watch

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True)
class HeadScale(AttentionMethod):
    """Logits of head h of layer l times ``scales[l][h]``; ``ropewalk fit`` trains them with all else frozen.

    Attributes:
        scales: one tuple per layer, one number above 0 per query head.
    """

    scales: tuple[tuple[float, ...], ...] = ()

    name: ClassVar[str] = "head-scale"
    axes: ClassVar[frozenset[str]] = frozenset({TEMPERATURE})
    exact_near: ClassVar[bool] = False
    measured: ClassVar[tuple[str, ...]] = ("scales",)
    target_free: ClassVar[bool] = True
    by_layer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for layer, heads in enumerate(self.scales):
            for head, scale in enumerate(heads):
                if not 0 < scale < float("inf"):
                    raise UserError(f"{self.name}: layer {layer}, head {head} has scale {scale}, expected one above 0")

    @classmethod
    def examples(cls, config: PreTrainedConfig) -> tuple[Method, ...]:
        heads = tuple(1 + 0.1 * head for head in range(config.num_attention_heads))
        return (cls(scales=(heads,) * config.num_hidden_layers),)

    @property
    def inert(self) -> bool:
        return bool(self.scales) and all(scale == 1 for heads in self.scales for scale in heads)

    def temperature(self, m: Tensor, layer: Layer) -> Tensor | None:
        scales = torch.tensor(self.scales[layer.index], dtype=torch.float64)
        return scales[None, :, None].expand(m.shape[0], -1, m.shape[1])

    def check(self, layer: Layer) -> None:
        if layer.index >= len(self.scales) or len(self.scales[layer.index]) != layer.heads:
            raise UserError(
                f"{self.name}: layer {layer.index} has {layer.heads} heads, expected scales for each",
                f"Scales are given for {len(self.scales)} layers of {[len(heads) for heads in self.scales]} heads.",
            )

    @torch.no_grad()
    def fold(self, model: nn.Module) -> None:
        """Multiply the scales into the rows of W_q (and its bias) for good, so that any engine serves the result.

        Exact where nothing but the rotation lies between W_q and the logits; what the layers make of it is checked.

        Raises:
            UserError: if a layer has no ``q_proj``, or normalises or clips what it gives; the model is as before then.
        """
        before, _ = watch(model, identity=True)
        folded = []
        try:
            for order, (module, q, _) in enumerate(before):
                index = int(getattr(module, "layer_idx", order))
                layer = Layer(index, 1, 1, q.shape[1], q.shape[1])
                self.check(layer)
                projection = getattr(module, "q_proj", None)
                if not isinstance(projection, nn.Linear) or projection.out_features % layer.heads:
                    raise UserError(f"layer {index} has no q_proj of its own to fold scales into")
                scale = torch.tensor(self.scales[index], device=projection.weight.device)
                rows = scale.repeat_interleave(projection.out_features // layer.heads)
                tensors = [projection.weight, *([] if projection.bias is None else [projection.bias])]
                folded += [(x, x.clone()) for x in tensors]
                for x in tensors:
                    x.copy_((x.float() * rows.view(-1, *[1] * (x.ndim - 1))).to(x.dtype))
            self._check_folded(before, watch(model, identity=True)[0])
        except BaseException:
            for weight, old in folded:
                weight.copy_(old)
            raise

    def _check_folded(
        self, before: list[tuple[nn.Module, Tensor, Tensor]], after: list[tuple[nn.Module, Tensor, Tensor]]
    ) -> None:
        for order, ((module, old, _), (_, new, _)) in enumerate(zip(before, after, strict=True)):
            index = int(getattr(module, "layer_idx", order))
            wanted = old * torch.tensor(self.scales[index], device=old.device).to(old.dtype)[:, None, None]
            allowed = max(2e-5, 4 * torch.finfo(old.dtype).eps) * float(wanted.abs().max())
            if float((new - wanted).abs().max()) > allowed:
                raise UserError(
                    f"layer {index} does not hand its queries on as q_proj gives them (a norm or a clip lies between), "
                    "so scales cannot be folded",
                    "Use the method at run time: with HeadScale(...).on(model).",
                )
