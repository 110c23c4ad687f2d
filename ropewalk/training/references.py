"""What the model as it came says of answers: what a preference is held against, read once, before the first step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.training.pair_sampler import PairSampler
from ropewalk.training.processes import Processes
from ropewalk.training.training_batch import Batch


@dataclass(frozen=True, eq=False)
class References:
    """Log-probabilities of answers behind their evidence alone, by pair.

    Attributes:
        sampler: of the pairs.
        logs: chosen and rejected answer of each pair, float64 [pairs, 2]; not a number where none was asked for.
    """

    sampler: PairSampler
    logs: Tensor

    @classmethod
    def of(cls, sampler: PairSampler, trained: int) -> References:
        """Room for all pairs.

        Args:
            sampler: of them.
            trained: the window that the model came with, in tokens.

        Raises:
            UserError: if evidence is longer than that.
        """
        if sampler.short > trained:
            raise UserError(
                f"evidence and answer have up to {sampler.short:,} tokens, and the model came with a window of "
                f"{trained:,}: it is to say what it makes of them as it came",
                "Make pairs of less evidence, or of shorter answers.",
            )
        return cls(sampler, torch.full((len(sampler.pairs), 2), torch.nan, dtype=torch.float64))

    def of_samples(self, first: int, count: int, mine: slice = slice(None)) -> Tensor:
        """Of pairs in their order, as ``PairSampler.rows`` takes it, [P, 2].

        Raises:
            UserError: if one is not a finite number.
        """
        found = self.logs[self.sampler.numbers(first, count)[mine]]
        if not bool(found.isfinite().all()):
            raise UserError(
                "the model as it came gives an answer behind its evidence no finite log-probability",
                "Load it in float32 (--dtype float32), and see that its weights are whole.",
            )
        return found

    def ask(self, numbers: Sequence[int], losses: Callable[[Batch], Tensor], processes: Processes) -> None:
        """Fill in some pairs, which the processes share; each reads as many.

        Args:
            numbers: of the pairs.
            losses: every place's loss of a batch, by the model as it came, [B, N].
            processes: that ask together.
        """
        n, found = len(numbers), torch.zeros_like(self.logs)
        for k in range(processes.rank, -(-n // processes.count) * processes.count, processes.count):
            batch = Batch.of(self.sampler.evidence(numbers[k % n]))
            answers = -(losses(batch).double() * (batch.weights > 0)).sum(1)
            if k < n:
                found[numbers[k]] = answers
        some = torch.tensor(numbers)
        self.logs[some] = processes.sum(found)[some]
