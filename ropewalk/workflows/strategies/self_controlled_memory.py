"""Self-Controlled Memory (arXiv 2304.13343): the model decides which blocks it remembers, whole or as a sentence."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.workflows.chunks import Chunk, chunks
from ropewalk.workflows.strategies.retrieval import BETWEEN, likeness
from ropewalk.workflows.strategy import NOTES, PARTS, WHOLE, Model, Reading, Strategy, all_asked, answered, room_left

BLOCK, MEMORY = 1000, 2500  # tokens
SENTENCE, VERDICT = 64, 8  # tokens of a summary, and of yes or no

NEEDED = """Someone has a text, and asks: {question}

Can that be answered only with what stands in the text? Write yes or no, and nothing else.
Answer:"""

ENOUGH = """{memory}

Can the question be answered with what stands above, or does it help to answer it? Write yes or no, and nothing else.
Question: {question}
Answer:"""

SUMMARY = """{memory}

Say in one sentence what stands above. Copy names and numbers exactly.
Summary:"""

Kind = Literal["raw", "summary", "drop"]


@dataclass
class Memory:
    """A block of the text that may stand in the last prompt.

    Attributes:
        block: as it stands.
        kind: how it is remembered.
        summary: one sentence; None where there is none.
    """

    block: Chunk
    kind: Kind = "raw"
    summary: str | None = None

    @property
    def text(self) -> str:
        return {"raw": self.block.text.strip(), "summary": self.summary or "", "drop": ""}[self.kind]


@dataclass(frozen=True)
class SelfControlledMemory(Strategy):
    """A search, and where what it finds is too long, up to three calls for each block, and one for the answer.

    A block's sentence is written when it is needed, as nobody reads the others. What the paper has besides, that the
    turn before always goes along, is for conversations: a text has none.

    Attributes:
        k: blocks that are looked for.
        block: tokens of each at most; 0: 1,000, or a third of the window if that is less.
        memory: tokens of all that is remembered, at most; what the window leaves if that is less.
        by: ``words`` (BM25) or ``vectors`` of an embedding model.
        gate: whether the model is asked first if it needs the text at all, as in the paper; if not, none is read.
    """

    name: ClassVar[str] = "self-controlled-memory"
    k: int = 3
    block: int = 0
    memory: int = MEMORY
    by: Literal["words", "vectors"] = "words"
    gate: bool = False

    def __post_init__(self) -> None:
        for name, value, least in (("k", self.k, 1), ("block", self.block, 0), ("memory", self.memory, 1)):
            if value < least:
                raise UserError(f"{name} is {value}, expected {least} or more")

    async def read(self, model: Model, reading: Reading) -> str:
        most = min(self.memory, room_left(model, reading.last("", PARTS), reading.room, "the last call"))
        if self.gate and await self._needless(model, reading):
            return await answered(model, reading, "(nothing)", NOTES)
        enough = ENOUGH.format(memory="", question=reading.question)
        size = min(most, self.block or min(BLOCK, model.window // 3), room_left(model, enough, VERDICT, "a verdict"))
        blocks = chunks(reading.text, model.spans(reading.text), size)
        found = [Memory(block) for block in blocks]

        def fits() -> bool:
            return len(model.spans(joined(found))) <= most

        if len(blocks) > self.k or not fits():
            found = [found[i] for i in await self._ranked(model, reading.question, blocks)]
        if not fits():
            await self._controlled(model, reading.question, found[1:])
            await shortened(model, found, fits)
        kinds = {one.kind for one in found}
        what = NOTES if "summary" in kinds else WHOLE if len(found) == len(blocks) and kinds == {"raw"} else PARTS
        return await answered(model, reading, joined(found), what)

    async def _needless(self, model: Model, reading: Reading) -> bool:
        said = yes_or_no(await model.ask(NEEDED.format(question=reading.question), VERDICT, "gate"))
        if said is False:
            model.note("the model said that it needs nothing of the text, and answered without it")
        return said is False

    async def _ranked(self, model: Model, question: str, blocks: Sequence[Chunk]) -> list[int]:
        """The ``k`` blocks that are most like the question, the most similar first."""
        scores = await likeness(model, [block.text for block in blocks], question, self.by)
        return [int(i) for i in np.argsort(-scores, kind="stable")[: self.k]]

    async def _controlled(self, model: Model, question: str, found: Sequence[Memory]) -> None:
        """Ask for each block if it is of use, and then if a sentence of it is enough."""

        async def asked(texts: Sequence[str], role: str) -> list[bool | None]:
            prompts = [ENOUGH.format(memory=text, question=question) for text in texts]
            said = [yes_or_no(one) for one in await all_asked(model, prompts, VERDICT, role)]
            if None in said:
                model.note(f"{said.count(None)} of {len(said)} verdicts ({role}) were neither yes nor no: read as yes "
                           "of a block, as no of a sentence")  # fmt: skip
            return said

        raw = await asked([one.text for one in found], "raw verdict")
        useful = [one for one, yes in zip(found, raw, strict=True) if yes is not False]
        prompts = [SUMMARY.format(memory=one.text) for one in useful]
        for one, said in zip(useful, await all_asked(model, prompts, SENTENCE, "summary"), strict=True):
            one.summary = said
        told = [one for one in useful if one.summary]
        enough = await asked([one.summary or "" for one in told], "summary verdict")
        for one, yes in zip(found, raw, strict=True):
            one.kind = remembered(yes, None)
        for one, yes in zip(told, enough, strict=True):
            one.kind = remembered(True, yes)


def remembered(raw: bool | None, summary: bool | None) -> Kind:
    """How a block is remembered when there is not room for all.

    Args:
        raw: whether the block is of use; None where the model did not say.
        summary: whether a sentence of it is enough; None where it did not say, or was not asked.
    """
    if raw is False:
        return "drop"
    return "summary" if summary else "raw"


async def shortened(model: Model, found: Sequence[Memory], fits: Callable[[], bool]) -> None:
    """Make blocks sentences, and then nothing, from the least similar on, until what is left fits.

    It ends: every step takes a block from raw to a shorter sentence, or to nothing.

    Args:
        model: writes the sentences that are missing.
        found: the most similar first.
        fits: whether all of them do, as they now are.
    """
    for one in reversed(found):
        if fits():
            return
        if one.kind == "raw":
            if one.summary is None:
                one.summary = await model.ask(SUMMARY.format(memory=one.text), SENTENCE, "summary")
            one.kind = "summary" if one.summary and len(one.summary) < len(one.text) else "raw"
    for one in reversed(found[1:]):
        if fits():
            return
        one.kind = "drop"


def joined(found: Sequence[Memory]) -> str:
    """What is remembered, as in the text."""
    return BETWEEN.join(one.text for one in sorted(found, key=lambda one: one.block.start) if one.text)


def yes_or_no(said: str | None) -> bool | None:
    """What an answer begins with; None for anything else, and where it says both."""
    match = re.match(r"\W*(yes|no)\b(?! doubt)", said or "", re.IGNORECASE)
    both = len({one.lower() for one in re.findall(r"\b(?:yes|no)\b", said or "", re.IGNORECASE)}) > 1
    return match[1].lower() == "yes" if match and not both else None
