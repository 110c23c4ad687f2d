"""Rows that were arranged before: which of them every step is of, a function of seed and step alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TypeAlias

import numpy as np

from ropewalk.common.command_lines import command
from ropewalk.common.errors import UserError
from ropewalk.data.arranged import Arranged
from ropewalk.data.arrangement import Ints
from ropewalk.training.sampler import Sampler
from ropewalk.training.training_batch import Row

AnySampler: TypeAlias = "Sampler | ArrangedSampler"
CYCLES = 8  # of the curriculum in an epoch


@dataclass(frozen=True, eq=False)
class ArrangedSampler:
    """Rows of a folder, an epoch after the other, each in an order of its own.

    Where rows are pieces of powers of two, a step is of pieces of one length, so many of them that it has the tokens of
    a step of whole rows; a length that has too few pieces for that is never read. Short ones come first in each of
    eight cycles: a length is drawn with odds that double from length to the next shorter one, until no step of it can
    be filled (grow-P2 of 2405.13226).

    Attributes:
        arranged: the rows.
        window: tokens that a row may have.
        seed: of all draws.
    """

    arranged: Arranged
    window: int
    seed: int = 0

    def __post_init__(self) -> None:
        length, folder = self.arranged.about.length, self.arranged.corpus.folder
        about, mixed = self.arranged.about, self.arranged.domains
        texts = ("mix", "...") if mixed else ("synth", about.how, "TEXTS") if about.asks else ("pack", folder)
        anew = command("data", *texts, "--length", self.window, "-o", "ROWS")  # what would lose no share, no question
        if length != self.window:
            raise UserError(
                f"{folder} has rows of {length:,} tokens, and a stage of the training reads samples of {self.window:,}",
                f"Arrange the texts anew ({anew}), or train to another length (--to); a recipe whose stages differ in "
                "length takes the texts.",
            )

    @property
    def packed(self) -> bool:
        """Whether rows hold several documents, or might."""
        return True

    @property
    def apart(self) -> bool:
        """Whether a row's documents see themselves alone."""
        return self.arranged.about.apart

    @property
    def texts(self) -> int:
        """How many documents the rows are of."""
        return self.arranged.about.documents

    @property
    def left_out(self) -> int:
        """Documents that are in no row."""
        some = self.arranged.arrangement.document
        return self.texts - len(np.unique(some[some < self.texts]))

    def unread(self, count: int) -> int:
        """Rows that no step of ``count`` whole rows' tokens ever reads: their length has too few pieces to fill one."""
        if self.arranged.about.even:
            return 0
        longest = self.arranged.about.length.bit_length() - 1
        powers, pieces = np.unique(np.log2(self._sizes).astype(int), return_counts=True)
        return int(pieces[pieces < count * 2 ** (longest - powers)].sum())

    @property
    def filled(self) -> float:
        """How much of the rows is no padding, 0 to 1."""
        whole = len(self.arranged) * self.window
        return float(self._sizes.sum()) / whole if self.arranged.about.even else 1.0

    def rows(self, step: int, first: int, count: int, mine: slice = slice(None)) -> Iterator[Row]:
        """Rows of one step.

        Args:
            step: not used: rows are numbered over the whole run.
            first: the number of its first row.
            count: its rows of full length, over all processes.
            mine: those of this process.
        """
        if self.arranged.about.even:
            for k in range(first, first + count)[mine]:
                epoch, place = divmod(k, len(self.arranged))
                yield Row(*self.arranged.row(int(self._order(epoch)[place])))
            return
        epoch, place = divmod(first // count, len(self._batches(0, count)))
        batch = self._batches(epoch, count)[place]
        share = len(batch) // count
        start, stop, _ = mine.indices(count)
        for row in batch[start * share : stop * share]:
            yield Row(*self.arranged.row(int(row)))

    @cached_property
    def _sizes(self) -> Ints:
        return self.arranged.arrangement.sizes(len(self.arranged.corpus.manifest.begin))

    @lru_cache(maxsize=2)  # noqa: B019  (one object lives as long as a stage)
    def _order(self, epoch: int) -> Ints:
        return np.random.default_rng([self.seed, 2, epoch]).permutation(len(self.arranged))

    @lru_cache(maxsize=2)  # noqa: B019
    def _batches(self, epoch: int, count: int) -> list[Ints]:
        """The rows of every step of an epoch; what does not fill a step of its length is left for another epoch.

        Raises:
            UserError: if no step can be filled.
        """
        rng, powers = np.random.default_rng([self.seed, 3, epoch]), np.log2(self._sizes).astype(int)
        longest = self.arranged.about.length.bit_length() - 1
        lengths = sorted(set(powers.tolist()))
        found: list[Ints] = []
        parts = {k: np.array_split(rng.permutation(np.flatnonzero(powers == k)), CYCLES) for k in lengths}
        kept: dict[int, Ints] = {k: np.zeros(0, np.int64) for k in lengths}
        for cycle in range(CYCLES):
            kept = {k: np.concatenate([kept[k], parts[k][cycle]]) for k in lengths}
            needed = {k: count << (longest - k) for k in lengths}
            while ready := [k for k in lengths if len(kept[k]) >= needed[k]]:
                odds = np.array([2.0**-k for k in ready])
                k = int(rng.choice(ready, p=odds / odds.sum()))
                found.append(kept[k][: needed[k]])
                kept[k] = kept[k][needed[k] :]
        if not found:
            raise UserError(
                f"no length of {self.arranged.corpus.folder} has pieces for a step of {count} x "
                f"{self.arranged.about.length:,} tokens",
                "Give more texts, or a smaller --batch.",
            )
        return found
