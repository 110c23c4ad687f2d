"""CoPE, contextual position encoding: positions count what a query's gates let through (arXiv 2405.18719)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ropewalk.attention.bias import Bias
from ropewalk.lab.encoding import Encoding, Shape, Standing


class Contextual(Encoding):
    """q_i . e[p_ij], where p_ij sums up sigmoid(q_i . k_t / sqrt d) over t = j .. i; e is interpolated."""

    shared = False

    def __init__(self, shape: Shape):
        super().__init__(shape)
        self.table = nn.Parameter(torch.empty(shape.window, shape.head_width))

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        for one in weights.values():
            one.zero_()

    def bias(self, q: Tensor, k: Tensor, standing: Standing) -> Bias | None:
        seen = torch.arange(standing.past + 1, len(standing.positions) + 1, device=q.device)

        def of(rows: slice, keys: slice, q: Tensor, k: Tensor, table: Tensor) -> Tensor:
            places = positions(q[:, :, rows] @ k.mT * self.scale, seen[rows], len(table))[..., keys]
            return interpolated(q[:, :, rows] @ table.mT, places)

        return Bias(of, (q, k, self.table))


def positions(logits: Tensor, seen: Tensor, rows: int) -> Tensor:
    """How many tokens the gates let through from each key to the query, at most ``rows`` - 1; shaped like ``logits``.

    Args:
        logits: of queries and all keys, [..., rows, K].
        seen: keys that each query sees, int64 [rows].
        rows: of the table.
    """
    gates = torch.sigmoid(logits) * (torch.arange(logits.shape[-1], device=logits.device) < seen[:, None])
    return gates.flip(-1).cumsum(-1).flip(-1).clamp_max(rows - 1)


def interpolated(values: Tensor, places: Tensor) -> Tensor:
    """``values`` [..., P] at fractional ``places`` [..., K], [..., K]."""
    low, high = places.detach().floor().long(), places.detach().ceil().long()
    share = places - low
    return (1 - share) * values.gather(-1, low) + share * values.gather(-1, high)
