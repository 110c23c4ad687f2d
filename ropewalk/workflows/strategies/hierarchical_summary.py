"""BooookScore's hierarchical merging (arXiv 2310.00785): summaries of chunks, then of summaries, until few are left.

Each is written for the question, and the last merge is the answer to it: "Summarise the book." gives a summary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

from ropewalk.common.errors import UserError
from ropewalk.workflows.chunks import chunks
from ropewalk.workflows.folding import UNREAD, within_budget
from ropewalk.workflows.strategies.retrieval import BETWEEN
from ropewalk.workflows.strategy import NOTES, WHOLE, Model, Reading, Strategy, all_asked, answered, cut, room_left
from ropewalk.workflows.summaries import CHUNK, SUMMARY, whole, words

CONTEXT = 0.2  # share of a merge's text that the summary before it may take
LIKELY = 0.5  # share of its room that a summary is taken to fill, where levels are counted
LEAST = 32  # tokens of a summary of any level

LEAF = """{text}

Above is one part of a longer text. Summarise it in at most {words} words, for a reader who asks: {question}
Summary:"""

BEFORE = """Summary of what comes before them, so that yours follows it:

{summary}

"""

MERGE = """{before}Summaries of consecutive parts of a text:

{text}

Write one summary of them in at most {words} words, for a reader who asks: {question}
Summary:"""


@dataclass(frozen=True)
class HierarchicalSummary(Strategy):
    """One call for each chunk, side by side, one for each merge of as many summaries as fit, and one for the answer.

    Attributes:
        chunk: tokens of the text that are read at once, at most; what the window leaves if that is less.
        summary: tokens of a summary of the last level, at most; an eighth of the window if that is less.
        ratio: of the tokens of a summary to those of one of the level above it.
    """

    name: ClassVar[str] = "hierarchical-summary"
    chunk: int = CHUNK
    summary: int = SUMMARY
    ratio: float = 0.65

    def __post_init__(self) -> None:
        for name, value in (("chunk", self.chunk), ("summary", self.summary)):
            if value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")
        if not 0 < self.ratio <= 1:
            raise UserError(f"ratio is {self.ratio}, expected above 0, and 1 at most")

    async def read(self, model: Model, reading: Reading) -> str:
        spans = model.spans(reading.text)
        left = room_left(model, reading.last("", NOTES), reading.room, "the last call")
        limit = min(self.summary, model.window // 8, left // 2)
        bare = MERGE.format(before=BEFORE.format(summary=""), text="", words=limit, question=reading.question)
        size = room_left(model, bare, 4 * limit, "the prompt of a merge") + 3 * limit  # no less than three summaries
        if len(spans) <= min(self.chunk, left):
            return await answered(model, reading, reading.text, WHOLE)
        fan = int((1 - CONTEXT) * size) // (limit + len(BETWEEN))

        def calls(parts: int) -> int:
            return parts + ceil(model.window / min(self.chunk + limit, model.window)) * merges(parts, limit, fan, left)

        every = chunks(reading.text, spans, min(self.chunk, size))
        parts = within_budget(model, every, model.count(bare) + limit, calls)
        levels = levels_of(len(parts), limit, size, left)

        def room(level: int) -> int:
            return min(limit, max(LEAST, int(limit * self.ratio ** max(0, levels - 1 - level))))

        prompts = [
            LEAF.format(text=part.text.strip(), words=words(room(0)), question=reading.question) for part in parts
        ]
        found = [whole(model, one, room(0)) for one in await all_asked(model, prompts, room(0), "summary") if one]
        if not found:
            model.note(UNREAD)
        level = 1
        while len(model.spans(BETWEEN.join(found))) > left:
            found = await _merged(model, found, reading.question, int(size * (1 - CONTEXT)), room(level), level)
            level += 1
        return await answered(model, reading, BETWEEN.join(found), NOTES)


async def _merged(model: Model, summaries: Sequence[str], question: str, size: int, room: int, level: int) -> list[str]:
    """A summary for each run of them that fits, beside the end of the one before it."""
    runs = runs_of(summaries, [len(model.spans(one)) + len(BETWEEN) for one in summaries], size)
    found: list[str] = []
    for i, run in enumerate(runs, 1):
        text = BETWEEN.join(run)
        before = cut(model, found[-1], int(size / (1 - CONTEXT) * CONTEXT)) if found else ""
        prompt = MERGE.format(
            before=BEFORE.format(summary=before) if before else "", text=text, words=words(room), question=question
        )
        said = await model.ask(prompt, room, f"level {level}, merge {i} of {len(runs)}")
        found.append(whole(model, said or cut(model, text, room), room))  # a merge that came to nothing is noted
    return found


def runs_of(summaries: Sequence[str], tokens: Sequence[int], size: int) -> list[list[str]]:
    """Consecutive ones together, as many as have ``size`` tokens."""
    runs: list[list[str]] = []
    left = -1
    for one, many in zip(summaries, tokens, strict=True):
        if many > left:
            runs.append([])
            left = size
        runs[-1].append(one)
        left -= many
    return runs


def merges(parts: int, limit: int, fan: int, left: int) -> int:
    """How many there are, if every summary takes all of its room.

    Args:
        parts: summaries of the first level.
        limit: tokens of each.
        fan: that are merged at once, 2 or more.
        left: tokens that the last call has for them.
    """
    total = 0
    while parts * (limit + len(BETWEEN)) > left and parts > 1:
        parts = ceil(parts / fan)
        total += parts
    return total


def levels_of(parts: int, limit: int, size: int, left: int) -> int:
    """Levels of summaries, if they fill as much of their room as is likely."""
    levels, each = 1, max(1, int(limit * LIKELY))
    while parts * each > left:
        parts = ceil(parts / max(2, int((1 - CONTEXT) * size) // each))
        levels += 1
    return levels
