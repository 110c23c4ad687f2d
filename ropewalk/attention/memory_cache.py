"""A key-value cache of bounded size, of which a method that picks keys by content says what stays, head by head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from ropewalk.attention.recall import gathered
from ropewalk.attention.regions import extended_layers
from ropewalk.common.errors import UserError


class MemoryLayer(DynamicLayer):
    """Holds what it is told to keep after each forward pass; heads may keep different tokens.

    Attributes:
        notes: what the method remembers of the text.
        seen: tokens of the text so far.
    """

    is_croppable = False
    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.notes: dict[str, Any] = {}
        self.seen = 0

    @property
    def held(self) -> int:
        """Keys of each head."""
        return self.keys.shape[-2] if self.is_initialized and self.keys.ndim == 4 else 0

    @property
    def kept(self) -> Tensor:
        """As many of the latest positions as there are keys, int64 [keys]: heads differ in which these are."""
        return torch.arange(self.seen - self.held, self.seen)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens and return all that their queries may see."""
        found: tuple[Tensor, Tensor] = super().update(key_states, value_states)
        self.seen += key_states.shape[-2]
        return found

    def retain(self, index: Tensor) -> None:
        """Forget all keys but those of an index, int64 [B, Hkv, n]."""
        self.keys, self.values = gathered(self.keys, index), gathered(self.values, index)

    def get_seq_length(self) -> int:
        """Tokens of the text so far, not slots."""
        return self.seen

    def crop(self, max_length: int) -> None:
        """Refuse: what was forgotten does not come back.

        Raises:
            UserError: always, unless nothing would go.
        """
        if not 0 <= self.seen <= max_length:
            raise UserError(
                f"the cache has read {self.seen} tokens and forgotten some, so that it cannot go back to {max_length}",
                "Read the text anew, or with a cache of transformers, which holds all of it.",
            )

    def reset(self) -> None:
        """Forget the text."""
        super().reset()
        self.notes, self.seen = {}, 0

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let rows change places."""
        super().reorder_cache(beam_idx)  # type: ignore[arg-type]
        self._notes_of(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        rows = torch.arange(self.keys.shape[0], device=self.keys.device).repeat_interleave(repeats)
        super().batch_repeat_interleave(repeats)
        self._notes_of(rows)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)
        self._notes_of(indices)

    def _notes_of(self, rows: Tensor) -> None:
        self.notes = {name: note.rows(rows) for name, note in self.notes.items()}


def memory_cache(config: Any) -> Cache:
    """An empty cache for a model; layers that methods leave alone have what they have in any cache.

    Args:
        config: of the language model.
    """
    cache = DynamicCache(config=config)
    return Cache(layers=[MemoryLayer() if yes else cache.layers[i] for i, yes in enumerate(extended_layers(config))])
