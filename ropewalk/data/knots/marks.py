"""Short texts that are put between pieces of documents: they are documents themselves, without a loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
SIGNS = 6  # of an id


@dataclass
class Marks:
    """Marks, numbered behind the documents that they stand between.

    Attributes:
        encode: from a text to its ids, without what texts begin with.
        first: the number of the first mark.
        decode: from ids to their text; who makes no text out of documents needs none.
        end: sign and id of the token that ends an answer; None where the tokenizer has none.
        ids: of each mark.
        texts: of each mark.
    """

    encode: Callable[[str], list[int]]
    first: int
    decode: Callable[[Sequence[int]], str] = repr
    end: tuple[str, int] | None = None
    ids: list[list[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def add(self, text: str) -> tuple[int, int]:
        """The number of a new mark, and its tokens."""
        return self.put(text, self.encode(text))

    def put(self, text: str, ids: list[int]) -> tuple[int, int]:
        """The same for a text whose ids are known."""
        self.ids.append(ids)
        self.texts.append(text)
        return self.first + len(self.ids) - 1, len(ids)

    def forget(self, first: int) -> None:
        """Take back marks from a number on, which no row has room for."""
        del self.ids[first - self.first :], self.texts[first - self.first :]


def sign(rng: np.random.Generator) -> str:
    """An id that nobody has: six letters and digits."""
    return "".join(rng.choice(list(LETTERS), SIGNS))
