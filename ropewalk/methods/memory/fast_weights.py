"""A memory of weights that are trained while a text is read, once per large chunk (LaCT, arXiv 2505.23884).

The memory is a SwiGLU layer f(x) = w1 (silu(w0 x) * (w2 x)). The tokens of a chunk read it as the chunks before left
it; then it takes one step towards giving back each value v_i for its key k_i. The step is the sum of eta_i times the
gradient of f(k_i) . v_i, with momentum, made orthogonal (Muon), and rows keep the norms that they began with. So no
token reads what a later one wrote, and a text may be cut anywhere: what is left of a chunk waits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

QUINTIC = (  # coefficients of each Newton-Schulz step
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)

Weights = tuple[Tensor, Tensor, Tensor]  # w0 [B, H, h, d], w1 [B, H, d, h], w2 [B, H, h, d]


def orthogonal(step: Tensor) -> Tensor:
    """A matrix [.., m, n] with its singular values brought near 1, without a decomposition; nothing stays nothing."""
    x = step.mT if step.shape[-2] > step.shape[-1] else step
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in QUINTIC:
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT if step.shape[-2] > step.shape[-1] else x


def asked(weights: Weights, q: Tensor) -> Tensor:
    """f(q), [B, H, n, d] of queries of that shape."""
    w0, w1, w2 = weights
    return (F.silu(q @ w0.mT) * (q @ w2.mT)) @ w1.mT


def towards(weights: Weights, k: Tensor, v: Tensor, rates: Tensor) -> Weights:
    """The sum over tokens of eta_i times the gradient of f(k_i) . v_i, for each weight.

    Args:
        weights: of the memory.
        k: keys [B, H, n, d].
        v: values [B, H, n, d].
        rates: eta of w0, w1 and w2, [B, H, n, 3].
    """
    w0, w1, w2 = weights
    bent, up, back = k @ w0.mT, k @ w2.mT, v @ w1
    gate, sigmoid = F.silu(bent), bent.sigmoid()
    slope = sigmoid * (1 + bent * (1 - sigmoid))
    of0, of1, of2 = rates.split(1, -1)
    return (back * up * slope * of0).mT @ k, v.mT @ (gate * up * of1), (back * gate * of2).mT @ k


@dataclass(frozen=True, eq=False)
class FastWeights:
    """The memory of one layer, at some place in its texts.

    Attributes:
        weights: as the whole chunks so far left them, float32 at least.
        norms: of their rows, which stay.
        velocity: the steps so far, each weighed down by the momentum of the chunks after it.
        waiting: keys, values, rates and momenta of the tokens since then, [B, H, less than a chunk, d, d, 3 and 1].
        chunk: tokens per step.
    """

    weights: Weights
    norms: Weights
    velocity: Weights
    waiting: tuple[Tensor, Tensor, Tensor, Tensor]
    chunk: int

    @classmethod
    def begin(cls, weights: Weights, chunk: int) -> FastWeights:
        """The memory before any text."""
        w0, w1, w2 = weights
        norms = w0.norm(dim=-1, keepdim=True), w1.norm(dim=-1, keepdim=True), w2.norm(dim=-1, keepdim=True)
        still = torch.zeros_like(w0), torch.zeros_like(w1), torch.zeros_like(w2)
        sizes = w1.shape[-2], w1.shape[-2], 3, 1
        k, v, rates, momenta = (w0.new_zeros(*w0.shape[:2], 0, size) for size in sizes)
        return cls(weights, norms, still, (k, v, rates, momenta), chunk)

    def read(self, q: Tensor, k: Tensor, v: Tensor, rates: Tensor, momenta: Tensor) -> tuple[Tensor, FastWeights]:
        """What tokens get from the memory, [B, H, n, d], and the memory behind them.

        Args:
            q: queries [B, H, n, d].
            k: keys [B, H, n, d].
            v: values [B, H, n, d].
            rates: eta of each weight, [B, H, n, 3].
            momenta: in 0 .. 1, [B, H, n, 1]; a step takes the mean over its chunk.
        """
        memory, outputs, at = self, [], 0
        while at < q.shape[2]:
            end = min(q.shape[2], at + self.chunk - memory.waiting[0].shape[2])
            outputs.append(asked(memory.weights, q[:, :, at:end]))
            memory = memory._taking(*(one[:, :, at:end] for one in (k, v, rates, momenta)))
            at = end
        return torch.cat(outputs, 2), memory

    def _taking(self, *tokens: Tensor) -> FastWeights:
        """The memory with tokens of one chunk taken in."""
        k, v, rates, momenta = (torch.cat(pair, 2) for pair in zip(self.waiting, tokens, strict=True))
        if k.shape[2] < self.chunk:
            return replace(self, waiting=(k, v, rates, momenta))
        momentum = momenta.mean(2, keepdim=True)
        steps = towards(self.weights, k, v, rates)
        v0, v1, v2 = (new + momentum * old for new, old in zip(steps, self.velocity, strict=True))
        w0, w1, w2 = (
            _with_norms(old + orthogonal(step), norm)
            for old, step, norm in zip(self.weights, (v0, v1, v2), self.norms, strict=True)
        )
        nothing = k[:, :, :0], v[:, :, :0], rates[:, :, :0], momenta[:, :, :0]
        return replace(self, weights=(w0, w1, w2), velocity=(v0, v1, v2), waiting=nothing)


def _with_norms(w: Tensor, norms: Tensor) -> Tensor:
    """Rows of [.., m, n] with norms [.., m, 1]."""
    return w * (norms / w.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(w.dtype).tiny))
