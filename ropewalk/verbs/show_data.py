"""What rows of training look like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ropewalk.verbs.request import Count, Place, Request, verb

if TYPE_CHECKING:
    from ropewalk.data.rows_page import Shown


@dataclass(frozen=True, kw_only=True)
class ShowRequest(Request):
    """Which rows.

    Attributes:
        folder: Of rows, as 'ropewalk data pack' writes it.
        out: The page to write; by default FOLDER.html.
        rows: So many are drawn, spread over all.
        check: Read every token, and refuse files that are not what was written.
        overwrite: Replace the page that is there.
    """

    folder: Place = field(kw_only=False)
    out: Place | None = None
    rows: Count = 12
    check: bool = False
    overwrite: bool = True


@verb("data show")
def show_data(request: ShowRequest) -> Shown:
    """Draw rows of training: which pieces of which documents they hold, where, and what is learnt.

    Returns:
        What is in the folder, and the page.

    Raises:
        UserError: if the folder holds no rows, or the page cannot be written.
    """
    from ropewalk.common.files import resolved
    from ropewalk.data.arranged import Arranged
    from ropewalk.data.rows_page import Shown

    arranged = Arranged.open(request.folder)
    if request.check:
        arranged.corpus.check()
    place = resolved(request.folder)
    return Shown.of(
        request.folder, arranged, request.out or place.with_name(place.name + ".html"), request.rows, request.overwrite
    )
