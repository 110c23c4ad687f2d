"""Pairs of answers that a preference is learnt from, each four rows of an arrangement."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.data.arranged import Arranged
from ropewalk.data.arrangement import Ints

ROWS = 4  # of a pair, in this order
PAIRS_WANTED = "pairs wanted"  # a number that is told where fewer may have come
CHOSEN, REJECTED, CHOSEN_SHORT, REJECTED_SHORT = range(ROWS)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Two answers, each behind the whole text and behind its evidence alone.

    Attributes:
        arranged: their rows: chosen and rejected behind the whole text, then both behind the evidence.
    """

    arranged: Arranged

    def __post_init__(self) -> None:
        folder = self.arranged.corpus.folder
        if len(self.arranged) % ROWS:
            raise UserError(
                f"{folder} has {len(self.arranged):,} rows, expected {ROWS} of each pair of answers",
                "Make them anew: ropewalk data synth longpo.",
            )
        for one, other, answers in (
            (CHOSEN, CHOSEN_SHORT, True), (REJECTED, REJECTED_SHORT, True),
            (CHOSEN, REJECTED, False), (CHOSEN_SHORT, REJECTED_SHORT, False),
        ):  # fmt: skip
            mine, theirs = self._pieces(one, answers), self._pieces(other, answers)
            if not np.array_equal(mine, theirs) or len(np.unique(mine[0])) != len(self):
                what = "answers" if answers else "contexts"
                raise UserError(
                    f"{folder}: {what} of rows {one} and {other} of a pair are not the same, or are missing",
                    "Make them anew: ropewalk data synth longpo.",
                )

    def _pieces(self, place: int, answers: bool) -> Ints:
        """Pair, document, start and stop of the learnt pieces of one row of each pair, or of the others; [4, P]."""
        some = self.arranged.arrangement
        mine = (some.row % ROWS == place) & (some.loss == answers) & (some.stop > some.start)
        return np.stack([some.row[mine] // ROWS, some.document[mine], some.start[mine], some.stop[mine]])

    def __len__(self) -> int:
        return len(self.arranged) // ROWS

    @property
    def sizes(self) -> Ints:
        """int64 [pairs, 4], tokens of each row."""
        return self.arranged.arrangement.sizes(len(self.arranged.corpus.manifest.begin)).reshape(-1, ROWS)
