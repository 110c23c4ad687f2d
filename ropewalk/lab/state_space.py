"""Selective state spaces (Mamba, arXiv 2312.00752): a linear recurrence whose weights depend on the token."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

STEPS = 1e-3, 1e-1  # between which the first step sizes lie


class LinearScan(torch.autograd.Function):
    """``h_t = a_t * h_(t-1) + b_t`` from ``h = 0``, over dimension 1; its gradient is the same recurrence, backwards.

    One step of the loop is as wide as all of the batch's states: on a CPU that took half the time of chunks side by
    side, which go over the states three times.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        """States [B, n, ...] of factors and inputs of that shape."""
        states = b.clone()
        for t in range(1, b.shape[1]):
            states[:, t].addcmul_(a[:, t], states[:, t - 1])
        ctx.save_for_backward(a, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, states = ctx.saved_tensors
        of_b = gradient.clone()
        for t in range(a.shape[1] - 1, 0, -1):
            of_b[:, t - 1].addcmul_(a[:, t], of_b[:, t])
        of_a = torch.zeros_like(a)
        torch.mul(of_b[:, 1:], states[:, :-1], out=of_a[:, 1:])
        return of_a, of_b


class SelectiveStateSpace(nn.Module):
    """What a Mamba-1 layer does between its two projections; weights are named as in transformers' ``MambaMixer``.

    ``h_t = exp(dt_t A) h_(t-1) + dt_t B_t x_t`` and ``y_t = C_t h_t + D x_t`` for each channel, on ``x`` behind a short
    causal convolution; ``dt``, ``B`` and ``C`` follow from ``x_t``, and ``y`` is gated.

    Args:
        channels: of the recurrence.
        state: numbers that each channel remembers.
        rank: of the step sizes ``dt``.
        taps: of the convolution.
    """

    def __init__(self, channels: int, state: int = 16, rank: int = 1, taps: int = 4):
        super().__init__()
        self.sizes = rank, state, state
        self.conv1d = nn.Conv1d(channels, channels, taps, groups=channels, padding=taps - 1)
        self.x_proj = nn.Linear(channels, rank + 2 * state, bias=False)
        self.dt_proj = nn.Linear(rank, channels)
        self.A_log = nn.Parameter(torch.empty(channels, state))
        self.D = nn.Parameter(torch.empty(channels))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The paper's: A = -1, -2, ..., and steps that are log-uniform in ``STEPS``."""
        self.A_log.copy_(torch.arange(1.0, self.A_log.shape[1] + 1).log().expand_as(self.A_log))
        self.D.fill_(1)
        nn.init.uniform_(self.dt_proj.weight, -(self.sizes[0] ** -0.5), self.sizes[0] ** -0.5)
        low, high = map(math.log, STEPS)
        steps = torch.empty_like(self.dt_proj.bias).uniform_(low, high).exp()
        self.dt_proj.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # what softplus turns into them

    def forward(self, projected: Tensor, real: Tensor | None = None) -> Tensor:
        """Outputs [B, n, channels].

        Args:
            projected: inputs and gates [B, n, 2 * channels].
            real: bool [B, n]; what is no token enters neither convolution nor state, so that at either end of a row it
                changes nothing.
        """
        return self.scan(*self.signals(projected, real))

    def signals(self, projected: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """What the recurrence gets of each token: x, gate, dt [B, n, channels], B and C [B, n, state]; see forward."""
        x, gate = projected.chunk(2, -1)
        if real is not None:
            x = x.masked_fill(~real[..., None], 0)
        x = functional.silu(self.conv1d(x.mT)[..., : x.shape[1]]).mT
        dt, B, C = self.x_proj(x).split(self.sizes, -1)
        dt = functional.softplus(self.dt_proj(dt))
        return x, gate, dt if real is None else dt.masked_fill(~real[..., None], 0), B, C

    def scan(self, x: Tensor, gate: Tensor, dt: Tensor, B: Tensor, C: Tensor) -> Tensor:
        """Outputs [B, n, channels] of such signals."""
        A = -self.A_log.exp()
        states: Tensor = LinearScan.apply((dt[..., None] * A).exp(), (dt * x)[..., None] * B[..., None, :])
        y = (states @ C[..., None])[..., 0] + self.D * x
        return y * functional.silu(gate)
