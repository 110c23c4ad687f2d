"""An embedding model under methods: texts of any length in, vectors out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.encoders.encoder import Encoder, LiveTable, called, holding
from ropewalk.encoders.encoder_method import EncoderMethods, Growing, LogitMethod, Reading, RopeMethod, TableMethod
from ropewalk.encoders.encoder_methods.uncut import Uncut

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from ropewalk.encoders.encoder_folder import EncoderFolder

SHARED = 4  # of a window that is read: what it shares with the one before, where a text is read in windows


@dataclass(frozen=True, eq=False)
class ExtendedEncoder:
    """An encoder, the methods that are on, and how far they reach.

    A text that the encoder reads by itself is read as the plain model does, bit for bit; longer ones are read under the
    methods. A folder that ``extend`` wrote has one table for all texts, which ``as_written`` shows.

    Attributes:
        encoder: that runs.
        folder: its files.
        methods: that are on.
        to: target length in tokens, those around a text among them.
        as_written: read short texts under the methods too.
    """

    encoder: Encoder
    folder: EncoderFolder
    methods: EncoderMethods
    to: int
    as_written: bool = False

    def __post_init__(self) -> None:
        self.methods.refuse_elsewhere(self.folder.positions)

    @cached_property
    def window(self) -> int:
        """Tokens that the encoder reads by itself.

        Raises:
            UserError: if nothing says it.
        """
        window = self.folder.window or self.folder.reads
        if window is None:
            raise UserError(f"{self.folder.name} does not say how many tokens it reads")
        return window

    @property
    def reads(self) -> int:
        """Tokens that are read at once; without a method for it as many as the folder says."""
        own = min(self.folder.reads or self.window, self.window)
        if self.methods.of(Uncut):
            return max(own, min(self.to, self.folder.window or self.to))
        return self.to if self.methods.of(Growing) else own

    @property
    def room(self) -> int:
        """Tokens of a text that are read at once, without those around it."""
        return self.reads - sum(map(len, self.encoder.around))

    @cached_property
    def table(self) -> LiveTable:
        return LiveTable.of(self.encoder, self.folder)

    def vectors(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [k, e], of length 1: a text's vectors; one, unless it is read in chunks.

        Args:
            ids: of the text with its prompt, without what stands around it.
        """
        reading = self.methods.of(Reading)
        return reading.vectors(self, ids) if reading else self.unit(self.pooled([ids[: self.room]]))

    def question(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """float32 [1, e], of length 1: the vector of a short text, which is read at once, however texts are."""
        return self.unit(self.pooled([ids[: self.room]]))

    def pooled(self, rows: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """float32 [B, e]: vectors of texts that are read at once, before they are made of length 1.

        Raises:
            UserError: if one is longer than what is read at once.
        """
        whole = [self._whole(row) for row in rows]
        found = np.zeros((len(rows), 0), np.float32)
        for length in sorted(set(map(len, whole))):
            some = [i for i, row in enumerate(whole) if len(row) == length]
            with self.applied(length):
                vectors = self.encoder.pooled([whole[i] for i in some])
            found = found if found.size else np.zeros((len(rows), vectors.shape[1]), np.float32)
            found[some] = vectors
        return found

    def states(self, ids: Sequence[int]) -> NDArray[np.float64]:
        """float64 [n, e]: what the encoder makes of each token of a text, read in windows where it is long.

        Raises:
            UserError: if the model does not pool by the mean over its tokens, so that states are not what it uses.
        """
        refuse_other_pooling(self.encoder)
        parts, before = [], len(self.encoder.around[0])
        for start, stop, first, last in windows(len(ids), self.room, self.room // SHARED):
            row = self._whole(ids[start:stop])
            with self.applied(len(row)):
                states = self.encoder.states([row])[0]
            parts.append(states[before + first - start : before + last - start])
        return np.concatenate(parts)

    def unit(self, pooled: NDArray[Any]) -> NDArray[np.float32]:
        """float32 [B, e]: what the model makes of pooled vectors, of length 1."""
        return of_length_one(self.encoder.projected(pooled))

    def changes(self, n: int) -> bool:
        """Whether a text of so many tokens, without those around it, is read otherwise than by the plain model."""
        length = min(n, self.room) + sum(map(len, self.encoder.around))
        growing, logits = self.methods.of(Growing), self.methods.of(LogitMethod)
        if length <= self.window and not (self.as_written and growing is not None and growing.saved):
            return logits is not None and growing is None  # two profiles, but where no length is there to choose by
        return logits is not None or isinstance(growing, (TableMethod, RopeMethod))

    @contextmanager
    def applied(self, length: int) -> Iterator[None]:
        """Have the methods on, for a text of so many tokens."""
        table, logits = self.methods.of(TableMethod), self.methods.of(LogitMethod)
        rope = self.methods.of(RopeMethod)
        with ExitStack() as on:
            if self.changes(length - sum(map(len, self.encoder.around))):
                if table is not None:
                    on.enter_context(self.table.being(self._table(length if table.follow else self.to)))
                if logits is not None:
                    on.enter_context(holding(self.encoder.body, self._scaled))
                if rope is not None:
                    on.enter_context(rope.method.on(self.encoder.body, self.to))
                    on.enter_context(called(self.encoder.body))
            yield

    def _table(self, to: int) -> Tensor:
        table = self.methods.of(TableMethod)
        assert table is not None
        if to not in self._tables:
            self._tables.clear()
            self._tables[to] = table.table(self.table.pretrained, to)
        return self._tables[to]

    @cached_property
    def _tables(self) -> dict[int, Tensor]:
        """Target -> the table for it; the last one that was used."""
        return {}

    @cached_property
    def _scaled(self) -> Mapping[str, Tensor]:
        logits = self.methods.of(LogitMethod)
        assert logits is not None and self.folder.family is not None
        return scaled_logits(dict(self.encoder.body.named_parameters()), self.folder, logits.scale)

    def _whole(self, ids: Sequence[int]) -> list[int]:
        before, behind = self.encoder.around
        whole = [*before, *ids, *behind]
        if len(whole) > self.reads:
            raise UserError(f"a text of {len(whole):,} tokens is longer than the {self.reads:,} that are read at once")
        return whole


def refuse_other_pooling(encoder: Encoder) -> None:
    """Refuse late chunking on an encoder that does not pool by the mean over its tokens.

    Raises:
        UserError: naming it.
    """
    if not encoder.pools_by_mean:
        raise UserError(
            f"{encoder.name} does not pool a text by the mean over its tokens, as late chunking does",
            "Leave late-chunking out of --methods; chunks is another way to read.",
        )


def of_length_one(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [B, e]: vectors, divided by their length; one of nothing but noughts stays."""
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(1e-12), np.float32)


def scaled_logits(weights: Mapping[str, Tensor], folder: EncoderFolder, scale: float) -> dict[str, Tensor]:
    """The weights that make all logits of attention so many times what they are: projections of queries, and a bias.

    Raises:
        UserError: if there are none of the names that the family gives them.
    """
    family = folder.family
    assert family is not None
    ends = tuple(f"{family.queries}.{kind}" for kind in ("weight", "bias")) + ((family.bias,) if family.bias else ())
    found = {name: weight for name, weight in weights.items() if folder.owns(name) and name.endswith(ends)}
    if not any(name.endswith(ends[0]) for name in found) or (
        family.bias and not any(name.endswith(family.bias) for name in found)
    ):
        raise UserError(f"{folder.name} has no weights that end in {' or '.join(ends)}, which scale logits")
    return {name: (weight.double() * scale).to(weight.dtype) for name, weight in found.items()}


def windows(n: int, size: int, overlap: int) -> Iterator[tuple[int, int, int, int]]:
    """Windows over n tokens: first token and the one behind the last that it reads, and that count as it has them."""
    start = first = 0
    while True:
        stop = min(start + size, n)
        last = n if stop == n else stop - overlap // 2
        yield start, stop, first, last
        if stop == n:
            return
        first, start = last, start + size - overlap
