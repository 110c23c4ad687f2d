"""Chain of Agents (arXiv 2406.02818): each worker reads a chunk and what the one before it noted, a manager answers."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ropewalk.common.errors import UserError
from ropewalk.workflows.chunks import Chunk
from ropewalk.workflows.folding import chunks_for, noted, within_budget
from ropewalk.workflows.strategy import (
    NOTES,
    Model,
    NoRoom,
    Reading,
    Strategy,
    answered,
    cut,
    room_left,
    tokens_of_last,
)
from ropewalk.workflows.trace import together

UNIT = 1024  # tokens of a communication unit; of a small window, a quarter
VERDICT = 8  # tokens of a number
AROUND = "\"'`*_.,;:!?()[]{}<>…。，、；：！？“”‘’«»「」『』"  # words: no part of them

PROMPT = """{chunk}

Above is one part of a text that is read part by part. Notes on the parts before it:
{notes}

Write notes that keep everything in those notes and in this part that helps to answer the question, and nothing else. \
Copy names and numbers exactly.
Question: {question}
Notes:"""

JUDGE = """Several readers read the same text and answered a question about it.

{answers}

Which answer is best supported by its reader's notes? Write its number and nothing else.
Question: {question}
Number:"""


@dataclass(frozen=True)
class ChainOfAgents(Strategy):
    """One call for each chunk, one after the other, and one for the answer; several paths run side by side.

    Attributes:
        unit: tokens of what one worker tells the next; 0: 1,024, or a quarter of the window if that is less.
        backwards: whether the last chunk is read first.
        paths: how often the text is read; each path answers, and one answer is picked.
        along: how paths differ: ``directions`` (two: forwards and backwards), ``permutations`` (the first path is the
            text's own order), ``samples`` (one order, drawn anew, of a server).
        pick: ``vote``: the answer of most paths, of the first of them if none has more; ``judge``: one more call.
        seed: of permutations.
        guard: whether notes stay where a worker says no more than that it found nothing.
    """

    name: ClassVar[str] = "chain-of-agents"
    unit: int = 0
    backwards: bool = False
    paths: int = 1
    along: Literal["directions", "permutations", "samples"] = "directions"
    pick: Literal["vote", "judge"] = "vote"
    seed: int = 0
    guard: bool = True

    def __post_init__(self) -> None:
        for name, value, least in (("unit", self.unit, 0), ("paths", self.paths, 1)):
            if value < least:
                raise UserError(f"{name} is {value}, expected {least} or more")
        if self.paths > 2 and self.along == "directions":
            raise UserError(
                f"paths is {self.paths}, where a text has two directions", "Write along=permutations, or paths=2."
            )

    async def read(self, model: Model, reading: Reading) -> str:
        def prompt(chunk: str, notes: str) -> str:
            return PROMPT.format(chunk=chunk.strip(), notes=notes or "(none yet)", question=reading.question)

        def calls(parts: int) -> int:
            return self.paths * (parts + 1) + (self.pick == "judge")

        unit = self.unit or min(UNIT, model.window // 4)
        parts = chunks_for(model, reading.text, prompt, unit, "worker")
        if self.paths == 1:
            model.last_takes(tokens_of_last(model, reading, unit))
        else:
            parts = within_budget(model, parts, model.count(prompt("", "")) + 2 * unit, calls)

        async def path(number: int) -> str:
            role = "worker" if self.paths == 1 else f"path {number + 1}, worker"
            draw = number if self.along == "samples" else 0
            planned = self.paths > 1
            return await noted(model, self.order(parts, number), prompt, unit, role, draw, self.guard, planned=planned)

        if self.paths == 1:
            return await answered(model, reading, await path(0), NOTES)

        async def answer(number: int) -> tuple[str, str | None]:
            notes = await path(number)
            asked = reading.last(notes, NOTES)
            return notes, await model.ask(asked, reading.room, f"path {number + 1}, answer")

        ways = await together(*map(answer, range(self.paths)))
        found = [(notes, said) for notes, said in ways if said]
        if not found:
            return await answered(model, reading, ways[0][0], NOTES)
        voted = vote([said for _, said in found])
        return found[voted if self.pick == "vote" else await self._judged(model, reading, found, voted)][1]

    def order(self, parts: Sequence[Chunk], path: int) -> list[Chunk]:
        """The chunks as a path reads them, from path 0 on."""
        order = list(parts)
        if self.along == "permutations" and path:
            random.Random(f"{self.seed} {path}").shuffle(order)
        backwards = self.backwards != (self.along == "directions" and path == 1)
        return order[::-1] if backwards else order

    async def _judged(self, model: Model, reading: Reading, found: Sequence[tuple[str, str]], voted: int) -> int:
        """Which of the answers a further call takes; what is voted for, where it names none."""

        def prompt(notes: Sequence[str]) -> str:
            readers = [
                f"Answer {i}: {said}\nNotes of reader {i}: {told}"
                for i, ((_, said), told) in enumerate(zip(found, notes, strict=True), 1)
            ]
            return JUDGE.format(answers="\n\n".join(readers), question=reading.question)

        try:
            each = room_left(model, prompt([""] * len(found)), VERDICT, "the prompt of the judge") // len(found) - 1
        except NoRoom:
            model.note(f"the window has no room for a judge of {len(found)} answers: they were put to the vote")
            return voted
        said = await model.ask(prompt([cut(model, notes, each) for notes, _ in found]), VERDICT, "judge")
        number = re.fullmatch(r"\W*(?:(?:answer|reader|number)\W+)?(\d{1,3})\W*", said or "", re.IGNORECASE)
        if number and 1 <= int(number[1]) <= len(found):
            return int(number[1]) - 1
        model.note("the judge named no answer: they were put to the vote")
        return voted


def vote(answers: Sequence[str]) -> int:
    """The first of the answers that most say, whatever their case, articles and punctuation around words."""
    words = [[word.strip(AROUND) for word in one.casefold().split()] for one in answers]
    said = [" ".join(word for word in one if word not in ("", "a", "an", "the")) for one in words]
    said = [some or one for some, one in zip(said, answers, strict=True)]
    counts = Counter(said)
    return max(range(len(said)), key=lambda i: (counts[said[i]], -i))
