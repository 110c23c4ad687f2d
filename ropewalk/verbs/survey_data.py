"""What texts there are, in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.verbs.pack_data import CorpusRequest
from ropewalk.verbs.request import verb
from ropewalk.verbs.show_data import PageRequest

if TYPE_CHECKING:
    from ropewalk.data.survey import Survey


@dataclass(frozen=True, kw_only=True)
class SurveyRequest(PageRequest, CorpusRequest):
    """What is looked at.

    Attributes:
        quick: Do not look for near duplicates.
    """

    quick: bool = False


@verb("data stats")
def survey_data(request: SurveyRequest) -> Survey:
    """Count texts: how long they are, how many tokens there are above each length, near duplicates, scripts.

    Raises:
        UserError: if texts cannot be read, or the page cannot be written.
    """
    from ropewalk.common.files import refuse_onto, resolved
    from ropewalk.common.progress import shown
    from ropewalk.data.surveying import surveyed

    texts = request.read()
    if request.out:
        refuse_onto(resolved(request.out), texts.places)
    with shown() as heard:
        return surveyed(texts, not request.quick, request.out, request.overwrite, heard)
