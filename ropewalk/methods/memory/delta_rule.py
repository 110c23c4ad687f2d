"""The gated delta rule: a state that decays, and takes in what it does not say yet (arXiv 2412.06464).

For one head, S_t = a_t S_(t-1) + b_t (v_t - a_t S_(t-1) k_t) k_t^T and o_t = S_t q_t. Without the correction, which is
Mamba-2's recurrence (arXiv 2405.21060), the state adds b_t v_t k_t^T. Over a chunk, with g_t the product of its a up to
t, S_t = g_t S_0 + sum of (g_t / g_i) u_i k_i^T, where the u solve one triangular system.
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64  # tokens that are computed at once


def gated_delta(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None = None, corrects: bool = True
) -> tuple[Tensor, Tensor]:
    """Outputs [B, H, n, Dv], and the state behind them, [B, H, Dv, D].

    Args:
        q: queries [B, H, n, D].
        k: keys [B, H, n, D], of norm 1 where the state is to stay bounded.
        v: values [B, H, n, Dv].
        decay: log of a, at most 0, [B, H, n].
        beta: in 0 .. 1, [B, H, n].
        state: before them; None means zeros.
        corrects: whether a value's difference to what the state says is taken in; else the value.
    """
    if state is None:
        state = q.new_zeros(*v.shape[:2], v.shape[-1], k.shape[-1])
    outputs = []
    for i in range(0, q.shape[2], CHUNK):
        of_q, of_k, of_v, of_decay, of_beta = (one[:, :, i : i + CHUNK] for one in (q, k, v, decay, beta))
        out, state = _chunk(of_q, of_k, of_v, of_decay, of_beta, state, corrects)
        outputs.append(out)
    return torch.cat(outputs, 2), state


def _chunk(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, corrects: bool
) -> tuple[Tensor, Tensor]:
    summed, beta = decay.cumsum(-1), beta[..., None]
    since = (summed[..., :, None] - summed[..., None, :]).tril().exp().tril()  # g_t / g_i, 0 before i
    g = summed.exp()[..., None]
    taken = beta * v
    if corrects:
        known = beta * since.tril(-1) * (k @ k.mT)
        taken = torch.linalg.solve_triangular(known, taken - beta * g * (k @ state.mT), upper=False, unitriangular=True)
    out = g * (q @ state.mT) + (since * (q @ k.mT)) @ taken
    return out, g[..., -1:, :] * state + (since[..., -1, :, None] * taken).mT @ k
