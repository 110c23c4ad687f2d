"""What every engine's file answers: from a checkpoint's keys to the rotation that this engine computes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Reading:
    """The rotation of one kind of layer, as one engine derives it.

    Attributes:
        inv_freq: radians per token, float64 [d/2].
        attention_factor: multiplier of cos and sin.
        max_length: tokens that the engine serves without being told to.
    """

    inv_freq: Tensor
    attention_factor: float
    max_length: int
