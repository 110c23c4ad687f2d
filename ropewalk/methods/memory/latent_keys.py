"""Keys and values through one latent vector per token, which alone is kept (MLA, arXiv 2405.04434), by an SVD.

[W_k; W_v] = U S V^T is cut after r singular values: the latent of x is S^(1/2) V^T x, and keys and values are
U S^(1/2) of it. With all of them it is the same attention; with fewer, no other latent of that size is nearer to the
two projections in the sum of squares.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LatentKeys(nn.Module):
    """W_k and W_v as a product: into a latent vector, and out of it.

    Args:
        key: W_k, with its bias if there is one.
        value: W_v.
        rank: numbers of a latent vector.
    """

    bias: Tensor

    def __init__(self, key: nn.Linear, value: nn.Linear, rank: int):
        super().__init__()
        self.sizes = key.out_features, value.out_features
        both = torch.cat([key.weight, value.weight]).detach().double()
        u, s, vh = torch.linalg.svd(both, full_matrices=False)
        root = s[:rank].sqrt()
        self.down = nn.Parameter((root[:, None] * vh[:rank]).to(key.weight.dtype).contiguous())
        self.up = nn.Parameter((u[:, :rank] * root).to(key.weight.dtype).contiguous())
        biases: list[Tensor] = [
            one.weight.new_zeros(one.out_features) if one.bias is None else one.bias for one in (key, value)
        ]
        self.register_buffer("bias", torch.cat(biases).detach().clone())

    def latent(self, hidden: Tensor) -> Tensor:
        """[B, n, rank] of the layer's input."""
        return hidden @ self.down.mT

    def forward(self, latent: Tensor) -> tuple[Tensor, Tensor]:
        """What W_k and W_v would give, [B, n, ..]."""
        key, value = (latent @ self.up.mT + self.bias).split(self.sizes, -1)
        return key, value


def full_rank(key: nn.Linear, value: nn.Linear) -> int:
    """The rank at which nothing is lost."""
    return min(key.in_features, key.out_features + value.out_features)
