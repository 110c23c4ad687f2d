"""BooookScore's incremental updating (arXiv 2310.00785): one summary that is brought up to date chunk by chunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ropewalk.common.errors import UserError
from ropewalk.workflows.folding import UNREAD, chunks_for, in_turn
from ropewalk.workflows.strategy import NOTES, WHOLE, Model, Reading, Strategy, answered, cut, room_left, tokens_of_last
from ropewalk.workflows.summaries import CHUNK, SUMMARY, fills, whole, words

OVER = 20  # tokens that a summary may have beyond its limit, so that it is seen to be too long

UPDATE = """Summary of a text up to here:
{summary}

The next part of the text:
{chunk}

Write the summary anew, in at most {words} words, so that it covers this part too, for a reader who asks: {question}
Summary:"""

COMPRESS = """{summary}

Say what stands above in about {words} words. Leave out what matters least to a reader who asks: {question}
Summary:"""


@dataclass(frozen=True)
class IncrementalSummary(Strategy):
    """One call for each chunk, one after the other, and one for the answer.

    A summary that outgrows its limit, or has no end, costs two more: the one before it is compressed, and the chunk is
    read again beside that. What has no end even then is cut behind its last whole sentence.

    Attributes:
        chunk: tokens of the text that are read at once, at most; what the window leaves if that is less.
        summary: tokens of the summary at most; a quarter of the window if that is less.
    """

    name: ClassVar[str] = "incremental-summary"
    chunk: int = CHUNK
    summary: int = SUMMARY

    def __post_init__(self) -> None:
        for name, value in (("chunk", self.chunk), ("summary", self.summary)):
            if value < 1:
                raise UserError(f"{name} is {value}, expected at least 1")

    async def read(self, model: Model, reading: Reading) -> str:
        left = room_left(model, reading.last("", NOTES), reading.room, "the last call")
        limit = min(self.summary, model.window // 4, left)

        def prompt(chunk: str, summary: str) -> str:
            return UPDATE.format(
                summary=summary or "(nothing yet)", chunk=chunk.strip(), words=words(limit), question=reading.question
            )

        if len(model.spans(reading.text)) <= min(self.chunk, left):
            return await answered(model, reading, reading.text, WHOLE)
        parts = chunks_for(model, reading.text, prompt, limit + OVER, "update", self.chunk)
        beside = model.count(prompt("", "")) + 2 * (limit + OVER)
        cost = max((part.tokens for part in parts), default=0) + beside
        model.last_takes(tokens_of_last(model, reading, limit))
        summary, endless = "", 0
        for i, part in in_turn(model, parts, beside):
            role, further = f"update {i} of {len(parts)}", 2 + len(parts) - i
            said = await model.ask(prompt(part.text, summary), limit + OVER, role)
            if said and summary and fills(model, said, limit + 2) and model.affordable(further, cost) == further:
                asked = COMPRESS.format(
                    summary=summary, words=max(1, words(limit) * i // len(parts)), question=reading.question
                )
                short = await model.ask(asked, limit + OVER, f"compression {i} of {len(parts)}")
                said = await model.ask(
                    prompt(part.text, whole(model, short or summary, limit + OVER)), limit + OVER, f"{role}, again"
                )
            if said and fills(model, said, limit + 2):
                endless += 1
            summary = whole(model, cut(model, said, limit), limit) if said else summary
        if not summary:
            model.note(UNREAD)
        if endless:
            model.note(f"{endless:,} of {len(parts):,} summaries outgrew {limit:,} tokens: they were cut there")
        return await answered(model, reading, summary, NOTES)
