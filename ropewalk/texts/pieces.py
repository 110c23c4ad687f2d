"""Text pieces as token ids, so that prompts are assembled by integer arithmetic and lengths are exact."""

from __future__ import annotations

from itertools import chain, cycle, islice
from typing import TYPE_CHECKING

from ropewalk.texts.documents import token_ids
from ropewalk.texts.opening import opening

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# A token sequence has to start somewhere; pieces are tokenised behind this anchor so that a leading space
# means the same thing for byte-level and for SentencePiece tokenizers (which add a space of their own).
ANCHOR = "."
KEPT = 200_000  # pieces whose tokens are kept; records that occur once would fill the memory


class TokenUnits:
    """Token ids of short texts, tokenised once each.

    Every piece should begin with a space: then pieces can be joined in any order without merging across the join.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        self.bos = opening(tokenizer)
        self._anchor = token_ids(ANCHOR, tokenizer)
        self._cache: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        """Ids of ``text`` as it reads in the middle of a document (no special tokens)."""
        if text not in self._cache:
            if len(self._cache) >= KEPT:
                self._cache.clear()
            whole = token_ids(ANCHOR + text, self.tokenizer)
            anchored = whole[: len(self._anchor)] == self._anchor
            self._cache[text] = whole[len(self._anchor) :] if anchored else token_ids(text, self.tokenizer)
        return self._cache[text]

    def answer(self, stem: str, answer: str) -> list[int]:
        """Ids that follow ``stem`` when ``stem + answer`` is tokenised as one text."""
        before, both = self.ids(stem), token_ids(ANCHOR + stem + answer, self.tokenizer)[len(self._anchor) :]
        return both[len(before) :] if both[: len(before)] == before else self.ids(answer)

    def filler(self, units: tuple[str, ...], n_tokens: int) -> list[int]:
        """The first ``n_tokens`` ids of the endless repetition of ``units``."""
        return list(islice(cycle(chain.from_iterable(self.ids(unit) for unit in units)), n_tokens))

    def filler_break(self, units: tuple[str, ...], n_tokens: int) -> int:
        """The largest position <= ``n_tokens`` of that repetition at which a unit ends."""
        lengths = [len(self.ids(unit)) for unit in units]
        position, rest = divmod(n_tokens, sum(lengths))
        position *= sum(lengths)
        for length in lengths:
            if length > rest:
                break
            position, rest = position + length, rest - length
        return position

    def decode(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))
