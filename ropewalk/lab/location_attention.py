"""Monotonic location attention (arXiv 2305.20019): a decoder looks where it looked last, and a step further.

A small sequence-to-sequence model around it: what attends and where is the paper's, how states are wired to the output
is not told there in full and is our own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ropewalk.common.errors import UserError

STEPS = "one-step", "monotonic", "relu", "soft-stair", "free"
STEEP, STAIR = 5.0, 20.0
LEAST = 0.27  # standard deviation of the weights, in n-ths of a source of n places


def step(kind: str, r: Tensor, bounded: Tensor) -> Tensor:
    """How many places the pointer moves.

    Args:
        kind: one of ``STEPS``.
        r: what the state says.
        bounded: share of the step between 0 and 1, of a "monotonic" one; the rest has no bound.
    """
    if kind == "one-step":
        return (STEEP * r).sigmoid()
    if kind == "monotonic":
        return bounded * r.relu() + (1 - bounded) * (STEEP * r).sigmoid()
    if kind == "soft-stair":  # whole places nearly always; may go back
        return r.floor() + (STAIR * (r - r.floor() - 0.5)).sigmoid()
    return r.relu() if kind == "relu" else r


def looked(pointer: Tensor, steps: Tensor, spread: Tensor, lengths: Tensor, places: int) -> tuple[Tensor, Tensor]:
    """Weights [B, places] around a pointer that has moved, and where they look: the next pointer, [B].

    Args:
        pointer: 0 at the first place of a source, 1 at its last, [B].
        steps: places to move, [B].
        spread: standard deviation beyond ``LEAST``, in n-ths of the source, [B].
        lengths: n of each source, two at least, int64 [B].
        places: of the longest source.
    """
    count = lengths[:, None].to(pointer.dtype)
    place = torch.arange(places, device=pointer.device)
    at = place / (count - 1)
    centre = pointer[:, None] + steps[:, None] / (count - 1)
    logits = -(((at - centre) * count / (spread[:, None] + LEAST)) ** 2) / 2
    weights = logits.masked_fill(place >= lengths[:, None], -torch.inf).softmax(-1)
    return weights, (weights * at).sum(-1)


def reversed_rows(x: Tensor, lengths: Tensor) -> Tensor:
    """``x`` [B, n, d], each row the other way round, and its padding where it was."""
    place = torch.arange(x.shape[1], device=x.device)
    from_end = lengths[:, None] - 1 - place
    return x.gather(1, torch.where(from_end >= 0, from_end, place)[..., None].expand_as(x))


class Looking(NamedTuple):
    """Of a decoder: its state, what it saw last, both [B, width], and its pointer [B]."""

    state: Tensor
    seen: Tensor
    pointer: Tensor


class LocationSeq2Seq(nn.Module):
    """Reads a source both ways, and writes a target, looking at one place of the source at a time.

    Args:
        symbols: of both; the last one ends a target.
        kind: of the step, one of ``STEPS``.
        embedded: width of symbols.
        width: of states.
        dropout: of what is read.

    Raises:
        UserError: if there is no such step.
    """

    def __init__(
        self, symbols: int, kind: str = "one-step", embedded: int = 64, width: int = 128, dropout: float = 0.5
    ):
        super().__init__()
        if kind not in STEPS:
            raise UserError(f"kind is {kind!r}, expected one of {', '.join(STEPS)}")
        self.symbols, self.kind, self.dropout = symbols, kind, dropout
        self.embed = nn.Embedding(symbols + 2, embedded)  # a source stands between two more
        self.encoder = nn.GRU(embedded, width // 2, batch_first=True, bidirectional=True)
        self.direction = nn.Linear(width, 1, bias=False)
        self.place = nn.Linear(width, width, bias=False)
        self.stride, self.spread = nn.Linear(width, 1, bias=False), nn.Linear(width, 1, bias=False)
        self.bounded = nn.Parameter(torch.tensor(20.0))
        self.cell = nn.GRUCell(embedded + width, width)
        self.out = nn.Linear(2 * width, embedded)

    def encoded(self, sources: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Looking]:
        """What is looked at [B, n + 2, width], how many places each source has, and where the decoder begins."""
        rows = torch.arange(len(sources), device=sources.device)
        framed = F.pad(sources, (1, 1), value=self.symbols)
        framed[rows, lengths + 1] = self.symbols + 1
        lengths = lengths + 2
        packed = pack_padded_sequence(self.embed(framed), lengths.cpu(), batch_first=True, enforce_sorted=False)
        found, last = self.encoder(packed)
        read = pad_packed_sequence(found, batch_first=True, total_length=framed.shape[1])[0]
        read, state = F.dropout(read, self.dropout, self.training), torch.cat([*last], -1)
        gate = (STEEP * self.direction(state)).sigmoid()[..., None]
        read = gate * read + (1 - gate) * reversed_rows(read, lengths)
        return read, lengths, Looking(state, torch.zeros_like(state), state.new_zeros(len(state)))

    def next(self, before: Tensor, read: Tensor, lengths: Tensor, looking: Looking) -> tuple[Tensor, Looking]:
        """Logits [B, symbols] behind the symbols ``before``, and where the decoder looks then."""
        state = self.cell(torch.cat([self.embed(before), looking.seen], -1), looking.state)
        place = self.place(state)
        steps = step(self.kind, self.stride(place)[:, 0], self.bounded.sigmoid())
        weights, pointer = looked(looking.pointer, steps, self.spread(place)[:, 0].relu(), lengths, read.shape[1])
        seen = torch.einsum("bn,bnd->bd", weights, read)
        logits = self.out(torch.cat([state, seen], -1)) @ self.embed.weight[: self.symbols].T
        return logits, Looking(state, seen, pointer)

    def forward(self, sources: Tensor, lengths: Tensor, targets: Tensor) -> Tensor:
        """Logits [B, T, symbols] of each symbol of the targets, behind those before it.

        Args:
            sources: int64 [B, n]; what stands behind their lengths does not count.
            lengths: of the sources, int64 [B].
            targets: with the last symbol at their end, int64 [B, T].
        """
        read, lengths, looking = self.encoded(sources, lengths)
        before, found = torch.full_like(targets[:, 0], self.symbols - 1), []
        for t in range(targets.shape[1]):
            logits, looking = self.next(before, read, lengths, looking)
            found.append(logits)
            before = targets[:, t]
        return torch.stack(found, 1)

    @torch.no_grad()
    def greedy(self, sources: Tensor, lengths: Tensor, most: int = 500) -> list[list[int]]:
        """The likeliest symbol at each step, up to the one that ends a target, or ``most``."""
        read, lengths, looking = self.encoded(sources, lengths)
        before = torch.full_like(lengths, self.symbols - 1)
        found: list[Tensor] = []
        ended = torch.zeros_like(lengths, dtype=torch.bool)
        while len(found) < most and not bool(ended.all()):
            logits, looking = self.next(before, read, lengths, looking)
            before = logits.argmax(-1)
            found.append(before)
            ended |= before == self.symbols - 1
        rows = torch.stack(found, 1).tolist()
        return [row[: row.index(self.symbols - 1)] if self.symbols - 1 in row else row for row in rows]
