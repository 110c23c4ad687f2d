"""What rows of training look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ropewalk.verbs.request import Count, Place, Request, verb

if TYPE_CHECKING:
    from ropewalk.data.rows_page import Shown


@dataclass(frozen=True, kw_only=True)
class PageRequest(Request):
    """Where the page goes.

    Attributes:
        out: A page to write.
        overwrite: Replace the page that is there.
    """

    out: Place | None = None
    overwrite: bool = False


@dataclass(frozen=True, kw_only=True)
class ShowRequest(PageRequest):
    """Which rows.

    Attributes:
        folder: Of rows, as 'ropewalk data pack' writes it.
        rows: So many are drawn, spread over all.
        check: Read every token, and refuse files that are not what was written.
    """

    folder: Place = field(kw_only=False)
    rows: Count = 12
    check: bool = False


@verb("data show")
def show_data(request: ShowRequest) -> Shown:
    """Draw rows of training: which pieces of which documents they hold, where, and what is learnt.

    Returns:
        What is in the folder, and the page if one was asked for.

    Raises:
        UserError: if the folder holds no rows, or the page cannot be written.
    """
    from ropewalk.common.files import refuse_onto, resolved
    from ropewalk.data.arranged import Arranged
    from ropewalk.data.rows_page import Shown

    if request.out:
        refuse_onto(resolved(request.out), [request.folder])
    arranged = Arranged.open(request.folder)
    if request.check:
        arranged.corpus.check()
    return Shown.of(request.folder, arranged, request.out, request.rows, request.overwrite)
