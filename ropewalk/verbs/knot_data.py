"""Texts cut, shuffled and tied: long distances out of short documents."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.verbs.pack_data import RowsRequest
from ropewalk.verbs.request import Count, verb

if TYPE_CHECKING:
    from ropewalk.data.making import Arranger, Made

UTK, INTERLEAVE = "utk", "interleave"


@dataclass(frozen=True, kw_only=True)
class KnotRequest(RowsRequest):
    """How they are tied.

    Attributes:
        knot: utk (Untie the Knots: chunks shuffled, cuts tied by marks, 2409.04774) or interleave (chunks dealt in
            turn, without marks, 2406.00605).
        chunks: Of every document; by default 3 of utk, 2 of interleave.
        share: Of rows that are tied, 0 to 1; of utk.
        in_order: Keep the order of a document's chunks; of utk.
    """

    knot: str = UTK
    chunks: Count | None = None
    share: float = 0.3
    in_order: bool = False


@verb("data knot", keeps=True)
def knot_data(request: KnotRequest) -> Made:
    """Cut texts into chunks that belong together and lie far apart; rows are read as one, never document by document.

    Returns:
        The folder, and what it costs.

    Raises:
        UserError: if texts cannot be read, rows are too short for the marks, or the folder cannot be written.
    """
    from ropewalk.data.knots.interleaving import Interleaving
    from ropewalk.data.knots.untie_the_knots import UntieTheKnots

    said = {} if request.chunks is None else {"chunks": request.chunks}
    chosen: Arranger
    if request.knot == UTK:
        chosen = UntieTheKnots(share=request.share, in_order=request.in_order, **said)
    elif request.knot == INTERLEAVE:
        request.refuse_unused(["share", "in_order"], f"in {INTERLEAVE}")
        chosen = Interleaving(**said)
    else:
        hint = did_you_mean(request.knot, (UTK, INTERLEAVE))
        raise UserError(f"no knot {request.knot!r}{hint}", f"There are {UTK} and {INTERLEAVE}.")
    return request.made(chosen, request.knot, asdict(chosen), apart=False)
