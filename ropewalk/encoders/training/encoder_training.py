"""A few steps of AdamW for encoders, and the loss by which pairs find each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import cos, inf, isfinite, pi, sqrt
from typing import Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from ropewalk.common.errors import UserError
from ropewalk.encoders.training.kept_descent import KeptDescent

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Pace:
    """How fast weights move.

    Attributes:
        learning_rate: at its highest.
        weight_decay: of all that learns.
        warmup: steps in which the rate rises from nought.
        hold: steps behind these at the highest; behind them it falls to nought.
        fall: along a cosine, or by the root of the way: 1 - sqrt(t).
    """

    learning_rate: float
    weight_decay: float = 0.0
    warmup: int = 0
    hold: int = 0
    fall: Literal["cosine", "root"] = "cosine"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "weight_decay", "warmup", "hold"):
            if not 0 <= (value := getattr(self, name)) < inf:
                raise UserError(f"{name} is {value!r}, expected a finite number that is not below 0")

    def factor(self, step: int, steps: int) -> float:
        """What the highest rate is multiplied by in a step, of so many; the first step is 0."""
        if step < self.warmup:
            return step / self.warmup
        begin = self.warmup + self.hold
        done = min(1.0, max(0, step - begin) / max(1, steps - begin))
        return (1 + cos(pi * done)) / 2 if self.fall == "cosine" else 1 - sqrt(done)


def descend(
    parameters: Iterable[Tensor],
    loss_of: Callable[[Batch], Tensor],
    batches: Sequence[Batch],
    pace: Pace,
    kept: KeptDescent | None = None,
) -> list[float]:
    """Take a step for each batch; the loss before each.

    Args:
        parameters: of which those learn that require a gradient.
        loss_of: the loss of a batch.
        batches: one for each step.
        pace: how fast weights move.
        kept: where the descent goes on from, and leaves what a further one goes on from.

    Raises:
        UserError: if there is no batch, nothing that learns, or a loss is no number; weights are then those of the
            step before. Or what is kept is of another descent.
    """
    learning = [one for one in parameters if one.requires_grad]
    if not batches or not learning:
        raise UserError(f"{len(batches)} batches and {len(learning)} weights that learn, expected one of each at least")
    optimiser = torch.optim.AdamW(learning, lr=pace.learning_rate, weight_decay=pace.weight_decay)
    losses = kept.load(learning, optimiser) if kept else []
    for group in optimiser.param_groups:
        group["initial_lr"] = pace.learning_rate
    schedule = LambdaLR(optimiser, lambda step: pace.factor(step, len(batches)), last_epoch=len(losses) - 1)
    optimiser.zero_grad()
    for batch in batches[len(losses) :]:
        loss = loss_of(batch)
        losses.append(float(loss.detach()))
        if not isfinite(losses[-1]):
            raise UserError(
                f"the loss of step {len(losses)} is {losses[-1]}", f"Lower the learning rate, {pace.learning_rate:g}."
            )
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()
        schedule.step()
        if kept and (len(losses) % kept.every == 0 or len(losses) == len(batches)):
            kept.save(learning, optimiser, losses)
    return losses


def contrastive(left: Tensor, right: Tensor, scale: Tensor | float, smoothing: float = 0.0) -> Tensor:
    """How badly row i of either finds row i of the other among all rows: InfoNCE, the mean of both directions.

    Args:
        left: [B, e].
        right: [B, e].
        scale: of the products of rows, the inverse of a temperature.
        smoothing: share of the target that all rows have together.
    """
    logits = scale * left @ right.T
    own = torch.arange(len(logits), device=logits.device)
    both = [F.cross_entropy(one, own, label_smoothing=smoothing) for one in (logits, logits.T)]
    return (both[0] + both[1]) / 2
