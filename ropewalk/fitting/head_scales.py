"""One logit scale per head, trained with everything else frozen, for ``head-scale``."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ropewalk.attention.regions import Layer
from ropewalk.common.errors import UserError
from ropewalk.fitting.fitter import Found, Ground
from ropewalk.methods.attention.head_scale import HeadScale
from ropewalk.rope.probe import probe


@dataclass(frozen=True)
class HeadScales:
    """Adam on the scales alone, one text of the target length per step, a linear warm-up over a tenth of the steps.

    The paper takes 200 steps of 8 texts at a rate of 0.1, from 1.6, on models without positions (NoPE), from 2k to 8k
    tokens, and keeps scales at 1 or above.

    Attributes:
        steps: one text each.
        rate: of learning.
        start: scale that every head starts with.
        least: no scale falls below it.
    """

    steps: int = 50
    rate: float = 0.1
    start: float = 1.0
    least: float = 1.0

    def search(self, method: HeadScale, ground: Ground) -> Found:
        """The scales."""
        if not (self.steps > 0 and self.rate > 0 and 0 < self.least <= self.start):
            raise UserError(f"{method.name}: {self}, expected steps > 0, rate > 0 and 0 < least <= start")
        model, texts = ground.model, ground.texts(ground.to)
        shape = [layer.heads for layer in sorted(probe(model), key=lambda layer: layer.index)]
        learned = [torch.full((heads,), self.start, requires_grad=True) for heads in shape]
        optimizer = torch.optim.Adam(learned, self.rate)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        model.requires_grad_(False)
        losses = []
        try:
            for step in range(self.steps):
                for group in optimizer.param_groups:
                    group["lr"] = self.rate * min(1, (step + 1) / max(1, self.steps / 10))
                ids = texts[step % len(texts)][None].to(model.device)
                with torch.enable_grad(), ground.with_method(_Learning(learned=learned)):
                    loss = next_token_loss(model, ids)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                with torch.no_grad():
                    for scales in learned:
                        scales.clamp_(min=self.least)
                losses.append(loss.item())
                ground.progress(step + 1, self.steps)
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)
        found = tuple(tuple(scales.tolist()) for scales in learned)
        if all(scale == 1 for layer in found for scale in layer):
            raise UserError(
                f"{method.name}: all scales ended at 1, the plain model: no sharper head lowers the loss",
                "Let heads be flatter, too: --settings least=0.5.",
            )
        rounds = min(len(texts), self.steps)
        seen = {
            "loss of the first round of texts": sum(losses[:rounds]) / rounds,
            "loss of the last round of texts": sum(losses[-rounds:]) / rounds,
        }
        return Found({"scales": found}, texts, seen)


def next_token_loss(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean loss in nats of [B, tokens], float32."""
    logits = model(ids, use_cache=False).logits[:, :-1].float()
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


@dataclass(frozen=True)
class _Learning(HeadScale):
    """Scales that have a gradient."""

    learned: list[Tensor] = field(default_factory=list, compare=False)

    measured = ()

    def temperature(self, m: Tensor, layer: Layer) -> Tensor | None:
        return self.learned[layer.index][None, :, None].expand(m.shape[0], -1, m.shape[1])

    def check(self, layer: Layer) -> None:
        """Scales are made for every layer."""
