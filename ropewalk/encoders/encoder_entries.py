"""The one list of methods for encoders: it drives the command line, the documentation's table and the test matrix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ropewalk.common.errors import UserError
from ropewalk.encoders.families import BIAS, ROPE, TABLE, UNKNOWN
from ropewalk.methods.catalogue import CATALOGUE, split


@dataclass(frozen=True)
class EncoderEntry:
    """One method.

    Attributes:
        id: as on the command line.
        title: the paper's name for it.
        where: "module:Class"; empty of the plain model.
        summary: one line.
        axis: what it decides.
        exportable: whether a folder can say it, or why not.
        paper: arXiv id; empty if there is none.
    """

    id: str
    title: str
    where: str
    summary: str
    axis: str
    exportable: str
    paper: str = ""


CODE = "no: read by code"
ENCODER_METHODS: tuple[EncoderEntry, ...] = (
    EncoderEntry("none", "Plain model (cut)", "", "the model as it comes: what it cannot read is cut off", "", "yes"),
    EncoderEntry("pi", "Position Interpolation", "table_interpolation:TableInterpolation",
                 "rows between the rows of the table, evenly", "table", "yes: a longer table", "2404.12096"),
    EncoderEntry("grouped", "Grouped positions", "grouped:GroupedPositions",
                 "each row serves several positions side by side", "table", "yes: a longer table", "2404.12096"),
    EncoderEntry("recurrent", "Recurrent positions", "recurrent_positions:RecurrentPositions",
                 "the table again and again; short texts are read as before", "table", "yes: a longer table",
                 "2404.12096"),
    EncoderEntry("ntk-by-parts", "NTK-by-parts of a table", "table_by_parts:TableByParts",
                 "slow waves along the table are spread out, fast ones begin anew", "table", "yes: a longer table",
                 "2309.00071"),
    EncoderEntry("stretch", "Long-CLIP's stretch", "stretch:KnowledgePreservingStretch",
                 "the first rows stay, the others are stretched", "table", "yes: a longer table", "2403.15378"),
    EncoderEntry("tempscale", "TempScale", "tempscale:TempScale", "logits over a temperature below 1", "logits",
                 "yes: in the projections of the queries", "2410.24200"),
    EncoderEntry("uncut", "Limits raised", "uncut:Uncut",
                 "nothing grows: a table is read to its end, and a bias has none", "limits", "yes: limits"),
    EncoderEntry("parallel-windows", "Parallel context windows", "parallel_windows:ParallelWindows",
                 "the mean over windows that are read by themselves", "reading", CODE, "2404.12096"),
    EncoderEntry("chunks", "Chunks", "separate_chunks:SeparateChunks",
                 "a vector for each chunk, read by itself; the nearest counts", "reading", CODE),
    EncoderEntry("late-chunking", "Late chunking", "pooled_chunks:PooledChunks",
                 "a vector for each chunk, pooled after the whole text was read; the nearest counts", "reading", CODE,
                 "2409.04701"),
)  # fmt: skip

BY_ID = {entry.id: entry for entry in ENCODER_METHODS}
FITTING = {  # what decides how far an encoder reads -> axes of methods that make sense there
    TABLE: ("", "table", "limits", "logits", "reading"),
    BIAS: ("", "limits", "logits", "reading"),
    ROPE: ("", "rope", "reading"),
    UNKNOWN: ("", "reading"),
}


def refuse_of_encoders(model: str, spellings: Iterable[str]) -> None:
    """Refuse methods for encoders on a model that is none.

    Raises:
        UserError: naming both.
    """
    others = {one.id for one in CATALOGUE}
    for spelling in spellings:
        for part in split(spelling, "+"):
            name = re.sub(r"\(.*", "", part, flags=re.DOTALL).strip()
            if name in BY_ID and name not in others:
                raise UserError(
                    f"{name} is a method for embedding models, and {model} is none",
                    "ropewalk methods lists those for models that write.",
                )
