"""XL3M (arXiv 2405.17755): the segments behind which the model is surest of its answer, in order, as one text."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import ClassVar

from ropewalk.backends.chat.chat import NO_CERTAINTY, Prompt
from ropewalk.common.errors import UserError
from ropewalk.workflows.chunks import chunks
from ropewalk.workflows.folding import within_budget
from ropewalk.workflows.selection import fitting, in_order, spliced
from ropewalk.workflows.strategy import PARTS, SLACK, WHOLE, Model, Reading, Strategy, answered, room_left
from ropewalk.workflows.trace import together

SEGMENT = 1024  # tokens; of a small window, a quarter
FIRST = "{segment}\n\nA first answer, by other parts of the text: {answer}"


@dataclass(frozen=True)
class XL3M(Strategy):
    """A certainty for each segment, all at the same time, and one call for the answer.

    How sure the model is, is minus the entropy of the first token of its answer to the question behind the segment.
    Without log-probabilities of the whole vocabulary, it is a bound, which the notes say.

    Attributes:
        segment: tokens of each at most; 0: 1,024, or a quarter of the window if that is less.
        rounds: of all segments; from the second, what the round before answered stands before the question, for
            questions whose evidence says what further evidence is about.
        ends: whether the first and the last segment are kept, however sure the model is.
    """

    name: ClassVar[str] = "xl3m"
    segment: int = 0
    rounds: int = 1
    ends: bool = False

    def __post_init__(self) -> None:
        if self.segment < 0 or self.rounds < 1:
            key, value, least = ("segment", self.segment, 0) if self.segment < 0 else ("rounds", self.rounds, 1)
            raise UserError(f"{key} is {value}, expected {least} or more")

    async def read(self, model: Model, reading: Reading) -> str:
        spans = model.spans(reading.text)
        again = self.rounds > 1
        bare = reading.last(FIRST.format(segment="", answer="") if again else "", PARTS)
        left = room_left(model, bare, reading.room * (1 + again), "the last call")
        size = min(self.segment or min(SEGMENT, model.window // 4), max(1, left // 2 - SLACK) if self.ends else left)
        if len(spans) <= left:
            return await answered(model, reading, reading.text, WHOLE)
        parts = chunks(reading.text, spans, size)
        beside = model.count(bare) + reading.room * again + 1
        asked = within_budget(model, parts, beside, lambda n: self.rounds * n, "weighed")
        ends = {parts[0], parts[-1]} if self.ends else set()
        ranked, said = parts, ""
        for i in range(1, self.rounds + 1):
            told = await together(
                *(
                    model.certainty(self._prompt(reading, part.text, said), f"segment {j} of {len(asked)}, round {i}")
                    for j, part in enumerate(asked, 1)
                )
            )
            sure = {part: value for part, value in zip(asked, told, strict=True) if value is not None}
            if asked and not sure and i == 1:
                raise UserError(f"{len(asked)} segments were to be weighed, and none was", NO_CERTAINTY)
            ranked = sorted(ranked, key=lambda part: (part not in ends, -sure.get(part, -inf)))
            context = spliced(in_order(fitting(ranked, left)))
            if i < self.rounds:
                said = await model.ask(reading.last(context, PARTS), reading.room, f"answer {i}") or ""
            if not said:
                break
        return await answered(model, reading, context, PARTS)

    def _prompt(self, reading: Reading, segment: str, said: str) -> Prompt:
        return reading.last(FIRST.format(segment=segment.strip(), answer=said) if said else segment, PARTS)
