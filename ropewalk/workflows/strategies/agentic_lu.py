"""AgenticLU (arXiv 2502.15920): ask what must be clear first, point at paragraphs, clear it by them, then answer.

One conversation, whose turns all begin with the same text, so that a server with a prefix cache reads that once. The
paper stops at the window. Here a longer text is read window by window, each in a conversation of its own up to the
pointing; the paragraphs that were named in all of them are the text of the last conversation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from ropewalk.backends.chat.chat import Turns, text_of
from ropewalk.common.errors import UserError, cut
from ropewalk.workflows.chunks import Chunk, chunks
from ropewalk.workflows.folding import within_budget
from ropewalk.workflows.pointing import OWN, TAG, Pointed, pointed
from ropewalk.workflows.selection import fitting, in_order, spliced
from ropewalk.workflows.strategy import NOTES, PARTS, WHOLE, Model, Reading, Strategy, answered, room_left
from ropewalk.workflows.tags import unused
from ropewalk.workflows.trace import together

PARAGRAPH = 512  # tokens; of a small window, an eighth
TURN = 256  # tokens of a turn before the last; of a small window, a thirty-second
MARK = "<{tag} {i}>\n{text}\n</{tag} {i}>\n"

QUESTION = """{paragraphs}
Above are numbered paragraphs. A question about them: {question}
Do not answer it yet. Write one clarifying question: what must be found first? Write nothing else."""
POINT = "Which paragraphs help? Write their marks alone, like <{tag} 3> <{tag} 7>, or: none."
PINNED = """{pinned}

