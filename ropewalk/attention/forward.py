"""Where the tokens of a forward pass stand, and which of them belong together.

Padding and packed documents split a batch into groups that do not see each other. Inside a group positions rise, so
that regions of positions are ranges of indices. A padded row is computed without its padding: exactly as if alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor

from ropewalk.attention.merge import Own
from ropewalk.common.errors import UserError

Made = TypeVar("Made")
Index = slice | Tensor
ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Standing:
    """Where the tokens of a cache stand; a cache that says so, as ``standing``, may hold documents and jumps.

    Attributes:
        positions: of the cached tokens, int64 or float32 [R, past] on the CPU.
        documents: theirs, int64 [B, past] on the CPU, or None.
        length: tokens of the whole text, of which this is the beginning; what depends on the length goes by it.
        own: what a layer's cache returned, key and value -> where their gradients go, or None: into their graphs.
    """

    positions: Tensor
    documents: Tensor | None
    length: int
    own: Callable[[int, Tensor, Tensor], Own | None] = lambda layer, key, value: None


@dataclass(frozen=True, eq=False)
class Group:
    """Rows with the same text structure, and the tokens of one text in them.

    Attributes:
        rows: of the batch.
        queries: indices of the text's queries in a row.
        keys: indices of its keys.
        m: what regions are asked about: positions of the queries, int64 [Q'] on the CPU.
        n: positions of the keys, int64 [K'] on the CPU, rising.
    """

    rows: Index
    queries: Index
    keys: Index
    m: Tensor
    n: Tensor

    @property
    def is_everything(self) -> bool:
        return self.rows == ALL and self.queries == ALL and self.keys == ALL


@dataclass(frozen=True, eq=False)
class View:
    """The keys that one kind of layer holds.

    Attributes:
        keys: how many keys of the layer's tensor are written; they come first.
        positions: of these keys, int64 or float32 [R, K] on the CPU, R = 1 or B; 0 where a key is hidden.
        groups: who sees whom.
    """

    keys: int
    positions: Tensor
    groups: tuple[Group, ...]

    @property
    def sliced(self) -> bool:
        """Whether rows and keys of every group are views of a layer's keys."""
        return all(isinstance(index, slice) for group in self.groups for index in (group.rows, group.keys))


@dataclass(eq=False)
class Layout:
    """Positions of the tokens of one forward pass.

    Attributes:
        past: tokens in the cache before it.
        queries: tokens in it.
        visible: bool [B, past + queries] on the CPU, False for padding; None if nothing is padded.
        given: the caller's ``position_ids``, int64 or float32 [R, Q], or None.
        documents: the caller's document ids, int64 [B, Q], or None; packed texts do not see each other.
        cached: where the tokens of the cache stand; None if they count up from 0, as one text.
        plain: regions are asked about places in the text in place of positions: a model's own window counts tokens.
        shared: what layers that ask for the same compute once: tables of angles, tiles, temperatures.

    Raises:
        UserError: if documents are packed, or positions jump, on top of a cache that does not say where it stands.
    """

    past: int
    queries: int
    visible: Tensor | None = None
    given: Tensor | None = None
    documents: Tensor | None = None
    cached: Standing | None = None
    plain: bool = False
    shared: dict[tuple[Any, ...], Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.cached is not None:
            return
        if self.documents is not None and self.past:
            raise UserError("packed documents cannot be read on top of a cache", "Leave out document_ids or the cache.")
        if self.past and not self.counted:
            raise UserError(
                f"position_ids begin at {int(self.positions[0, 0])} on top of a cache of {self.past} tokens, expected "
                f"{int(self._in_order[0, 0])}, and no gap",
                "Leave out position_ids, or the cache.",
            )

    @property
    def total(self) -> int:
        """Tokens up to and including this forward pass."""
        return self.past + self.queries

    @cached_property
    def positions(self) -> Tensor:
        """Positions of the queries, [R, Q]: as given, else counted without padding."""
        return self._in_order if self.given is None else self.given

    @cached_property
    def counted(self) -> bool:
        """Whether positions count up from 0 along each row, as the keys of a cache are taken to do."""
        if self.given is None or self.documents is not None:
            return self.documents is None
        differ = self.given != self._in_order
        return not bool((differ if self.visible is None else differ & self.visible[:, self.past :]).any())

    @cached_property
    def _in_order(self) -> Tensor:
        return self._count[:, self.past :]

    @cached_property
    def _count(self) -> Tensor:
        """Places of all tokens, int64 [R, past + queries], counted without padding."""
        if self.visible is None:
            return torch.arange(self.total)[None]
        return (self.visible.cumsum(-1) - 1).clamp_min(0)

    @cached_property
    def length(self) -> int:
        """Tokens of the longest text so far, or as many as the cache says that it will have."""
        return int(self.positions.max()) + 1 if self.cached is None else self.cached.length

    def once(self, name: tuple[Any, ...], make: Callable[[], Made]) -> Made:
        """``make()``, called by the first layer that asks for ``name``."""
        if name not in self.shared:
            self.shared[name] = make()
        made: Made = self.shared[name]
        return made

    def view(self, slots: int, kept: Tensor | None = None) -> View:
        """Keys and groups for a layer whose key tensor has ``slots`` slots.

        Args:
            slots: more than ``total`` in a static cache, less where the cache keeps only the last keys.
            kept: positions of the cached keys of a layer that evicts from the middle, int64 [past keys].

        Raises:
            UserError: if rows differ in a cache that evicts.
        """
        return self.once(("view", slots, id(kept)), lambda: self._view(slots, kept))

    @cached_property
    def _texts(self) -> Tensor | None:
        """Document ids of all tokens, int64 [B, past + queries], or None."""
        if self.documents is None or self.cached is None or self.cached.documents is None:
            return self.documents
        return torch.cat([self.cached.documents, self.documents], -1)

    def _view(self, slots: int, kept: Tensor | None) -> View:
        m = self.positions
        before = self._count[:, : self.past] if self.cached is None else self.cached.positions
        if kept is None and self.visible is None and self._texts is None and m.shape[0] == before.shape[0] == 1:
            n = torch.cat([before[0], m[0]])[-slots:]
            everything = Group(ALL, ALL, ALL, *self._asked(m[0], n, self._count[0, self.past :], self._count[0]))
            return View(len(n), n[None], (everything,))
        if kept is not None:
            if bool((m != torch.arange(self.past, self.total)).any()):
                raise UserError(
                    "a cache that evicts holds the same positions for all rows, from 0 on",
                    "Read texts of one length, without padding or position_ids of their own; or leave out the cache.",
                )
            n = torch.cat([kept[None].expand(m.shape[0], -1), m], -1)
            seen = torch.ones_like(n, dtype=torch.bool)
            places = n
        else:
            seen = torch.ones(m.shape[0], self.total, dtype=torch.bool) if self.visible is None else self.visible
            rows = max(len(seen), len(m), len(before))
            n = torch.cat([before.expand(rows, -1), m.expand(rows, -1)], -1)
            n, seen, places = n[:, -slots:], seen[:, -slots:], self._places[:, -slots:]
        return View(n.shape[-1], n * seen, tuple(self._groups(m, n, seen, places)))

    @cached_property
    def _places(self) -> Tensor:
        """Places of all tokens in their texts, int64 [R, past + queries]."""
        texts = self._texts
        if texts is None:
            return self._count
        places = torch.empty_like(texts)
        for row, ids in zip(places, texts, strict=True):
            for text in ids.unique():
                row[ids == text] = torch.arange(int((ids == text).sum()))
        return places

    def _groups(self, m: Tensor, n: Tensor, seen: Tensor, places: Tensor) -> list[Group]:
        documents = self._texts
        rows = max(x.shape[0] for x in (m, n, seen, *([] if documents is None else [documents])))
        m, n, seen, places = (x.expand(rows, -1) for x in (m, n, seen, places))
        texts = (torch.zeros_like(seen) if documents is None else documents.expand(rows, -1))[:, -n.shape[-1] :]
        alike: dict[bytes, list[int]] = {}
        for row in range(rows):
            signature = b"".join(x[row].contiguous().numpy().tobytes() for x in (m, n, seen, texts))
            alike.setdefault(signature, []).append(row)
        found = []
        for members in alike.values():
            row, where = members[0], _index(torch.tensor(members), rows)
            for text in texts[row].unique().tolist() if documents is not None else [0]:
                belongs = seen[row] & (texts[row] == text)
                keys = belongs.nonzero()[:, 0]
                queries = belongs[-self.queries :].nonzero()[:, 0]
                if len(queries):
                    indices = _index(queries, self.queries), _index(keys, n.shape[-1])
                    asked = self._asked(
                        m[row, queries], n[row, keys], places[row, -self.queries :][queries], places[row, keys]
                    )
                    found.append(Group(where, *indices, *asked))
        return found

    def _asked(self, m: Tensor, n: Tensor, m_places: Tensor, n_places: Tensor) -> tuple[Tensor, Tensor]:
        """What regions are asked about: the positions of queries and keys, or their places.

        Raises:
            UserError: if positions fall.
        """
        if bool((n[1:] < n[:-1]).any()):
            raise UserError(
                "position_ids fall within a text, so that regions of positions are not ranges of keys",
                "Give packed documents as document_ids=..., one id per token.",
            )
        return (m_places, n_places[-len(n) :]) if self.plain else (m, n)


def _index(members: Tensor, size: int) -> Index:
    """Rising indices as a slice where they have no gap."""
    first, last = int(members[0]), int(members[-1])
    if last - first + 1 > len(members):
        return members
    return ALL if len(members) == size else slice(first, last + 1)
