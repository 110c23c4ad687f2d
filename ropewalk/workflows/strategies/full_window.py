"""All of the text in one prompt: what every strategy is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.common.errors import UserError
from ropewalk.workflows.strategy import WHOLE, Model, Reading, Strategy, answered


@dataclass(frozen=True)
class FullWindow(Strategy):
    """One call that reads everything; the model may be extended by any method."""

    name: ClassVar[str] = "full"

    async def read(self, model: Model, reading: Reading) -> str:
        needed = model.count(reading.last(reading.text, WHOLE)) + reading.room
        if needed > model.window:
            raise UserError(
                f"text, question and answer have {needed:,} tokens, where the window has {model.window:,}",
                f"Extend it (--method yarn --to {needed}), or choose another strategy, such as --strategy rag.",
            )
        return await answered(model, reading, reading.text, WHOLE)
