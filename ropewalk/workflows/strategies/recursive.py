"""Recursive language models (arXiv 2512.24601): a model looks into a text by actions, and asks itself about its parts.

The paper hands the model a Python prompt. Here it has four actions, each a line that is read strictly, and nothing that
it writes is run. What is no action is told back to it, and counted.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import ClassVar

from ropewalk.backends.chat.chat import Turns
from ropewalk.common.errors import UserError
from ropewalk.workflows.chunks import Chunk, chunks
from ropewalk.workflows.folding import require_budget
from ropewalk.workflows.selection import fitting, in_order, spliced
from ropewalk.workflows.strategy import NOTES, PARTS, SLACK, WHOLE, Model, Reading, Strategy, answered, room_left

PART = 512  # tokens; of a small window, an eighth
LISTED, AROUND = 8, 60  # parts that a search shows, and signs on either side of a word
QUOTES = "\"'`*_.,;:!?()[]{}<>\u2018\u2019\u201c\u201d\u00ab\u00bb"  # around words, and no part of them

START = """A text of {tokens:,} tokens lies in parts 1 to {parts}. You do not see it. You are asked: {question}

Write one line, which is one of these, and nothing else:
PEEK 3 (shows part 3)
SEARCH some words (tells which parts hold all of them)
ASK 3-7 some question (somebody reads parts 3 to 7 and answers it)
ANSWER some words (your answer, once you know it)"""
NO_ACTION = "That is none of the four: begin the line with PEEK, SEARCH, ASK or ANSWER."

ASKED = """{context}

