"""MemAgent (arXiv 2507.02259): a memory of fixed size that is written anew after each chunk, and then answers alone.

With a plan, as QwenLong-L1.5 has it: what the answer is to look like is held back until the last call, and beside the
memory stands what to look for next.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from ropewalk.common.errors import UserError
from ropewalk.workflows.folding import folded, require_budget
from ropewalk.workflows.strategy import NOTES, Model, Reading, Strategy, answered, cut, room_left, tokens_of_last
from ropewalk.workflows.tags import unused

CHUNK, MEMORY = 5000, 1024  # tokens
CORE = 128  # tokens of the question without what the answer is to look like, at most
ROLE = "memory"
TAGS = "problem", "memory", "plan", "section"

PROMPT = """You are given a problem, a memory of what was read before, and a section of an article. Read the section, \
and write the memory anew: keep what is still of use, and add what helps to solve the problem.

<problem{x}>
{problem}
</problem{x}>

<memory{x}>
{memory}
</memory{x}>

<section{x}>
{chunk}
</section{x}>

Memory, written anew:"""

PLANNED = """You are given a problem, a memory of what was read before, a plan of what to look for, and a section of \
an article. Read the section, and write both anew: a memory that keeps what is still of use and adds what helps to \
solve the problem, and a plan that says what is still to be found. Write <memory{x}>...</memory{x}> \
<plan{x}>...</plan{x}>.

<problem{x}>
{problem}
</problem{x}>

<memory{x}>
{memory}
</memory{x}>

<plan{x}>
{plan}
</plan{x}>

<section{x}>
{chunk}
</section{x}>

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
        x = max(unused(tag, reading.text, reading.question).removeprefix(tag) for tag in TAGS)
        room, problem, lost = min(self.memory, model.window // 4), reading.question, 0

        def prompt(chunk: str, notes: str) -> str:
            memory, plan = parted(notes, x) if self.plan else (notes, "")
            memory, plan = memory or "No previous memory", plan or "No previous plan"
            form = PLANNED if self.plan else PROMPT
            return form.format(x=x, problem=problem, memory=memory, plan=plan, chunk=chunk)

        def taken(said: str, notes: str) -> str:
            """What was written; behind the memory before, where that is no more than a plan."""
            nonlocal lost
            memory, plan = parted(said, x)
            if memory:
                return said
            lost += 1
            memory = parted(notes, x)[0]
            return written(memory, cut(model, plan, max(0, room - len(model.spans(memory)))), x)

        model.last_takes(tokens_of_last(model, reading, room))
        if not self.plan:
            return await answered(
                model, reading, await folded(model, reading.text, prompt, room, ROLE, self.chunk), NOTES
            )
        left = room_left(model, prompt("", ""), 2 * room, f"the prompt of a {ROLE}")  # before the problem is paid for
        longest = min(left, self.chunk, len(model.spans(reading.text)))
        require_budget(model, 2, model.count(prompt("", "")) + 2 * room + longest)
        problem = await _core(model, reading.question)
        notes = await folded(model, reading.text, prompt, room, ROLE, self.chunk, taken)
        if lost:
            model.note(f"{lost:,} times a plan was written and no memory: the memory before stayed")
        return await answered(model, reading, parted(notes, x)[0], NOTES)


def written(memory: str, plan: str, x: str = "") -> str:
    """Memory and plan in their marks, which end in ``x``."""
    return f"<memory{x}>{memory}</memory{x}> <plan{x}>{plan}</plan{x}>"


def parted(notes: str, x: str = "") -> tuple[str, str]:
    """Memory and plan of what was written, by marks that end in ``x``; all that is no plan is memory.

    A memory goes on to the last of its ends, as it may quote marks.
    """
    inside = re.search(rf"<memory{x}>(.*)</memory{x}>", notes, re.DOTALL | re.IGNORECASE)
    before, memory, behind = (notes[: inside.start()], inside[1], notes[inside.end() :]) if inside else (notes, "", "")
    open_ = not inside and re.search(rf"<memory{x}>", notes, re.IGNORECASE)
    mark = re.compile(rf"<plan{x}>(.*?)(?:</plan{x}>{'' if open_ else '|$'})", re.DOTALL | re.IGNORECASE)
    plan = mark.search(behind) or mark.search(before)
    rest = [re.sub(rf"</?memory{x}>", "", mark.sub("", one), flags=re.IGNORECASE) for one in (before, behind)]
    kept = [one.strip() for one in (rest[0], memory, rest[1])]
    return "\n".join(one for one in kept if one), plan[1].strip() if plan else ""


async def _core(model: Model, question: str) -> str:
    """The question without what the answer is to look like; all of it, unless a part of it comes back as it stands."""
    prompt = SPLIT.format(problem=question)
    room = min(CORE, model.window - model.count(prompt))
    said = await model.ask(prompt, room, "what is asked") if room > 0 else None
    words = (said or "").split()
    if words and f" {' '.join(words)} " in f" {' '.join(question.split())} ":
        return " ".join(words)
    model.note("the whole question was read with: no part of it came back word for word as what is asked")
    return question
