"""Seven regular languages that recurrences are trained on short words of and tested on long ones (arXiv 2412.19350)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate, permutations
from random import Random
from typing import Any

DIGITS, PLUS, MINUS, TIMES = 5, 5, 6, 7  # symbols of arithmetic; there is an eighth, which no word has
FIVE_CYCLE, TWO_SWAPS = (1, 2, 3, 4, 0), (1, 0, 3, 2, 4)


@dataclass(frozen=True)
class Language:
    """A finite automaton whose state has a label.

    Attributes:
        symbols: of the alphabet, with that of the query where there is one.
        labels: that there are.
        begin: the first state.
        step: the state behind a symbol.
        label: of a state.
        query: one more symbol behind each word, which changes no state.
        sample: a random word of a length, or of one that this language has, one less.
    """

    symbols: int
    labels: int
    begin: Any
    step: Callable[[Any, int], Any]
    label: Callable[[Any], int]
    query: bool
    sample: Callable[[Random, int], list[int]]

    def labels_of(self, word: list[int]) -> list[int]:
        """The label behind each symbol of a word that has no query."""
        return [self.label(state) for state in accumulate(word, self.step, initial=self.begin)][1:]

    def asked(self, rng: Random, length: int) -> tuple[list[int], int]:
        """A random word, with its query, and its label."""
        word = self.sample(rng, length)
        return word + [self.symbols - 1] * self.query, self.labels_of(word)[-1]


def uniform(symbols: int) -> Callable[[Random, int], list[int]]:
    return lambda rng, length: rng.choices(range(symbols), k=length)


def sums(rng: Random, length: int) -> list[int]:
    """Digits with operators between them."""
    word = [rng.choice((PLUS, MINUS, TIMES)) if i % 2 else rng.randrange(DIGITS) for i in range(length)]
    return word[: length - (length % 2 == 0)]


def calculate(state: tuple[int, int, int], symbol: int) -> tuple[int, int, int]:
    """State: what is summed, the product that goes on, and the operator before the next digit."""
    total, term, operator = state
    if symbol >= DIGITS:
        return total, term, symbol
    if operator == TIMES:
        return total, term * symbol % 5, operator
    return (total + term) % 5, (symbol if operator == PLUS else -symbol) % 5, operator


def parity_pairs(state: tuple[int, int], symbol: int) -> tuple[int, int]:
    """State: the first symbol and the last."""
    first, _ = state
    return (symbol if first < 0 else first), symbol


def cyclic(n: int) -> Language:
    """The product of cyclic groups C2 and Cn; at a given length half of its labels occur."""
    return Language(2, 2 * n, (0, 0), lambda s, x: (s[0], (s[1] + 1) % n) if x else (1 - s[0], s[1]),
                    lambda s: n * s[0] + s[1], False, uniform(2))  # fmt: skip


def dihedral(n: int) -> Language:
    """The symmetries of a polygon of ``n`` sides; at a given length half of its labels occur, where ``n`` is even."""
    return Language(2, 2 * n, (0, 0), lambda s, x: (s[0], (s[1] + (-1) ** s[0]) % n) if x else (1 - s[0], s[1]),
                    lambda s: n * s[0] + s[1], False, uniform(2))  # fmt: skip


def even_permutations() -> Language:
    """The group A5, made of a cycle of five and of two swaps; labels count its 60 elements in lexical order."""
    elements = [
        one for one in permutations(range(5)) if sum(a > b for i, a in enumerate(one) for b in one[i:]) % 2 == 0
    ]
    numbers = {one: i for i, one in enumerate(elements)}
    return Language(2, len(elements), tuple(range(5)),
                    lambda s, x: tuple(s[i] for i in (TWO_SWAPS if x else FIVE_CYCLE)), numbers.__getitem__,
                    False, uniform(2))  # fmt: skip


LANGUAGES: dict[str, Language] = {
    "parity": Language(3, 2, 0, lambda s, x: s ^ x, int, True, uniform(2)),
    "even pairs": Language(3, 2, (-1, -1), parity_pairs, lambda s: int(s[0] != s[1]), True, uniform(2)),
    "cycle": Language(4, 5, 0, lambda s, x: (s + x - 1) % 5, int, True, uniform(3)),
    "arithmetic": Language(10, 5, (0, 0, PLUS), calculate, lambda s: (s[0] + s[1]) % 5, True, sums),
    "c2 x c4": cyclic(4),
    "d4": dihedral(4),
    "a5": even_permutations(),
}
