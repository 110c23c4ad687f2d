"""A few steps of AdamW for encoders, and the loss by which pairs find each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup

from ropewalk.common.errors import UserError

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Pace:
    """How fast weights move.

    Attributes:
        learning_rate: at its highest.
        weight_decay: of all that learns.
        warmup: steps in which the rate rises from nought; behind them it falls along a cosine.
    """

    learning_rate: float
    weight_decay: float = 0.0
    warmup: int = 0


def descend(
    parameters: Iterable[Tensor], loss_of: Callable[[Batch], Tensor], batches: Sequence[Batch], pace: Pace
) -> list[float]:
    """Take a step for each batch; the loss before each.

    Raises:
        UserError: if there is no batch, nothing that learns, or a loss is no number; weights are then those of the
            step before.
    """
    learning = [one for one in parameters if one.requires_grad]
    if not batches or not learning:
        raise UserError(f"{len(batches)} batches and {len(learning)} weights that learn, expected one of each at least")
    optimiser = torch.optim.AdamW(learning, lr=pace.learning_rate, weight_decay=pace.weight_decay)
    schedule = get_cosine_schedule_with_warmup(optimiser, pace.warmup, len(batches))
    optimiser.zero_grad()
    losses: list[float] = []
    for batch in batches:
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
