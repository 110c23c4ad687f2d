"""Every factor along its own gradient, a few texts a step; what comes out is the mean of the later points.

A gradient by all factors costs as much as three readings of a text, and a step need not see all texts, so that a
descent over many texts costs less than a search that reads few of them with every candidate. Steps are those of Adam
(arXiv 1412.6980); the mean of the later ones forgets what single texts said (Polyak and Juditsky 1992). Where short
texts may only be read so much worse, a step from where they are goes along their gradient instead (switching
subgradients, Polyak 1967).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.fitting.race import Search
from ropewalk.fitting.scoring import Scoring
from ropewalk.fitting.slope import WITHOUT
from ropewalk.methods.frequencies.longrope import LongRoPE
from ropewalk.methods.frequencies.none import Plain

BATCH = 2  # texts of a step
RATE = 0.02  # nats of a factor in the first step; it falls to nothing, by a cosine
FAST = 0.12  # the same where short texts are to be read better than from the start: that is far
COOLER = 0.3  # of it, for the attention factor, which matters more than a factor does
HELD = 0.01, 0.002  # nats, as a gradient says, over which it is held against a loss
AGREES = 0.5  # of what a gradient says, by which what is seen may differ
ROUGH = {torch.float32: 2e-4, torch.float64: 1e-6}  # nats of a loss; half precision: 0.002
MOMENTS = (0.8, 0.95)  # of few steps


@dataclass(frozen=True)
class Descent:
    """From a candidate.

    Attributes:
        start: the candidate, with its attention factor.
        most: the largest factor.
        cooler: whether the attention factor is searched, too.
        tax: how much worse texts within the window may be read, as a share of their perplexity; None: no matter.
        rounds: steps.
        batch: texts of a step.
    """

    start: LongRoPE
    most: float
    cooler: bool
    tax: float | None
    rounds: int
    batch: int = BATCH

    def check(self, scoring: Scoring) -> None:
        """Hold the first gradient against the losses of a text a step ahead and a step behind.

        Raises:
            UserError: if they differ otherwise than it says.
        """
        point = self._start()
        by = scoring.far_slope(self._method(point), [0])
        gradient = torch.from_numpy(np.array([*-by[:-1], self.cooler * by[-1]]))
        room = torch.minimum(point, math.log(self.most) - point) >= RATE
        step = gradient * torch.cat([room[:-1], room.new_ones(1)])
        slope, largest = 2 * float(step @ gradient), float(step.abs().max())
        if slope == 0:
            return
        for nats in HELD:  # of a wavy loss a gradient tells no more than the nearest
            size = min(RATE / largest, nats / slope)
            ahead, behind = (
                scoring.far(self._method(to), 0).mean() for to in (point + size * step, point - size * step)
            )
            said, seen = size * slope, float(ahead - behind)
            if abs(seen - said) <= AGREES * said + ROUGH.get(scoring.dtype, 2e-3):
                return
        raise UserError(
            f"by its gradient a loss would rise by {said:.2g} nats, and {seen:+.2g} is seen: something between the "
            "factors and the loss bends gradients",
            WITHOUT,
        )

    def search(self, scoring: Scoring) -> Search:
        """In the end the mean of the second half of all points, and the last one; under a limit to the tax also every
        point on the way that keeps it.
        """
        logs, factor = (part.clone().requires_grad_() for part in self._start().split([len(self.start.factors), 1]))
        rate = RATE if self.tax is None else FAST
        rates: list[dict[str, Any]] = [{"params": [logs]}, {"params": [factor], "lr": COOLER * self.cooler * rate}]
        adam = torch.optim.Adam(rates, rate, MOMENTS)
        falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.rounds)
        later: list[Tensor] = []
        for step in range(self.rounds):
            method = self._method(torch.cat([logs, factor]))
            texts = _turn(step, self.batch, len(scoring.rows))
            kept = self._kept(scoring, method)
            by = (scoring.far_slope if kept else scoring.near_slope)(method, texts)
            yield [method] if kept and self.tax is not None else []
            if kept and 2 * step >= self.rounds:
                later.append(torch.cat([logs, factor]).detach())
            logs.grad, factor.grad = torch.from_numpy(-by[:-1]), torch.from_numpy(by[-1:])
            adam.step()
            falling.step()
            with torch.no_grad():
                logs.clamp_(0, math.log(self.most))
        last = torch.cat([logs, factor]).detach()
        yield [*map(self._method, [torch.stack(later or [last]).mean(0), last])]

    def _kept(self, scoring: Scoring, method: LongRoPE) -> bool:
        """By all short texts: what they cost differs much from one to another."""
        if self.tax is None:
            return True
        return float(np.mean(scoring.near(method) - scoring.near(Plain()))) <= math.log1p(self.tax)

    def _start(self) -> Tensor:
        """Log factors and log attention factor, float64 [d/2 + 1]."""
        assert self.start.attention_factor is not None
        return torch.tensor([*self.start.factors, self.start.attention_factor], dtype=torch.float64).log()

    def _method(self, point: Tensor) -> LongRoPE:
        *factors, t = point.exp().tolist()
        return LongRoPE(tuple(factors), t)


def _turn(step: int, batch: int, texts: int) -> list[int]:
    """The texts of a step: all have their turns."""
    return sorted({(batch * step + i) % texts for i in range(batch)})
