"""Late chunking (arXiv 2409.04701): sentences are found by vectors that an encoder makes of them in their place.

The training-free way to what BGE Landmark Embedding (arXiv 2402.11573) is trained for: the text is encoded first and
cut afterwards, so that a sentence's vector knows what stands around it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.workflows.chunks import Chunk, sentence_chunks
from ropewalk.workflows.selection import in_order, spliced
from ropewalk.workflows.strategy import PARTS, SLACK, WHOLE, Model, Reading, Strategy, answered, room_left

LONGEST = 256  # tokens of a sentence, beyond which it is cut


@dataclass(frozen=True)
class LateChunking(Strategy):
    """One call, and before it one reading of the text by an embedding model that pools by the mean.

    Attributes:
        k: sentences that are most like the question, at most; no more than the window holds.
        around: sentences that are read before and behind each.
    """

    name: ClassVar[str] = "late-chunking"
    k: int = 50
    around: int = 1

    def __post_init__(self) -> None:
        for key, value, least in (("k", self.k, 1), ("around", self.around, 0)):
            if value < least:
                raise UserError(f"{key} is {value}, expected {least} or more")

    @property
    def embeds(self) -> bool:
        return True

    async def read(self, model: Model, reading: Reading) -> str:
        left = room_left(model, reading.last("", PARTS), reading.room, "the last call")
        spans = model.spans(reading.text)
        if len(spans) <= left:
            return await answered(model, reading, reading.text, WHOLE)
        parts = sentence_chunks(reading.text, spans, min(LONGEST, left - SLACK))
        vectors = await model.embed_within(reading.text, [(part.start, part.stop) for part in parts])
        scores = vectors @ (await model.embed([reading.question]))[0]
        kept = self._kept(parts, [int(i) for i in np.argsort(-scores, kind="stable")], left)
        return await answered(model, reading, spliced(in_order(kept)), PARTS)

    def _kept(self, parts: Sequence[Chunk], ranked: Sequence[int], room: int) -> list[Chunk]:
        """The best that differ, with those around them, as many as ``room`` tokens hold; the very best at least."""
        kept, texts = dict[int, None](), set[str]()
        for hit in ranked:
            text = " ".join(parts[hit].text.split())
            if text in texts:
                continue
            wanted = [i for i in range(max(0, hit - self.around), hit + self.around + 1) if i < len(parts)]
            cost = sum(parts[i].tokens for i in wanted if i not in kept) + SLACK
            if cost > room or len(texts) == self.k:
                break
            room -= cost
            texts.add(text)
            kept |= dict.fromkeys(wanted)
        return [parts[i] for i in kept or ranked[:1]]
