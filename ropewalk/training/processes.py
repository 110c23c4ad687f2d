"""The processes that train together: one, or those that ``torchrun`` started."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.tensor import DTensor

from ropewalk.attention.spread import Spread
from ropewalk.common.errors import UserError


@dataclass(frozen=True)
class Processes:
    """Who of how many this one is.

    Attributes:
        rank: from 0 on.
        count: of all.
        spread: those that share every sequence with this one; None if each process has whole rows.
    """

    rank: int = 0
    count: int = 1
    spread: Spread | None = None

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def readers(self) -> int:
        """How many share the rows of a step: processes, or groups of them."""
        return self.count if self.spread is None else self.count // self.spread.count

    @property
    def reader(self) -> int:
        """Which of them this one is, or belongs to."""
        return self.rank if self.spread is None else self.rank // self.spread.count

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Make each tensor the sum over all processes, in place; those of one type go as one message.

        Gradients of sharded parameters come summed up already.
        """
        if self.count == 1:
            return
        kinds: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for tensor in tensors:
            if isinstance(tensor, DTensor):
                continue
            kinds.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for some in kinds.values():
            whole = torch.cat([tensor.flatten() for tensor in some])
            dist.all_reduce(whole)
            for tensor, part in zip(some, whole.split([one.numel() for one in some]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        """Until all have come here."""
        if self.count > 1:
            dist.barrier()


ALONE = Processes()


def launched() -> int:
    """How many processes ``torchrun`` started, as the environment says."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def speaks() -> bool:
    """Whether this is the one of these processes that tells the user."""
    return int(os.environ.get("RANK", "0")) == 0


@contextmanager
def processes(sequence: int = 1) -> Iterator[Processes]:
    """Those that ``torchrun`` started, as the environment says; left as they were found.

    Args:
        sequence: neighbours that share every sequence.

    Raises:
        UserError: if their number cannot be divided by that.
    """
    count = dist.get_world_size() if dist.is_initialized() else launched()
    if count % sequence:
        raise UserError(
            f"{count} {'process' if count == 1 else 'processes'}, of which {sequence} are to share a sequence",
            f"torchrun --nproc-per-node {sequence} -m ropewalk train ...",
        )
    if count == 1 and not dist.is_initialized():
        yield ALONE
        return
    ours = not dist.is_initialized()
    if ours:
        kind = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(kind, timeout=timedelta(days=1))  # one measures, and the others wait
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    try:
        rank, spread = dist.get_rank(), None
        if sequence > 1:
            group, _ = dist.new_subgroups(sequence)
            spread = Spread(group, rank % sequence, sequence)
        yield Processes(rank, count, spread)
    finally:
        if ours:
            dist.destroy_process_group()
