"""A key-value cache that holds some tokens of a text and the last ones, such as the first: in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ropewalk.attention.regions import extended_layers


class SinkLayer(DynamicLayer):
    """Drops, after each forward pass, what no later query will see.

    Attributes:
        sinks: first tokens that stay.
        recent: last tokens that a query sees, itself among them.
        kept: positions of the cached keys, int64 [keys]; the attention engine asks for them.
        seen: tokens of the text so far.
    """

    is_croppable = False

    def __init__(self, sinks: int, recent: int):
        super().__init__()
        self.sinks, self.recent = sinks, recent
        self.kept, self.seen = torch.arange(0), 0

    def stays(self, positions: Tensor) -> Tensor:
        """Which tokens are seen however far behind they are, bool like ``positions``."""
        return positions < self.sinks

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens and return all that their queries may see."""
        keys, values = super().update(key_states, value_states)
        end = self.seen + key_states.shape[-2]
        positions = torch.cat([self.kept, torch.arange(self.seen, end)])
        stays = self.stays(positions) | (positions > end - self.recent)
        if not bool(stays.all()):
            where = stays.nonzero()[:, 0].to(keys.device)
            self.keys, self.values, positions = keys[:, :, where], values[:, :, where], positions[stays]
        self.kept, self.seen = positions, end
        return keys, values

    def get_seq_length(self) -> int:
        """Tokens of the text so far, not slots."""
        return self.seen

    def reset(self) -> None:
        """Forget the text."""
        super().reset()
        self.kept, self.seen = torch.arange(0), 0


def sink_cache(config: Any, sinks: int, recent: int) -> Cache:
    """An empty cache for a model; layers that methods leave alone have what they have in any cache.

    Args:
        config: of the language model.
        sinks: first tokens that stay.
        recent: last tokens that a query sees, itself among them.
    """
    cache = DynamicCache(config=config)
    layers = [SinkLayer(sinks, recent) if yes else cache.layers[i] for i, yes in enumerate(extended_layers(config))]
    return Cache(layers=layers)


class SparseLayer(SinkLayer):
    """As ``SinkLayer``, for any tokens that stay.

    Attributes:
        always: positions -> which of them stay.
    """

    def __init__(self, recent: int, always: Callable[[Tensor], Tensor]):
        super().__init__(0, recent)
        self.always = always

    def stays(self, positions: Tensor) -> Tensor:
        return self.always(positions)


def sparse_cache(config: Any, recent: int, always: Callable[[Tensor], Tensor], sparse: Sequence[bool]) -> Cache:
    """An empty cache for a model of which some layers are sparse; the others have what they have in any cache.

    Args:
        config: of the language model.
        recent: last tokens that a query of a sparse layer sees, itself among them.
        always: positions -> which of them it sees whatever lies between.
        sparse: which layers are.
    """
    cache = DynamicCache(config=config)
    methods = extended_layers(config)
    layers = [SparseLayer(recent, always) if sparse[i] and methods[i] else one for i, one in enumerate(cache.layers)]
    return Cache(layers=layers)
