"""The selective dense state space (SD-SSM, arXiv 2412.19350): each symbol mixes a few dense transition matrices."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SelectiveDense(nn.Module):
    """``h_t = A(x_t) h_(t-1) + B x_t``, and labels from the last state through a norm and a linear map.

    ``A(x)`` is a mixture of ``matrices`` by a softmax over ``W_s x + b_s``, whose columns are then brought to norm 1.
    As ``x`` is one of few symbols, there is one ``A`` for each of them, made once for all steps.

    Args:
        symbols: of the alphabet.
        labels: that are told apart.
        state: its size.
        matrices: that are mixed.
        norm: p of the columns' p-norm; at 1 no matrix makes a state's 1-norm larger; inputs add to it.
    """

    def __init__(self, symbols: int, labels: int, state: int = 64, matrices: int = 6, norm: float = 1.2):
        super().__init__()
        self.p = norm
        bound = (6 / (2 * state)) ** 0.5
        self.transitions = nn.Parameter(torch.empty(matrices, state, state).uniform_(-bound, bound))
        self.selector = nn.Linear(symbols, matrices)
        self.inputs = nn.Linear(symbols, state, bias=False)
        self.norm = nn.LayerNorm(state)
        self.out = nn.Linear(state, labels)

    def matrices_of_symbols(self) -> Tensor:
        """Float [symbols, state, state]; a column of zeros stays one."""
        weights = (self.selector.weight.T + self.selector.bias).softmax(-1)
        mixed = torch.einsum("vk,kij->vij", weights, self.transitions)
        norms = torch.linalg.vector_norm(mixed, self.p, dim=1, keepdim=True)
        return mixed / norms.clamp_min(torch.finfo(mixed.dtype).tiny)

    def states(self, symbols: Tensor) -> Tensor:
        """Float [B, n, state] of symbols [B, n], from a state of zeros."""
        matrices, inputs = self.matrices_of_symbols(), self.inputs.weight.T
        state, found = inputs.new_zeros(len(symbols), inputs.shape[1]), []
        for t in range(symbols.shape[1]):
            one = symbols[:, t]
            state = (matrices[one] @ state[..., None])[..., 0] + inputs[one]
            found.append(state)
        return torch.stack(found, 1)

    def forward(self, symbols: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits [B, labels] of what is read behind the last symbol.

        Args:
            symbols: int64 [B, n].
            lengths: of each row [B]; what stands behind them does not count.
        """
        states = self.states(symbols)
        last = states[:, -1] if lengths is None else states[torch.arange(len(states)), lengths - 1]
        found: Tensor = self.out(self.norm(last))
        return found
