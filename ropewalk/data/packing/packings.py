"""The ways to pack: which documents share a row, and where they are cut."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.data.arrangement import Arrangement, Ints
from ropewalk.data.knots.marks import Marks
from ropewalk.data.packing.best_fit import best_fit
from ropewalk.data.packing.concatenation import concatenation
from ropewalk.data.packing.decomposition import decomposition


@dataclass(frozen=True)
class Packing:
    """One of them.

    Attributes:
        pack: lengths of documents, tokens of a row, and tokens that texts begin with, to an arrangement.
        apart: whether documents of a row see themselves alone.
        title: what it does.
        paper: arXiv id.
    """

    pack: Callable[..., Arrangement]
    apart: bool
    title: str
    paper: str = ""

    def rows(self, lengths: Ints, length: int, begin: int, marks: Marks, seed: int) -> Arrangement:
        """Packed rows in a random order."""
        return self.pack(lengths, length, begin).shuffled(seed)


PACKINGS = {
    "best-fit": Packing(best_fit, True, "longest first, each into the fullest row that has room", "2404.10830"),
    "concat": Packing(concatenation, False, "one behind the other, cut wherever a row is full"),
    "decompose": Packing(decomposition, True, "each in pieces of powers of two, every one a row", "2405.13226"),
}


def packing(name: str) -> Packing:
    """By its name.

    Raises:
        UserError: if there is none.
    """
    if name not in PACKINGS:
        raise UserError(f"no packing {name!r}{did_you_mean(name, PACKINGS)}", f"There are {', '.join(PACKINGS)}.")
    return PACKINGS[name]
