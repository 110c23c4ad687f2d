"""What a position encoding says to a decoder: every hook has an answer that says nothing of positions.

Keys are cached as they leave their projection. What an encoding does to queries and keys happens at attention, so that
it may be another thing at evaluation: a *way* is such a change, made for a length beyond the window, with no training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ropewalk.attention.bias import Bias
from ropewalk.attention.kernels import backend_for
from ropewalk.attention.merge import Part, attend
from ropewalk.attention.tiles import tiles
from ropewalk.common.errors import UserError, did_you_mean

Indices = NDArray[np.int64]
TEMPERATURES, ALIGN = "temperatures", "align"  # ways that are fitted


@dataclass(frozen=True)
class Shape:
    """What an encoding must know of its decoder.

    Attributes:
        window: tokens that it is trained on.
        width: of the hidden states.
        heads: of attention, which all have keys of their own.
        head_width: of a query.
    """

    window: int
    width: int
    heads: int
    head_width: int


@dataclass(frozen=True, eq=False)
class Standing:
    """Where the tokens of a forward pass stand.

    Attributes:
        past: tokens before them.
        positions: of all tokens up to the last one, [past + queries].
    """

    past: int
    positions: Tensor

    @property
    def queries(self) -> Tensor:
        """Positions of the tokens that ask, [queries]."""
        return self.positions[self.past :]

    def distances(self, rows: slice, keys: slice) -> Tensor:
        """From some queries back to some keys, [rows, keys]; 0 to what stands behind a query."""
        return (self.queries[rows, None] - self.positions[keys]).clamp_min(0)


class Encoding(nn.Module):
    """No position at all; encodings override what they decide.

    Args:
        shape: of the decoder.

    Attributes:
        shared: one for all layers, or one for each.
        ways: names of what can be changed at evaluation.
        fitted: those of them that are fitted to rows of the length that is read.
        ends: whether it has no position beyond the window, as it is trained.
        way: what is changed; empty if nothing is.
        reach: tokens of the texts that are read, at most.
    """

    shared: ClassVar[bool] = True
    ways: ClassVar[Sequence[str]] = ()
    fitted: ClassVar[Sequence[str]] = ()
    ends: ClassVar[bool] = False

    def __init__(self, shape: Shape):
        super().__init__()
        self.shape, self.way, self.reach = shape, "", shape.window

    def take(self, way: str, to: int) -> None:
        """Read texts of up to ``to`` tokens, in a way of ``ways``; the empty one is how it was trained.

        Raises:
            UserError: if there is no such way.
        """
        if way and way not in self.ways:
            there = f"There are {', '.join(self.ways)}." if self.ways else "It has none."
            raise UserError(f"{type(self).__name__} has no way {way!r}{did_you_mean(way, self.ways)}", there)
        self.way, self.reach = way, to

    def begin(self, weights: Mapping[str, nn.Parameter]) -> None:
        """Give parameters their first values, drawn from torch's generator."""

    def positions(self, tokens: int) -> Tensor:
        """Where the tokens of a text stand, [tokens]; of a longer text the same, and more."""
        return torch.arange(tokens)

    def embedded(self, x: Tensor, standing: Standing) -> Tensor:
        """Embeddings of the tokens that ask, [B, Q, width], with what is added to them."""
        return x

    def kept(self, k: Tensor, hidden: Tensor, past: Tensor | None) -> Tensor:
        """Keys [B, H, Q, D] as they are cached: with what is to be known of their tokens, in more dimensions.

        Args:
            k: new keys.
            hidden: what the layer's attention reads, [B, Q, width].
            past: keys of the tokens before, as they were cached.
        """
        return k

    def query(self, q: Tensor, standing: Standing) -> Tensor:
        """Queries [B, H, Q, D] as they meet keys."""
        return q

    def key(self, k: Tensor, standing: Standing) -> Tensor:
        """Keys [B, H, K, D] as they are met."""
        return k

    def bias(self, q: Tensor, k: Tensor, standing: Standing) -> Bias | None:
        """What is added to the logits, of queries and keys before ``query`` and ``key``."""
        return None

    def first_seen(self, i: Indices) -> Indices:
        """The first token that each token sees, [Q]."""
        return np.zeros_like(i)

    def attended(self, q: Tensor, k: Tensor, v: Tensor, standing: Standing) -> Tensor:
        """Causal attention, [B, H, Q, D]."""
        i = np.arange(standing.past, len(standing.positions))
        parts = [Part(0, 0, tile) for tile in tiles(self.first_seen(i), i + 1)]
        bias = self.bias(q, k, standing)
        queries, keys = [self.query(q, standing)], [self.key(k, standing)]
        return attend(parts, queries, keys, v, self.scale, backend_for(q, None), bias=bias)

    @property
    def scale(self) -> float:
        """Of the logits of queries and keys."""
        return float(self.shape.head_width**-0.5)

    def extra_repr(self) -> str:
        return f"way={self.way!r}, reach={self.reach}" if self.way else ""


class Additive(Encoding):
    """Adds to the logits what a head says of a distance."""

    def weights(self) -> tuple[Tensor, ...]:
        """What it is learned by."""
        return ()

    def added(self, distance: Tensor, *weights: Tensor) -> Tensor:
        """To the logits of keys so many tokens back, int64 [...]: [H, ...]."""
        raise TypeError(f"{type(self).__name__} adds nothing")

    def bias(self, q: Tensor, k: Tensor, standing: Standing) -> Bias | None:
        def of(rows: slice, keys: slice, *weights: Tensor) -> Tensor:
            return self.added(standing.distances(rows, keys), *weights)[None]

        return Bias(of, self.weights())


def by_head(values: Tensor, like: Tensor) -> Tensor:
    """One value for each head, [H], as [H, 1, ...] beside ``like``, [...]."""
    return values.reshape(-1, *[1] * like.ndim)


def float_like(x: Tensor) -> dict[str, Any]:
    """Type and device of tables that meet ``x``: float32 at least."""
    return {"dtype": torch.promote_types(x.dtype, torch.float32), "device": x.device}
