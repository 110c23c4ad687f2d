"""The one list of training positions: it drives the public names, the documentation's table and the test matrix."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from ropewalk.training.positions.training_positions import TrainingPositions


@dataclass(frozen=True)
class PositionsEntry:
    """One way to lay out training samples.

    Attributes:
        id: as in papers, and in spellings.
        title: the paper's name for it.
        where: "module:Class".
        summary: one line.
        texts: how long a text must be.
        rope: the model that is trained.
        paper: arXiv id, or the address of another source without https://.
    """

    id: str
    title: str
    where: str
    summary: str
    texts: str
    rope: str
    paper: str

    def load(self) -> type[TrainingPositions]:
        module, name = self.where.split(":")
        loaded: type[TrainingPositions] = getattr(import_module(f"ropewalk.training.positions.{module}"), name)
        return loaded


ANY = "any, if all together fill a sample"

POSITIONS: tuple[PositionsEntry, ...] = (
    PositionsEntry("full", "Full length", "full_length:FullLength", "every token at its place, at the full price",
                   "the target", "extended", "2306.15595"),
    PositionsEntry("pose", "PoSE", "pose:PoSE", "chunks of one text, a random jump between them", ANY, "extended",
                   "2309.10400"),
    PositionsEntry("cream", "CREAM", "cream:CREAM", "head, tail, and a middle drawn towards the middle of the target",
                   "a window", "extended", "2406.07138"),
    PositionsEntry("endprompt", "EndPrompt", "endprompt:EndPrompt",
                   "a text in one piece, a cue at the end of the target", ANY, "extended",
                   "github.com/clx1415926/EndPrompt"),
    PositionsEntry("endprompt-pose", "EndPrompt + PoSE", "endprompt_pose:EndPromptPoSE",
                   "chunks with a jump, and the cue", ANY, "extended", "github.com/clx1415926/EndPrompt"),
    PositionsEntry("e2", "E2-LLM", "e2:E2LLM", "a random scale per step and a random offset", ANY, "as trained",
                   "2401.06951"),
    PositionsEntry("randpos", "Randomised positions", "randomized:RandomizedPositions",
                   "a sorted random subset of the target; the negative control", ANY, "extended", "2305.16843"),
    PositionsEntry("segmented", "Segmented sequences", "segmented:Segmented",
                   "segments of a long text, at their true positions", "the target", "extended", "2310.14633"),
)  # fmt: skip

BY_ID = {entry.id: entry for entry in POSITIONS}


def positions(spelling: str, cue: tuple[int, ...] = ()) -> TrainingPositions:
    """Training positions from their spelling: ``pose``, ``pose(chunks=3)``.

    Args:
        spelling: as in the catalogue.
        cue: token ids, for those that take a cue and are spelled without one.

    Raises:
        UserError: for an unknown id, an unknown option or a wrong value.
    """
    from ropewalk.methods.catalogue import options_of

    match = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", spelling, re.DOTALL)
    if match is None or match[1] not in BY_ID:
        known = did_you_mean(spelling, BY_ID)
        raise UserError(f"unknown training positions {spelling!r}{known}", f"There are {', '.join(BY_ID)}.")
    cls = BY_ID[match[1]].load()
    options = options_of(cls, cls.name, match[2] or "")
    if cue and "cue" in {one.name for one in fields(cls)}:  # type: ignore[arg-type]
        options.setdefault("cue", cue)
    return cls(**options)
