"""MemAgent (arXiv 2507.02259): a memory of fixed size that is written anew after each chunk, and then answers alone.

With a plan, as QwenLong-L1.5 has it: what the answer is to look like is held back until the last call, and beside the
memory stands what to look for next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from ropewalk.common.errors import UserError
from ropewalk.workflows.folding import folded
from ropewalk.workflows.strategy import NOTES, Model, Reading, Strategy, answered

CHUNK, MEMORY = 5000, 1024  # tokens
CORE = 128  # tokens of the question without what the answer is to look like, at most

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

PLANNED = """You are given a problem, a memory of what was read before, a plan of what to look for, and a section of \
an article. Read the section, and write both anew: a memory that keeps what is still of use and adds what helps to \
solve the problem, and a plan that says what is still to be found. Write <memory>...</memory> <plan>...</plan>.

<problem>
{problem}
</problem>

<memory>
{memory}
</memory>

<plan>
{plan}
</plan>

<section>
{chunk}
</section>

Memory and plan, written anew:"""

SPLIT = """Below is a request. Copy, word for word, the part that says what is asked, and leave out what the answer is \
to look like.

<request>
{problem}
</request>

What is asked:"""


@dataclass(frozen=True)
class MemoryAgent(Strategy):
    """One call for each chunk, one after the other, and one for the answer, which sees the memory alone.

    Attributes:
        chunk: tokens that are read at once, at most; what the window leaves if that is less.
        memory: tokens of the memory at most; a quarter of the window if that is less.
        plan: whether a plan stands beside the memory, within the same tokens, and a first call parts what is asked
            from what the answer is to look like, which only the last call sees.
    """

    name: ClassVar[str] = "memory-agent"
    chunk: int = CHUNK
    memory: int = MEMORY
    plan: bool = False

    def __post_init__(self) -> None:
        for name, value in (("chunk", self.chunk), ("memory", self.memory)):
            if value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")

    async def read(self, model: Model, reading: Reading) -> str:
        problem = await _core(model, reading.question) if self.plan else reading.question

        def prompt(chunk: str, notes: str) -> str:
            memory, plan = parted(notes) if self.plan else (notes, "")
            form = PLANNED if self.plan else PROMPT
            return form.format(
                problem=problem, memory=memory or "No previous memory", plan=plan or "No previous plan", chunk=chunk
            )

        room = min(self.memory, model.window // 4)
        notes = await folded(model, reading.text, prompt, room, "memory", size=self.chunk)
        return await answered(model, reading, parted(notes)[0] if self.plan else notes, NOTES)


def parted(notes: str) -> tuple[str, str]:
    """Memory and plan of what was written; all of it is memory where nothing is marked as such."""
    plan = re.search(r"<plan>(.*?)(?:</plan>|$)", notes, re.DOTALL)
    rest = notes.replace(plan[0], "") if plan else notes
    memory = re.search(r"<memory>(.*?)(?:</memory>|$)", rest, re.DOTALL)
    return (memory[1] if memory else rest).strip(), plan[1].strip() if plan else ""


async def _core(model: Model, question: str) -> str:
    """The question without what the answer is to look like; all of it, unless a part of it comes back as it stands."""
    prompt = SPLIT.format(problem=question)
    room = min(CORE, model.window - model.count(prompt))
    said = await model.ask(prompt, room, "what is asked") if room > 0 else None
    words = (said or "").split()
    if words and " ".join(words) in " ".join(question.split()):
        return " ".join(words)
    model.note("the whole question was read with: no part of it came back word for word as what is asked")
    return question
