"""MemAgent (arXiv 2507.02259): a memory of fixed size that is written anew after each chunk, and then answers alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.common.errors import UserError
from ropewalk.workflows.folding import folded
from ropewalk.workflows.strategy import NOTES, Model, Reading, Strategy, answered

CHUNK, MEMORY = 5000, 1024  # tokens

PROMPT = """You are given a problem, a memory of what was read before, and a section of an article. Read the section, \
and write the memory anew: keep what is still of use, and add what helps to solve the problem.

<problem>
{problem}
</problem>

<memory>
{memory}
</memory>

<section>
{chunk}
</section>

Memory, written anew:"""


@dataclass(frozen=True)
class MemoryAgent(Strategy):
    """One call for each chunk, one after the other, and one for the answer, which sees the memory alone.

    Attributes:
        chunk: tokens that are read at once, at most; what the window leaves if that is less.
        memory: tokens of the memory at most; a quarter of the window if that is less.
    """

    name: ClassVar[str] = "memory-agent"
    chunk: int = CHUNK
    memory: int = MEMORY

    def __post_init__(self) -> None:
        for name, value in (("chunk", self.chunk), ("memory", self.memory)):
            if value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")

    async def read(self, model: Model, reading: Reading) -> str:
        def prompt(chunk: str, memory: str) -> str:
            return PROMPT.format(problem=reading.question, memory=memory or "No previous memory", chunk=chunk)

        room = min(self.memory, model.window // 4)
        memory = await folded(model, reading.text, prompt, room, "memory", size=self.chunk)
        return await answered(model, reading, memory, NOTES)
