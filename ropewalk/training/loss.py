"""The loss without the logits: cross-entropy over blocks of tokens, gradients taken while a block's logits are there.

Logits are softcap(scale * (hidden @ weight.T + bias)), in float32 at least; of a block, one buffer holds them, their
softmax and its gradient in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropewalk.common.errors import UserError
from ropewalk.rope.config import text_config
from ropewalk.rope.live import decoder, still
from ropewalk.training.training_batch import IGNORED

LOGITS = 2**26  # numbers in a block: 512 tokens of a vocabulary of 128k, 256 MiB
TOKENS = 8  # that a head is tried on
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}  # of the logits' size; half precision: 0.02
FACTORS = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}  # keys of configurations -> power
SOFTCAP = "final_logit_softcapping"

_tried: WeakSet[nn.Module] = WeakSet()


@dataclass(frozen=True, eq=False)
class Head:
    """What turns hidden states into logits.

    Attributes:
        weight: [V, D]; may be the embeddings' own.
        bias: [V], or None.
        scale: what raw logits are multiplied by (Cohere, Granite).
        softcap: logits then become softcap * tanh(logits / softcap) (Gemma), or None.
        block: tokens whose logits are held at once.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    block: int = 512

    @classmethod
    def of(cls, model: nn.Module) -> Head:
        """The head of a live transformers model, held against the model's own logits the first time.

        Raises:
            UserError: if the head does something else, or the model adds a loss of its routers.
        """
        output = model.get_output_embeddings()  # type: ignore[operator]
        output = getattr(output, "modules_to_save", {}).get("default", output)  # PEFT keeps trained heads beside
        config = text_config(model.config)  # type: ignore[arg-type]
        if getattr(config, "output_router_logits", False):
            raise UserError(
                "output_router_logits is true: the model adds a loss of its routers, which is not computed here",
                "Set model.config.output_router_logits = False.",
            )
        if not isinstance(output, nn.Linear):
            raise UserError(
                f"the head of {type(model).__name__} is a {type(output).__name__}, expected a torch.nn.Linear",
                "Leave the head out of what an adapter changes.",
            )
        scale = 1.0
        for key, power in FACTORS.items():
            scale *= float(getattr(config, key, None) or 1.0) ** power
        softcap = getattr(config, SOFTCAP, None)
        block = max(1, LOGITS // output.weight.shape[0])
        head = cls(output.weight, output.bias, scale, None if softcap is None else float(softcap), block)
        if output not in _tried:
            head._try(model)
            _tried.add(output)
        return head

    @torch.no_grad()
    def _try(self, model: nn.Module) -> None:
        vocabulary, device = self.weight.shape[0], self.weight.device
        ids = torch.arange(3, 3 + TOKENS, device=device)[None] % vocabulary
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
        with still(model):
            own, hidden = model(**given).logits[0], decoder(model)(**given)[0][0]
        fits = hidden.shape[-1] == self.weight.shape[-1] and own.shape[-1] == vocabulary
        error = float((self.logits(hidden) - own).norm() / own.norm()) if fits else float("inf")
        if not error <= TOLERANCE.get(own.dtype, 0.02):
            raise UserError(
                f"logits of {type(model).__name__} are not those of its head, weight {list(self.weight.shape)}, scale "
                f"{self.scale:g}, softcap {self.softcap}: they differ by {error:.2g} of their size, so that its loss "
                "cannot be computed in blocks",
                "Train it with a loop that computes all logits at once: transformers.Trainer with ropewalk's collator.",
            )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits of all tokens at once, float32 at least, [M, V]."""
        raw = F.linear(hidden, self.weight.to(hidden.dtype), None if self.bias is None else self.bias.to(hidden.dtype))
        logits = raw.to(torch.promote_types(raw.dtype, torch.float32)) * self.scale
        return logits if self.softcap is None else torch.tanh(logits / self.softcap) * self.softcap

    def loss(self, hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the tokens' cross-entropies; differentiable once in hidden states and head.

        Args:
            hidden: last hidden states, [M, D].
            targets: int64 [M], the token that each predicts; ``IGNORED`` where none.
            weights: [M], of each token's loss; where 0, no logits are computed.

        Returns:
            A scalar, float32 at least.
        """
        loss: Tensor = _Loss.apply(self, targets, weights, hidden, self.weight, self.bias)
        return loss

    @torch.no_grad()
    def losses(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of each token, float32 at least, [M]; 0 where there is no target."""
        found = hidden.new_zeros(len(targets), dtype=torch.promote_types(hidden.dtype, torch.float32))
        for some in (targets != IGNORED).nonzero()[:, 0].split(self.block):
            found[some] = F.cross_entropy(self.logits(hidden[some]), targets[some], reduction="none")
        return found


class _Loss(torch.autograd.Function):
    """Gradients are taken in the forward pass, so that no logits are computed twice."""

    @staticmethod
    def forward(
        ctx: Any, head: Head, targets: Tensor, weights: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        kind = hidden.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            kind = torch.get_autocast_dtype(hidden.device.type)
        with torch.autocast(hidden.device.type, enabled=False):
            loss, *gradients = _passes(head, targets, weights, hidden, kind, ctx.needs_input_grad[3:])
        ctx.gradients = gradients
        return loss

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found, ctx.gradients = ctx.gradients, None
        if found is None:
            raise RuntimeError("this loss has been differentiated before")
        return None, None, None, *(None if x is None else x.mul_(gradients[0].to(x.dtype)) for x in found)


def _passes(
    head: Head, targets: Tensor, weights: Tensor, hidden: Tensor, kind: torch.dtype, wanted: tuple[bool, ...]
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """The loss, and the gradients of hidden states, weight and bias where wanted."""
    precise = torch.promote_types(kind, torch.float32)
    weight, bias = head.weight.to(kind), None if head.bias is None else head.bias.to(kind)
    to_hidden, to_weight, to_bias = wanted
    d_hidden = torch.zeros_like(hidden) if to_hidden else None
    d_weight = torch.zeros_like(weight, dtype=precise) if to_weight else None
    d_bias = None if bias is None or not to_bias else torch.zeros_like(bias, dtype=precise)
    loss = hidden.new_zeros((), dtype=precise)
    counted = ((weights != 0) & (targets != IGNORED)).nonzero()[:, 0]
    for some in counted.split(head.block) if len(counted) else ():
        x, y, w = hidden[some].to(kind), targets[some, None], weights[some, None].to(precise)
        z = F.linear(x, weight, bias).to(precise)
        if head.scale != 1.0:
            z *= head.scale
        bent = None
        if head.softcap is not None:
            bent = z.div_(head.softcap).tanh_()
            z = bent * head.softcap
        own = z.gather(1, y)
        largest = z.amax(1, keepdim=True)
        total = z.sub_(largest).exp_().sum(1, keepdim=True)
        loss += ((largest + total.log() - own) * w).sum()
        if not any(wanted):
            del z
            continue
        z.mul_(w / total).scatter_add_(1, y, -w)  # now the gradient of the logits
        if bent is not None:
            z.mul_(1 - bent.square_())
        if head.scale != 1.0:
            z *= head.scale
        if d_bias is not None:
            d_bias += z.sum(0)
        z = z.to(kind)
        if d_hidden is not None:
            d_hidden[some] = (z @ weight).to(hidden.dtype)
        if d_weight is not None and kind == precise:
            d_weight.addmm_(z.T, x)
        elif d_weight is not None:
            d_weight += z.T @ x
        del z, own  # before the next block's are there
    if d_weight is not None:
        d_weight = d_weight.to(head.weight.dtype)
    if d_bias is not None and head.bias is not None:
        d_bias = d_bias.to(head.bias.dtype)
    return loss, d_hidden, d_weight, d_bias
