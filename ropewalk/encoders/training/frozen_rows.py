"""Rows of a table that no training moves: neither gradients nor weight decay reach them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from ropewalk.common.errors import UserError


class _Kept(nn.Module):
    """A table of which some rows are those that it had, whatever is learnt."""

    kept: Tensor
    frozen: Tensor

    def __init__(self, kept: Tensor, frozen: Tensor):
        super().__init__()
        self.register_buffer("kept", kept, persistent=False)
        self.register_buffer("frozen", frozen[:, None], persistent=False)

    def forward(self, learnt: Tensor) -> Tensor:
        return self.kept.where(self.frozen, learnt)


@contextmanager
def frozen_rows(embedding: nn.Embedding, frozen: Tensor) -> Iterator[None]:
    """Freeze rows of a table for a while; optimisers are made inside, of the parameters that the model has there.

    Args:
        embedding: the table, [T, h].
        frozen: bool [T], which rows stay.

    Raises:
        UserError: unless there is an entry for each row, and one that learns.
    """
    if frozen.shape != embedding.weight.shape[:1] or frozen.all():
        raise UserError(
            f"{int(frozen.sum())} of {len(frozen)} rows are frozen of a table of {len(embedding.weight)}, expected some"
        )
    kept = embedding.weight.detach().clone()
    register_parametrization(embedding, "weight", _Kept(kept, frozen.to(kept.device)))
    try:
        yield
    finally:
        remove_parametrizations(embedding, "weight", leave_parametrized=True)
