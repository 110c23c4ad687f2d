"""The page of a run of the lab, drawn anew from its results."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ropewalk.verbs.request import Place, Request, verb

if TYPE_CHECKING:
    from ropewalk.evaluation.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class ReportLabRequest(Request):
    """Which run.

    Attributes:
        run: Folder of a run of the lab.
    """

    run: Place = field(kw_only=False)


@verb("lab report")
def report_lab(request: ReportLabRequest) -> Outcome:
    """Draw encodings by tasks by lengths, with their intervals, from the results of a run; nothing is trained.

    Returns:
        The results, and where the page is.

    Raises:
        UserError: if the folder holds no results of a run of the lab, or the page cannot be written.
    """
    from ropewalk.common.errors import UserError
    from ropewalk.common.files import refuse_results
    from ropewalk.evaluation.outcome import Outcome
    from ropewalk.lab.lab_grid import is_of_the_lab
    from ropewalk.lab.lab_page import write
    from ropewalk.report.schema import Results

    results = Results.read(request.run / "results.json")
    if not is_of_the_lab(results):
        raise UserError(
            f"{request.run} holds the results of another command: {results.command}",
            "Name the folder of ropewalk lab run.",
        )
    refuse_results(request.run)
    write(results, request.run / "report.html")
    return Outcome(results, request.run)
