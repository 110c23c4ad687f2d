"""Rotated keys, kept from step to step.

The cache of a model holds keys that were never rotated. Rotating all of them in every step would cost more than the
attention itself, so each layer keeps one rotated copy per map of key positions and adds the new keys to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bytes of a number -> one of the same size
ROOM = 256  # least number of keys that a buffer grows by


class KeyMemo:
    """The rotated keys of one layer.

    What they are copies of is known by the memory of the cache's tensor. Keys that were dropped from either end leave a
    narrower view of the same memory, and their copies are dropped too; anything else (beams, another cache) starts
    anew.

    Attributes:
        notes: what methods that choose keys by content remember, per set of rows; it lives as long as the copies, and
            is not narrowed: who takes notes says of how many tokens.
    """

    def __init__(self) -> None:
        self._seen: Tensor | None = None
        self._state: int | Tensor = 0  # of its memory, when it was seen
        self._copies: dict[object, Growing] = {}
        self.notes: dict[object, dict[str, Any]] = {}

    def begin(self, cached: Tensor | None, past: int) -> None:
        """Keep what still holds at the start of a forward pass.

        Args:
            cached: the cache's keys of this layer, [B, Hkv, slots, D], or None if it has none.
            past: how many of them are written at most.
        """
        start = None if cached is None or self._seen is None else _start_in(cached, self._seen)
        if start is not None and cached is not None and self._written(cached, start):
            start = None
        self._seen = None  # the cache is about to replace that tensor; not to hold two
        if start is None or cached is None:
            self._copies.clear()
            self.notes.clear()
            return
        for copy in self._copies.values():
            copy.narrow(start, min(past, cached.shape[-2]))

    def rotated(self, name: object, keys: Tensor, rotate: Callable[[Tensor, int], Tensor]) -> Tensor:
        """The keys under one map.

        Args:
            name: of the map.
            keys: all keys, unrotated, [B, Hkv, K, D].
            rotate: new keys and the index of the first of them -> rotated.
        """
        copy = self._copies.setdefault(name, Growing())
        have = min(copy.length, keys.shape[-2])
        return copy.extended(rotate(keys[:, :, have:], have), have)

    def end(self, keys: Tensor) -> None:
        """Remember the cache's tensor that the copies were made of."""
        self._seen, self._state = keys, _state(keys)

    def _written(self, cached: Tensor, start: int) -> bool:
        """Whether others than the model wrote into the memory of ``cached``, the tensor seen from ``start`` on."""
        seen, now = self._state, _state(cached)
        if isinstance(seen, Tensor) and isinstance(now, Tensor):
            return not torch.equal(seen[..., start : start + now.shape[-1]], now)
        return isinstance(seen, Tensor) or isinstance(now, Tensor) or seen != now


class Growing:
    """One vector per token, [B, heads, length, D], inside a buffer that has room for more."""

    def __init__(self) -> None:
        self.buffer: Tensor | None = None
        self.start = self.length = 0

    def narrow(self, start: int, length: int) -> None:
        """Keep ``length`` tokens at most, without the first ``start``."""
        self.start += start
        self.length = max(0, min(self.length - start, length))

    def extended(self, new: Tensor, have: int) -> Tensor:
        """All tokens, after ``new`` ones were put behind the first ``have``."""
        if have == 0:  # nothing to add to: no second copy of a long prompt
            self.buffer, self.start, self.length = new, 0, new.shape[-2]
            return new
        end = self.start + have + new.shape[-2]
        if self.buffer is None or end > self.buffer.shape[-2]:
            self._grow(new, have)
            end = have + new.shape[-2]
        assert self.buffer is not None
        self.buffer[:, :, end - new.shape[-2] : end] = new
        self.length = end - self.start
        return self.buffer[:, :, self.start : end]

    def _grow(self, new: Tensor, have: int) -> None:
        needed = have + new.shape[-2]
        slots = needed + max(ROOM, needed // 2)
        larger = torch.empty(*new.shape[:2], slots, new.shape[-1], dtype=new.dtype, device=new.device)
        assert self.buffer is not None
        larger[:, :, :have] = self.buffer[:, :, self.start : self.start + have]
        self.buffer, self.start = larger, 0


def _state(x: Tensor) -> int | Tensor:
    """How often the memory of ``x`` was written in place; of inference tensors, where torch does not count, a checksum.

    The checksum, int64 [B, Hkv, K], adds up the bits of every key: exact, in whatever order they are added.
    """
    return x.view(BITS[x.element_size()]).sum(-1) if x.is_inference() else x._version


def _start_in(part: Tensor, whole: Tensor) -> int | None:
    """Index of the first key of ``part`` in ``whole`` if it is a view of some of its keys, else None."""
    same_memory = part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    if not same_memory or part.ndim != 4 or part.stride() != whole.stride() or part.dtype != whole.dtype:
        return None
    step = whole.stride(-2)
    start, rest = divmod(int(part.storage_offset() - whole.storage_offset()), step)
    others = [i for i in range(4) if i != 2]
    fits = start >= 0 and start + part.shape[2] <= whole.shape[2]
    return start if fits and rest == 0 and all(part.shape[i] == whole.shape[i] for i in others) else None
