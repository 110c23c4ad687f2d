"""Which rows every step is of: a function of seed and step alone, the same for any number of processes and resumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.training.positions.training_positions import Ints, TrainingPositions
from ropewalk.training.training_batch import Row


@dataclass(frozen=True, eq=False)
class Sampler:
    """Rows out of documents, an epoch after the other, each in an order of its own.

    Documents longer than the reach are cut into pieces of it, which all begin as texts do; the last one reaches back
    into the one before it.

    Attributes:
        documents: token ids, without what texts begin with.
        begin: ids that texts begin with, [BOS] or none.
        positions: how samples are laid out.
        window: tokens of a row at most.
        reach: one more than the largest position.
        packed: whether rows are filled with documents.
        apart: whether a packed row's documents see themselves alone.
        seed: of all draws.
    """

    documents: Sequence[Ints]
    begin: Ints
    positions: TrainingPositions
    window: int
    reach: int
    packed: bool = False
    apart: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        self.positions.require(self.window, self.reach)
        if not self.packed and not self.pieces:
            shortest = self.positions.shortest(self.window, self.reach)
            longest = max((len(one) for one in self.documents), default=0) + len(self.begin)
            raise UserError(
                f"no text has the {shortest:,} tokens that {self.positions.id} needs for a target of {self.reach:,}; "
                f"the longest has {longest:,}",
                "Give longer texts, a nearer target (--to), or positions that take short ones: pose.",
            )
        if not self.packed and self._sampled < self.window:
            raise UserError(
                f"all texts together have {self._sampled:,} tokens, fewer than one sample of {self.window:,}",
                "Give more texts.",
            )
        if self.packed and not self.rows_per_epoch:
            raise UserError(
                f"all texts together have {self._tokens:,} tokens, fewer than one row of {self.window:,}",
                "Give more texts, or a nearer target: --to.",
            )

    @cached_property
    def pieces(self) -> tuple[tuple[int, int, int], ...]:
        """Document, start and end of all that samples are taken from."""
        shortest = self.positions.shortest(self.window, self.reach) - len(self.begin)
        size, found = self.reach - len(self.begin), []
        for i, document in enumerate(self.documents):
            n = len(document)
            if n < max(shortest, 1):
                continue
            starts = [*range(0, max(n - size, 0), size), max(n - size, 0)]
            found += [(i, start, min(start + size, n)) for start in dict.fromkeys(starts)]
        return tuple(found)

    @cached_property
    def left_out(self) -> int:
        """Documents that are too short for a sample."""
        return 0 if self.packed else len(self.documents) - len({i for i, _, _ in self.pieces})

    @cached_property
    def _sampled(self) -> int:
        """Tokens of all pieces."""
        return sum(end - start + len(self.begin) for _, start, end in self.pieces)

    @property
    def texts(self) -> int:
        """How many documents there are."""
        return len(self.documents)

    @property
    def filled(self) -> float:
        """How much of the window the texts fill, on average, 0 to 1."""
        lengths = [min(end - start + len(self.begin), self.window) for _, start, end in self.pieces]
        return 1.0 if self.packed else sum(lengths) / (len(lengths) * self.window)

    @cached_property
    def _tokens(self) -> int:
        return sum(len(self.begin) + len(one) for one in self.documents)

    @cached_property
    def rows_per_epoch(self) -> int:
        """Rows until every text has been read once."""
        return self._tokens // self.window if self.packed else len(self.pieces)

    def rows(self, step: int, first: int, count: int, mine: slice = slice(None)) -> Iterator[Row]:
        """Rows of one step.

        Args:
            step: its number, from 0 on; what is drawn once for a step depends on it.
            first: the number of its first row, counted over the whole run.
            count: its rows, over all processes.
            mine: those of this process.
        """
        shared = self.positions.for_step(self.window, self.reach, self._chance(step, 0, kind=1))
        for k in range(first, first + count)[mine]:
            epoch, place = divmod(k, self.rows_per_epoch)
            yield self._filled(epoch, place) if self.packed else self._drawn(shared, epoch, place)

    def _drawn(self, positions: TrainingPositions, epoch: int, place: int) -> Row:
        i, start, end = self.pieces[int(self._order(epoch, len(self.pieces))[place])]
        cue = np.asarray(positions.cue, np.int64)
        text = np.concatenate([self.begin, self.documents[i][start:end]])
        chance = self._chance(epoch, place)
        picks = positions.pick_some(
            len(text), self.window, self.reach, chance, lambda picks: bool((picks.weight[1:] > 0).any())
        )
        return Row(np.concatenate([text, cue])[picks.index], picks.position, picks.document, picks.weight)

    def _filled(self, epoch: int, place: int) -> Row:
        """The row of the epoch's stream of documents, each begun as texts are, that starts at ``place`` windows."""
        order, ends = self._stream(epoch)
        at, stop = place * self.window, (place + 1) * self.window
        ids, documents, weights = [], [], []
        j = int(np.searchsorted(ends, at, "right"))
        while at < stop:
            document = np.concatenate([self.begin, self.documents[int(order[j])]])
            offset = at - (int(ends[j]) - len(document))
            part = document[offset : offset + stop - at]
            weight = np.ones(len(part), np.float32)
            weight[: max(1, len(self.begin) - offset)] = 0  # what begins a document follows from nothing before it
            ids.append(part)
            documents.append(np.full(len(part), len(ids) - 1 if self.apart else 0))
            weights.append(weight)
            at, j = at + len(part), j + 1
        return Row(np.concatenate(ids), np.arange(self.window), np.concatenate(documents), np.concatenate(weights))

    @lru_cache(maxsize=2)  # noqa: B019  (one object lives as long as a stage)
    def _stream(self, epoch: int) -> tuple[Ints, Ints]:
        order = self._order(epoch, len(self.documents))
        sizes = np.array([len(self.begin) + len(self.documents[int(i)]) for i in order])
        return order, np.cumsum(sizes)

    @lru_cache(maxsize=2)  # noqa: B019
    def _order(self, epoch: int, count: int) -> Ints:
        return self._chance(epoch, 0, kind=2).permutation(count)

    def _chance(self, first: int, second: int, kind: int = 0) -> np.random.Generator:
        return np.random.default_rng([self.seed, kind, first, second])
