"""Perplexity by length, by sliding window and by position, and what a longer context gains.

``truncated`` and ``position_curve`` are reductions of one forward per document: the loss of a token depends on the
tokens before it only, so the forward at the largest length holds the result at every smaller one. Methods whose
frequencies depend on the length of the input (Dynamic NTK, LongRoPE's switch) need one forward per length.

Sources: ALiBi (arXiv 2108.12409) for the sliding window, ``eval/perplexity.py`` of jquesnelle/yarn for truncation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ropewalk.backends.nll import BATCH_TOKENS, token_nll
from ropewalk.common.statistics import Mean, cluster_mean, exp

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Bucket:
    """Mean loss (nats) of the tokens at positions ``start <= t < end``."""

    start: int
    end: int
    nll: Mean


class Window(NamedTuple):
    """Tokens ``start .. end`` are read and the last ``scored`` of them count."""

    start: int
    end: int
    scored: int


def perplexity(nll: Mean) -> Mean:
    """The perplexity of a mean loss; its standard error by the delta method, its interval by the exponential.

    No loss is below 0, so no perplexity is below 1.
    """
    value = exp(nll.value)
    low, high = (None if bound is None else exp(max(bound, 0.0)) for bound in (nll.low, nll.high))
    return Mean(value, None if nll.se is None else value * nll.se, low, high, nll.n)


def prefix_sums(nll: Tensor, lengths: Sequence[int]) -> Sums:
    """Summed loss of the first ``n`` tokens (``n - 1`` of them are scored) for each of ``lengths``.

    Args:
        nll: [B, T - 1] from ``token_nll``.
        lengths: in 1..T.

    Returns:
        float64 [B, len(lengths)]
    """
    running = np.cumsum(nll.double().numpy(), axis=1)
    return np.pad(running, ((0, 0), (1, 0)))[:, np.asarray(lengths, np.int64) - 1]


def document_sums(
    model: PreTrainedModel, documents: Tensor, lengths: Sequence[int], *, batch_tokens: int = BATCH_TOKENS
) -> Sums:
    """``prefix_sums`` of documents int64 [D, T], ``batch_tokens`` at a time: float64 [D, len(lengths)]."""
    rows = _batches(documents, batch_tokens)
    return np.concatenate([prefix_sums(token_nll(model, some), lengths) for some in rows])


def truncated(
    model: PreTrainedModel,
    documents: Tensor,
    lengths: Sequence[int],
    *,
    length_dependent: bool = False,
    batch_tokens: int = BATCH_TOKENS,
) -> dict[int, Mean]:
    """Perplexity of the first ``n`` tokens of every document, for each ``n`` of ``lengths``.

    Args:
        model: the model, with whatever method is applied to it.
        documents: int64 [D, T], the same for every length.
        lengths: in 2..T, in any order.
        length_dependent: whether the loss of a token depends on how many tokens come after it; costs one forward per
            length instead of one in all.
        batch_tokens: how many tokens to run at once.

    Returns:
        Token-weighted perplexity with an interval over documents, by length.
    """
    if length_dependent:
        columns = [document_sums(model, documents[:, :n], [n], batch_tokens=batch_tokens) for n in lengths]
        sums = np.concatenate(columns, axis=1)
    else:
        sums = document_sums(model, documents[:, : max(lengths)], lengths, batch_tokens=batch_tokens)
    return {n: perplexity(cluster_mean(sums[:, j], n - 1)) for j, n in enumerate(lengths)}


def position_edges(total: int, first: int = 128) -> list[int]:
    """Edges of position buckets: 1 (position 0 is never scored), then two per octave from ``first`` to ``total``."""
    octaves = math.log2(max(total, first) / first)
    inner = (round(first * 2 ** (half / 2)) for half in range(math.ceil(2 * octaves)))
    return [1, *(edge for edge in inner if edge < total), total]


def position_curve(sums: Sums, edges: Sequence[int]) -> list[Bucket]:
    """Loss by position.

    Args:
        sums: [D, E] ``prefix_sums`` at the edges.
        edges: increasing, from 1 to the length of the documents.
    """
    return [
        Bucket(start, end, cluster_mean(sums[:, i + 1] - sums[:, i], end - start))
        for i, (start, end) in enumerate(pairwise(edges))
    ]


def windows(total: int, window: int, stride: int) -> list[Window]:
    """The windows over ``total`` tokens: each new one scores the tokens that no earlier one held.

    With ``stride == window`` they are independent chunks, whose first tokens have no context and are not scored.

    Raises:
        ValueError: unless 1 <= stride <= window and 2 <= window.
    """
    if not 1 <= stride <= window or window < 2:
        raise ValueError(f"a stride of {stride} does not fit a window of {window}")
    found, seen = [], 0
    for start in range(0, total, stride):
        end = min(start + window, total)
        found.append(Window(start, end, min(end - seen, end - start - 1)))
        seen = end
        if end == total:
            break
    return [one for one in found if one.scored]


def sliding(
    model: PreTrainedModel,
    documents: Sequence[Sequence[int]],
    window: int,
    stride: int = 256,
    *,
    compat: Literal["yarn"] | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Mean:
    """Perplexity when the model never reads more than ``window`` tokens; each token is scored once.

    Args:
        model: the model, with whatever method is applied to it.
        documents: token ids, of any lengths.
        window: how many tokens a window reads.
        stride: by how many tokens windows follow each other; smaller is dearer and gives every token more context.
        compat: "yarn" averages the windows' mean losses with equal weight, as the script of jquesnelle/yarn does,
            although its first window scores ``window`` tokens and the others ``stride``.
        batch_tokens: how many tokens to run at once.

    Raises:
        ValueError: if the stride does not fit the window, or no document has two tokens.
    """
    sums, counts = [], []
    for document in documents:
        ids, total, count = torch.tensor(document), 0.0, 0
        for scored, group in groupby(windows(len(ids), window, stride), lambda w: w.scored):
            alike = list(group)  # of one length, too: only the last window may be shorter, and it scores less
            rows = torch.stack([ids[one.start : one.end] for one in alike])
            for some in _batches(rows, batch_tokens):
                loss = token_nll(model, some, keep=scored).double()
                total += float(loss.mean(1).sum() if compat == "yarn" else loss.sum())
                count += len(some) if compat == "yarn" else loss.numel()
        if count:
            sums.append(total)
            counts.append(count)
    return perplexity(cluster_mean(sums, counts))


def context_gain(
    model: PreTrainedModel,
    documents: Tensor,
    short: int,
    long: int,
    *,
    head: int = 0,
    batch_tokens: int = BATCH_TOKENS,
) -> Mean:
    """How much lower the loss of the same tokens is when the model reads ``long`` tokens instead of ``short`` (nats).

    The tokens are the last ``short // 2`` of the first ``long`` of each document: in the short context, each of them
    has at least half of it before it.

    Args:
        model: the model, with whatever method is applied to it.
        documents: int64 [D, T], T >= long.
        short: tokens of the short context, at least 4.
        long: tokens of the long context.
        head: the first ``head`` ids of a document (its BOS) also start the short context.
        batch_tokens: how many tokens to run at once.

    Raises:
        ValueError: unless head < short // 2 and 4 <= short < long <= T.
    """
    if not (4 <= short < long <= documents.shape[1] and head < short // 2):
        raise ValueError(f"cannot compare contexts of {short} and {long} tokens in documents of {documents.shape[1]}")
    targets = short // 2
    near = torch.cat([documents[:, :head], documents[:, long - short + head : long]], 1)
    losses = []
    for contexts in (near, documents[:, :long]):
        rows = _batches(contexts, batch_tokens)
        losses.append(torch.cat([token_nll(model, some, keep=targets).double().sum(1) for some in rows]).numpy())
    return cluster_mean(losses[0] - losses[1], targets)


def _batches(rows: Tensor, batch_tokens: int) -> tuple[Tensor, ...]:
    """Rows [N, T] in batches of about ``batch_tokens`` tokens."""
    return torch.split(rows, max(1, batch_tokens // rows.shape[1]))
