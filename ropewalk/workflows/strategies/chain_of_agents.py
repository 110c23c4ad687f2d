"""Chain of Agents (arXiv 2406.02818): each worker reads a chunk and what the one before it noted, a manager answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.common.errors import UserError
from ropewalk.workflows.folding import folded
from ropewalk.workflows.strategy import NOTES, Model, Reading, Strategy, answered

UNIT = 1024  # tokens of a communication unit; of a small window, a quarter

PROMPT = """{chunk}

Above is one part of a text that is read part by part. Notes on the parts before it:
{notes}

Write notes that keep everything in those notes and in this part that helps to answer the question, and nothing else. \
Copy names and numbers exactly.
Question: {question}
Notes:"""


@dataclass(frozen=True)
class ChainOfAgents(Strategy):
    """One call for each chunk, one after the other, and one for the answer.

    Attributes:
        unit: tokens of what one worker tells the next; 0: 1,024, or a quarter of the window if that is less.
        backwards: whether the last chunk is read first.
    """

    name: ClassVar[str] = "chain-of-agents"
    unit: int = 0
    backwards: bool = False

    def __post_init__(self) -> None:
        if self.unit < 0:
            raise UserError(f"unit is {self.unit}, expected 0 or more")

    async def read(self, model: Model, reading: Reading) -> str:
        def prompt(chunk: str, notes: str) -> str:
            return PROMPT.format(chunk=chunk.strip(), notes=notes or "(none yet)", question=reading.question)

        unit = self.unit or min(UNIT, model.window // 4)
        notes = await folded(model, reading.text, prompt, unit, "worker", backwards=self.backwards)
        return await answered(model, reading, notes, NOTES)