Above is what you pointed at. """
CLEAR = "Answer your clarifying question in a few words."


@dataclass(frozen=True)
class Paragraph:
    """A part of the text that a model can point at.

    Attributes:
        number: from 1.
        part: as it stands in the text.
        text: with its marks.
        tokens: of that.
    """

    number: int
    part: Chunk
    text: str
    tokens: int


@dataclass(frozen=True)
class Window:
    """Paragraphs that are read in one conversation."""

    paragraphs: tuple[Paragraph, ...]

    @property
    def tokens(self) -> int:
        return sum(one.tokens for one in self.paragraphs)

    @property
    def text(self) -> str:
        return "".join(one.text for one in self.paragraphs)


@dataclass(frozen=True)
class AgenticLU(Strategy):
    """Four calls; two more for each window of a text that is longer.

    Attributes:
        paragraph: tokens of each at most; 0: 512, or a sixteenth of the window if that is less. No more than a call
            can quote.
    """

    name: ClassVar[str] = "agentic-lu"
    paragraph: int = 0

    def __post_init__(self) -> None:
        if self.paragraph < 0:
            raise UserError(f"paragraph is {self.paragraph}, expected 0 or more")

    async def read(self, model: Model, reading: Reading) -> str:
        turn = min(TURN, model.window // 32)
        tag = unused(TAG, reading.text, reading.question)
        point = POINT.format(tag=tag)
        bare = _opening(reading, ""), "", point, "", PINNED.format(pinned="") + CLEAR, ""
        last = text_of(reading.last("", NOTES))
        left = room_left(model, Turns((*bare, last)), reading.room + 5 * turn, "the last conversation")
        pin = min(model.window // 4, left // 2)
        left -= pin
        plain = room_left(model, reading.last("", PARTS), reading.room, "the last call")
        wide = model.window - model.count(Turns(bare[:3])) - 2 * turn
        marks = len(model.spans(MARK.format(tag=tag, i=len(reading.text), text=""))) + 1
        size = min(self.paragraph or min(PARAGRAPH, model.window // 16), pin, max(1, left - marks))
        every = paragraphs(model, reading.text, size, tag)
        replies = _Replies(tag)
        window = await _narrowed(model, reading, every, left, wide, turn, replies)
        replies.tell(model, reading)
        if not window.paragraphs:
            model.note("no paragraph was pointed at: the text was read from its beginning, as far as a call holds")
            head = fitting([one.part for one in every], plain)
            return await answered(model, reading, spliced(head), WHOLE if len(head) == len(every) else PARTS)

        shown, what = [one.part for one in window.paragraphs], WHOLE if len(window.paragraphs) == len(every) else PARTS
        said = [_opening(reading, window.text)]
        if (question := await model.ask(Turns(tuple(said)), turn, "clarifying question")) is None:
            return await answered(model, reading, spliced(shown), what)
        said += [question, point]
        if (reply := await model.ask(Turns(tuple(said)), turn, "pointing")) is None:
            return await answered(model, reading, spliced(shown), what)
        named = replies.read(reply, window.paragraphs)
        replies.tell(model, reading)
        pinned = spliced(in_order(fitting([one.part for one in named], pin)))
        said += [reply, (PINNED.format(pinned=pinned) if pinned else "") + CLEAR]
        if (cleared := await model.ask(Turns(tuple(said)), turn, "clarification")) is None:
            return await answered(model, reading, pinned or spliced(shown), PARTS if pinned else what)
        said += [cleared, text_of(reading.last(f"{question}\n{cleared}", NOTES))]
        answer = await model.ask(Turns(tuple(said)), reading.room, "answer", last=True)
        assert answer is not None  # the last is answered, or an error
        return answer


def paragraphs(model: Model, text: str, size: int, tag: str = TAG) -> list[Paragraph]:
    """The text in parts of at most ``size`` tokens, with marks."""
    parts = chunks(text, model.spans(text), size)
    texts = [MARK.format(tag=tag, i=i, text=part.text) for i, part in enumerate(parts, 1)]
    return [
        Paragraph(i, part, text, len(model.spans(text)) + 1)
        for i, (part, text) in enumerate(zip(parts, texts, strict=True), 1)
    ]


@dataclass
class _Replies:
    """What was pointed at, and what was said for it.

    Attributes:
        tag: of the marks.
        each: replies, in the order of what they are about, with what was read in them.
    """

    tag: str
    each: list[tuple[str, Pointed]] = field(default_factory=list)

    def read(self, reply: str, shown: Sequence[Paragraph]) -> list[Paragraph]:
        """The paragraphs that a reply names, in its order."""
        by_number = {one.number: one for one in shown}
        found = pointed(reply, by_number, self.tag)
        self.each.append((reply, found))
        return [by_number[i] for i in found.numbers]

    def tell(self, model: Model, reading: Reading) -> None:
        """Note what was not read, or may be meant otherwise, since the last time."""
        odd = [reply for reply, found in self.each if not found.whole]
        if odd:
            model.note(
                f"{len(odd)} of {len(self.each)} replies that point at paragraphs were not read to the last number, or "
                f"name what was not shown, as {cut(' '.join(odd[0].split()))!r}"
            )
        if OWN.search(reading.text) and any(found.numbers and not found.marked for _, found in self.each):
            model.note("paragraphs were pointed at without their marks, where the text numbers its own: read as ours")
        self.each.clear()


def _opening(reading: Reading, text: str) -> str:
    return QUESTION.format(paragraphs=text, question=reading.question)


async def _narrowed(
    model: Model,
    reading: Reading,
    every: Sequence[Paragraph],
    left: int,
    wide: int,
    turn: int,
    replies: _Replies,
) -> Window:
    """What the last conversation has room for: the whole text, or what was pointed at, window by window.

    Args:
        model: that is asked.
        reading: what.
        every: all paragraphs.
        left: tokens of paragraphs that the last conversation holds.
        wide: tokens of them that a conversation up to the pointing holds.
        turn: tokens of each of its turns.
        replies: that point, to which those of the windows come.
    """

    async def replied(window: Window, which: str) -> str | None:
        opening = _opening(reading, window.text)
        question = await model.ask(Turns((opening,)), turn, f"clarifying question, {which}")
        if question is None:
            return None
        point = POINT.format(tag=replies.tag)
        return await model.ask(Turns((opening, question, point)), turn, f"pointing, {which}")

    kept, before, beside = Window(tuple(every)), 0, model.window - wide
    while kept.tokens > left and (not before or (2 * kept.tokens <= before and model.affordable(2, model.window) == 2)):
        before = kept.tokens
        windows = within_budget(model, _windows(kept.paragraphs, wide), beside, lambda n: 2 * n)
        said = await together(*(replied(one, f"window {i} of {len(windows)}") for i, one in enumerate(windows, 1)))
        pairs = zip(said, windows, strict=True)
        found = [one for reply, shown in pairs if reply for one in replies.read(reply, shown.paragraphs)]
        kept = Window(tuple(sorted(found, key=lambda one: one.number)))
    if kept.tokens <= left:
        return kept
    held = _windows(kept.paragraphs, left)[0]
    over = len(kept.paragraphs) - len(held.paragraphs)
    model.note(f"{over:,} of {len(kept.paragraphs):,} paragraphs that were pointed at were left out: no room for them")
    return held


def _windows(some: Sequence[Paragraph], wide: int) -> list[Window]:
    """Paragraphs in windows of at most ``wide`` tokens, one at least in each."""
    found: list[list[Paragraph]] = [[]]
    held = 0
    for one in some:
        if found[-1] and held + one.tokens > wide:
            found.append([])
            held = 0
        found[-1].append(one)
        held += one.tokens
    return [Window(tuple(window)) for window in found]
