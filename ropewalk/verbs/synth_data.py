"""Texts made into questions that only a long context answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.verbs.pack_data import RowsRequest
from ropewalk.verbs.request import Count, Length, Request, verb

if TYPE_CHECKING:
    from ropewalk.data.making import Made


@dataclass(frozen=True, kw_only=True)
class KindRequest(Request):
    """Which questions.

    Attributes:
        kind: in2: what stands before and after a quote, whose segment is anywhere (2404.16811).
    """

    kind: str = field(kw_only=False)


@dataclass(frozen=True, kw_only=True)
class SynthRequest(RowsRequest, KindRequest):
    """How many of them, and how long.

    Attributes:
        rows: So many are made.
        least: Tokens of a context at least; by default a quarter of ``length``.
    """

    rows: Count = 1000
    least: Length | None = None


@verb("data synth", keeps=True)
def synth_data(request: SynthRequest) -> Made:
    """Make rows of questions about texts, each with its evidence anywhere in a long context; answers alone are learnt.

    Returns:
        The folder, and what it costs.

    Raises:
        UserError: if texts cannot be read or are too few, or the folder cannot be written.
    """
    from ropewalk.data.arranged import ASKING
    from ropewalk.data.synthesis.information_intensive import InformationIntensive

    if request.kind not in ASKING:
        hint = did_you_mean(request.kind, ASKING)
        raise UserError(f"no questions {request.kind!r}{hint}", f"There are {', '.join(ASKING)}.")
    chosen = InformationIntensive(request.rows, request.least)
    return request.made(chosen, request.kind, asdict(chosen), apart=False)
