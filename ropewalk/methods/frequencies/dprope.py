"""Distributional RoPE: per dimension, interpolate only if that disturbs the histogram of angles less.

"Extending Context Window of Large Language Models from a Distributional Perspective", EMNLP 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ropewalk.methods.base import require_above
from ropewalk.methods.frequencies.frequency_method import FrequencyMethod
from ropewalk.rope.spec import Frequencies, RopeSpec

FLOOR = float(torch.finfo(torch.float16).tiny)  # bins start at this count


def angle_histogram(inv_freq: Tensor, length: int, bins: int) -> Tensor:
    """Share of the angles m * w mod 2 pi, m < length, in each bin; float64 [d/2, bins]."""
    angles = torch.outer(inv_freq, torch.arange(length, dtype=torch.float64)) % (2 * math.pi)
    index = (angles * (bins / (2 * math.pi))).long().clamp_max(bins - 1)
    counts = torch.full((len(inv_freq), bins), FLOOR, dtype=torch.float64)
    counts.scatter_add_(1, index, torch.ones_like(angles))
    return counts / length


@dataclass(frozen=True)
class DistributionalRoPE(FrequencyMethod):
    """f_i is 1 or s, whichever has the smaller divergence between trained and extended angle histograms.

    For fast dimensions both divergences are rounding noise and the choice is arbitrary, as in the official code.

    Attributes:
        bins: of the circle.
        monotone: interpolate only the unbroken run of slow dimensions that want it, which drops the arbitrary choices.
    """

    bins: int = 360
    monotone: bool = False

    name: ClassVar[str] = "dprope"

    def __post_init__(self) -> None:
        require_above(0, self, "bins")

    def divergence(self, rope: RopeSpec, target: int, factor: float) -> Tensor:
        """Mean over bins of P ln(P / Q) between angles seen in the window and angles at the target; [d/2]."""
        seen = angle_histogram(rope.inv_freq, rope.window, self.bins)
        met = angle_histogram(rope.inv_freq / factor, target, self.bins)
        return (seen * (seen / met).log()).mean(1)

    def frequencies(self, rope: RopeSpec, target: int) -> Frequencies:
        s = rope.scale(target)
        interpolate = self.divergence(rope, target, s) < self.divergence(rope, target, 1.0)
        if self.monotone:
            interpolate = interpolate.flip(0).cummin(0).values.flip(0)
        return Frequencies(torch.where(interpolate, rope.inv_freq / s, rope.inv_freq))
