"""Context length probing: how a prediction changes as its context grows by one token (Cífka & Liutkus, ACL 2023).

One window per start token holds all predictions whose context starts there, so that N tokens and contexts of up to W
cost N forwards of W + 1 tokens, in batches, instead of one forward for each of the N * W contexts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from ropewalk.backends.nll import BATCH_TOKENS, scan

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ContextProbe:
    """What each context length does to the prediction of each token.

    Attributes:
        losses: float32 [N, W + 1]; ``losses[t, c]`` is the negative log-likelihood, in nats, of token t given the c
            tokens before it. nan where there are fewer than c, and at c = 0 if no unigram probabilities were given.
        divergences: float32 [N, W + 1]; the same for KL(longest context || c tokens of context), which does not ask
            for the right token; None if it was not measured.
    """

    losses: Tensor
    divergences: Tensor | None = None

    def importance(self, metric: str = "losses", normalize: bool = False) -> Tensor:
        """How much each token of the context helped: the differential importance.

        Args:
            metric: "losses" or "divergences".
            normalize: divide the values of each predicted token by the largest absolute one.

        Returns:
            float32 [N, W]; ``[t, d - 1]`` is what token t - d does to the prediction of token t, positive if it
            helped. Over all distances they sum to the metric without context minus that with all of it.

        Raises:
            ValueError: if the metric was not measured.
        """
        values: Tensor | None = getattr(self, metric)
        if values is None:
            raise ValueError(f"the probe has no {metric}; measure them with divergence=True")
        deltas = values[:, :-1] - values[:, 1:]
        if normalize:
            deltas = deltas / deltas.abs().nan_to_num(0.0).amax(1, keepdim=True)
        return deltas


def context_probe(
    model: PreTrainedModel,
    ids: Tensor,
    window: int,
    *,
    unigram: Tensor | None = None,
    divergence: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> ContextProbe:
    """Predictions of every token from each number of tokens before it, up to ``window``.

    All windows have one length (the last ones are padded on the right, which causal predictions do not see), so that
    ropes that depend on the length are the same in all of them. Positions start at 0 in every window.

    Args:
        model: any causal language model of transformers.
        ids: int64 [N], the text.
        window: the longest context, at most N - 1 is used.
        unigram: float [V], log-probabilities of tokens without any context.
        divergence: also measure KL divergences; this holds ``window`` distributions over the vocabulary in memory.
        batch_tokens: how many tokens to run at once.

    Raises:
        ValueError: if there are fewer than two tokens, or ``window`` is not positive.
    """
    n = len(ids)
    if ids.ndim != 1 or n < 2 or window < 1:
        raise ValueError(
            f"expected at least 2 token ids and a window of at least 1, got {list(ids.shape)} and {window}"
        )
    width = min(window, n - 1)
    windows = F.pad(ids, (0, width - 1), value=int(ids[-1])).unfold(0, width + 1, 1)
    compare = _Divergence(width) if divergence else None

    def measure(logits: Tensor, targets: Tensor) -> Tensor:
        """float32 [W, 1 or 2] of one window: the losses and, if asked for, the divergences."""
        measured = [F.cross_entropy(logits, targets, reduction="none")]
        return torch.stack(measured + ([compare(logits)] if compare else []), -1)

    size = max(1, batch_tokens // (width + 1))
    rows = torch.cat([scan(model, batch, width, width, measure) for batch in windows.split(size)])
    without = -unigram.float().cpu()[ids.cpu()] if unigram is not None else None
    losses = _by_target(rows[..., 0], n, without)
    if compare is None:
        return ContextProbe(losses)
    return ContextProbe(losses, _by_target(rows[..., 1], n, None))


class _Divergence:
    """KL divergences of the windows of a text from their longest contexts, window by window.

    The distribution with the longest context of a target is in the first window, or at the end of a window; so it is
    known before any other window needs it. Row t % W holds that of target t.
    """

    def __init__(self, width: int):
        self.width = width
        self.start = 0
        self.longest = torch.empty(0)

    def __call__(self, logits: Tensor) -> Tensor:
        """float32 [W], for the targets start + 1 .. start + W of the next window."""
        now = logits.log_softmax(-1)
        rows = torch.arange(self.start + 1, self.start + self.width + 1, device=now.device) % self.width
        if self.start == 0:
            self.longest = torch.empty_like(now).index_copy_(0, rows, now)
        else:
            self.longest[rows[-1]] = now[-1]
        self.start += 1
        return F.kl_div(now, self.longest[rows], reduction="none", log_target=True).sum(-1)


def _by_target(rows: Tensor, n: int, without: Tensor | None) -> Tensor:
    """[N - 1, W] by (start of the window, context length - 1) to [N, W + 1] by (target, context length)."""
    starts, width = rows.shape
    by_target = rows.new_full((n, width + 1), float("nan"))
    if without is not None:
        by_target[:, 0] = without
    start, context = torch.meshgrid(torch.arange(starts), torch.arange(1, width + 1), indexing="ij")
    real = start + context < n
    by_target[(start + context)[real], context[real]] = rows[real]
    return by_target
