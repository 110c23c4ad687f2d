"""LongPO: the answer to short evidence is preferred over the one to the whole text (arXiv 2502.13922)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ropewalk.training.training_batch import Batch


@dataclass(frozen=True)
class LongPO:
    """lambda * -log sigmoid(margin) + NLL, of every pair of answers; with the same context everywhere, DPO's loss.

    margin = beta * ((log p(chosen | long) - log p_ref(chosen | short)) - (the same of the rejected one)), where p_ref
    is the model as it came. Log-probabilities are sums over an answer's tokens, of all its turns; the NLL is the mean
    over the chosen answer's tokens, behind the long context.

    Attributes:
        beta: of the margin.
        weight: lambda.
    """

    beta: float = 0.1
    weight: float = 0.01

    def preference(self, chosen: Tensor, rejected: Tensor, reference: Tensor) -> Tensor:
        """-log sigmoid(margin), [P].

        Args:
            chosen: log-probabilities of chosen answers behind long contexts, [P].
            rejected: of rejected ones, [P].
            reference: of both behind short contexts, by the model as it came, [P, 2].
        """
        margin = self.beta * ((chosen - reference[:, 0]) - (rejected - reference[:, 1]))
        return -F.logsigmoid(margin)

    def of(self, losses: Tensor, counted: Tensor, reference: Tensor) -> Tensor:
        """Every pair's loss, [P].

        Args:
            losses: of each place of chosen and rejected rows in turn, [2P, N].
            counted: places of answers, bool [2P, N].
            reference: as of ``preference``.
        """
        answers = -(losses * counted).sum(1)
        chosen, rejected = answers[::2], answers[1::2]
        nll = -chosen / counted[::2].sum(1).clamp(min=1)
        return self.weight * self.preference(chosen, rejected, reference) + nll

    def weighed(self, batch: Batch, losses: Tensor, reference: Tensor) -> tuple[Batch, Tensor]:
        """The batch whose weighted sum of losses has the gradient of this loss, and this loss, summed over pairs.

        The gradient of any function of losses is that of their sum, each times the function's derivative by it. So
        a pair's two rows, once their losses are known, go through the model apart, in chunks, or however else.
        """
        losses = losses.double().requires_grad_()
        with torch.enable_grad():
            total = self.of(losses, batch.weights > 0, reference).sum()
        (weights,) = torch.autograd.grad(total, losses)
        return replace(batch, weights=weights.to(batch.weights.dtype)), total.detach()