Above is {what}. Answer the question by it, in a few words; if it does not say, write: not said.
Question: {question}
Answer:"""

PEEK = re.compile(r"PEEK:? (\d{1,9})")
SEARCH = re.compile(r"SEARCH:? (.*[^\W_].*)")
ASK = re.compile(
    r"ASK:? (\d{1,9})(?: ?(?:[-\u2010-\u2014]|\.\.|to|through) ?(\d{1,9}))?:? (?!(?:and|or|to|,|&) ?\d)(.*\w.*)"
)
ANSWER = re.compile(r"ANSWER:?\s+(.*\w.*)", re.DOTALL)


@dataclass
class Seen:
    """What came of the actions so far.

    Attributes:
        parts: that were shown.
        found: questions with their answers.
        replies: of the reader.
        nonsense: of those, that were no action.
    """

    parts: list[Chunk] = field(default_factory=list)
    found: list[str] = field(default_factory=list)
    replies: int = 0
    nonsense: int = 0


@dataclass(frozen=True)
class RecursiveLM(Strategy):
    """A call for each action, and one for each span that is asked about; a text that fits is read at once.

    Where no answer came within the steps, one more call answers by what was seen.

    Attributes:
        steps: actions at most, of each reader.
        depth: 1: spans that are asked about must fit into the window; 2: longer ones are read by a reader with actions
            of its own; and so on.
        part: tokens of what is shown at once at most; 0: 512, or an eighth of the window if that is less.
    """

    name: ClassVar[str] = "recursive"
    steps: int = 12
    depth: int = 1
    part: int = 0

    def __post_init__(self) -> None:
        for key, value, least in (("steps", self.steps, 1), ("depth", self.depth, 1), ("part", self.part, 0)):
            if value < least:
                raise UserError(f"{key} is {value}, expected {least} or more")

    async def read(self, model: Model, reading: Reading) -> str:
        if _fits(model, reading, WHOLE):
            return await answered(model, reading, reading.text, WHOLE)
        said, seen = await self._look(model, reading, self.depth, "")
        if said is not None:
            return said
        return await answered(model, reading, _digest(model, reading, seen), NOTES)

    async def _look(self, model: Model, reading: Reading, depth: int, path: str) -> tuple[str | None, Seen]:
        """What the model answers by actions, if it does, and what it has seen.

        Args:
            model: that is asked.
            reading: of what, and what it is asked.
            depth: of readers, this one counted.
            path: the steps above it, for the trace: ``3.``.
        """
        spans, seen, left = model.spans(reading.text), Seen(), _left(model, reading)
        parts = chunks(reading.text, spans, min(self.part or min(PART, model.window // 8), left))
        said = [START.format(tokens=len(spans), parts=len(parts), question=reading.question)]
        if not path:
            require_budget(model, 1, model.count(Turns(tuple(said))) + reading.room)
        for step in range(1, self.steps + 1):
            while model.count(Turns(tuple(said))) + reading.room > model.window:
                del said[1:3]  # the oldest action and what came of it
            reply = await model.ask(Turns(tuple(said)), reading.room, f"step {path}{step}")
            if reply is None:
                break
            seen.replies += 1
            if answer := ANSWER.fullmatch(reply):
                _tell(model, seen, path)
                if not path and seen.replies == seen.nonsense + 1:
                    model.note("it answered before it had seen anything of the text")
                return answer[1].strip(), seen
            line = reply.partition("\n")[0].strip()
            if peek := PEEK.fullmatch(line):
                result = _peeked(parts, int(peek[1]), seen)
            elif search := SEARCH.fullmatch(line):
                result = _searched(model, parts, search[1], left)
            elif ask := ASK.fullmatch(line):
                first, last = sorted((int(ask[1]), int(ask[2] or ask[1])))
                span = parts[max(first, 1) - 1 : last]
                result = await self._ask(model, reading, span, ask[3], depth, f"{path}{step}", seen)
            else:
                seen.nonsense += 1
                result = NO_ACTION
            said += [line, result]
        _tell(model, seen, path)
        return None, seen

    async def _ask(
        self, model: Model, reading: Reading, span: Sequence[Chunk], question: str, depth: int, step: str, seen: Seen
    ) -> str:
        """What a reader of a span answers, or why it is not asked."""
        if not span:
            return "There are no such parts."

        def last(context: str, what: str) -> str:
            return ASKED.format(context=context.strip(), what=what, question=question)

        text = "".join(part.text for part in span)
        own = Reading(text, question, reading.room, last)
        if _fits(model, own, PARTS):
            answer = await model.ask(last(text, PARTS), own.room, f"step {step}, {len(span)} parts")
        elif depth == 1:
            return f"{len(span)} parts are too long to be read at once: name fewer."
        else:
            try:
                _left(model, own)
            except UserError:
                return "That question is too long."
            answer, below = await self._look(model, own, depth - 1, f"{step}.")
            if answer is None:
                prompt = last(_digest(model, own, below), NOTES)
                answer = await model.ask(prompt, own.room, f"step {step}, answer")
        if answer is None:
            return "No answer came."
        seen.found.append(f"{question} {answer}")
        return answer


def _left(model: Model, reading: Reading) -> int:
    """Tokens of what comes of an action that a conversation has room for, beside that action and the next.

    Raises:
        UserError: if they are too few.
    """
    most = len(reading.text)  # of tokens and of parts
    start = START.format(tokens=most, parts=most, question=reading.question)
    return room_left(model, Turns((start, "", "")), 2 * reading.room, "an action")


def _fits(model: Model, reading: Reading, what: str) -> bool:
    """Whether a text can be read in one call."""
    return model.count(reading.last(reading.text, what)) + reading.room <= model.window


def _tell(model: Model, seen: Seen, path: str) -> None:
    if seen.nonsense:
        where = f" below step {path[:-1]}" if path else ""
        model.note(f"{seen.nonsense} of {seen.replies} replies{where} were no action")


def _peeked(parts: Sequence[Chunk], number: int, seen: Seen) -> str:
    if not 1 <= number <= len(parts):
        return f"There are parts 1 to {len(parts)}."
    part = parts[number - 1]
    seen.parts = [*(one for one in seen.parts if one is not part), part]
    return part.text.strip() or "It is empty."


def _searched(model: Model, parts: Sequence[Chunk], words: str, room: int) -> str:
    """Which parts hold all words, with what stands around the longest, in at most ``room`` tokens."""
    wanted = [bare for word in words.casefold().split() if (bare := word.strip(QUOTES))]
    hits = [i for i, part in enumerate(parts) if all(word in part.text.casefold() for word in wanted)]
    result = f"{len(hits)} parts hold all of these words{':' if hits else '.'}"
    for i in hits[:LISTED]:
        text = parts[i].text
        at = place(text, max(wanted, key=len))
        line = f"\n{i + 1}: {' '.join(text[max(0, at - AROUND) : at + AROUND].split())}"
        if len(model.spans(result + line)) > room:
            break
        result += line
    return result


def place(text: str, word: str) -> int:
    """Where a word without case begins in a text that has it: signs may be several when their case is taken away."""
    stops = list(accumulate(len(sign.casefold()) for sign in text))
    return bisect_right(stops, text.casefold().index(word))


def _digest(model: Model, reading: Reading, seen: Seen) -> str:
    """What was seen, as much as one call holds: answers, the newest first, then parts; else the text's beginning."""
    left = room_left(model, reading.last("", NOTES), reading.room, "the last call")
    kept: list[str] = []
    for one in reversed(seen.found):
        left -= len(model.spans(one)) + 1
        if left < 0:
            break
        kept.insert(0, one)
    if seen.parts and seen.parts[-1].tokens + SLACK <= left:
        kept.append(spliced(in_order(fitting(seen.parts[::-1], left))))
    if kept:
        return "\n".join(kept)
    model.note("nothing was seen of the text: it was read from its beginning, as far as a call holds")
    return chunks(reading.text, model.spans(reading.text), left)[0].text
