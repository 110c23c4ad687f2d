"""Randomised positions: a sorted random subset of many, in training and at evaluation (arXiv 2305.16843)."""

from __future__ import annotations

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.lab.encodings.rotary import Rotary

RANGE = 2048  # positions to draw from


class RandomPositions(Rotary):
    """RoPE at random positions: drawn for every batch in training, and once for texts as long as the reach."""

    ways = ()

    def positions(self, tokens: int) -> Tensor:
        """A sorted draw; of a longer text the same, and more.

        Raises:
            UserError: if there are not as many.
        """
        drawn = tokens if self.training else max(self.reach, self.shape.window)
        if tokens > drawn or drawn > RANGE:
            raise UserError(
                f"positions are drawn for texts of {drawn:,} tokens, of {RANGE:,}, and one of {tokens:,} is read",
                f"Say how long texts are: model.extended('', {tokens}); {RANGE:,} tokens at most.",
            )
        generator = None if self.training else torch.Generator().manual_seed(0)
        return torch.randperm(RANGE, generator=generator)[:drawn].sort().values[:tokens]
