"""As much of the text as the window holds: the least that a strategy must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ropewalk.workflows.strategy import PARTS, WHOLE, Model, Reading, Strategy, answered, room_left

GAP = "\n[...]\n"


@dataclass(frozen=True)
class Truncation(Strategy):
    """One call, and the rest is not read.

    Attributes:
        keep: ``ends`` leaves the middle out, ``head`` what comes last, ``tail`` what comes first.
    """

    name: ClassVar[str] = "truncation"
    keep: Literal["ends", "head", "tail"] = "ends"

    async def read(self, model: Model, reading: Reading) -> str:
        spans = model.spans(reading.text)
        size = room_left(model, reading.last(GAP, PARTS), reading.room, "the last call")
        if len(spans) <= size:
            return await answered(model, reading, reading.text, WHOLE)
        tail = {"ends": size // 2, "head": 0, "tail": size}[self.keep]
        head = size - tail
        before = reading.text[: spans[head][0]] if head else ""
        behind = reading.text[spans[len(spans) - tail][0] :] if tail else ""
        model.note(f"{len(spans) - size:,} of {len(spans):,} tokens of the text were not read")
        return await answered(model, reading, before + GAP + behind, PARTS)
