"""Sources and targets of one alphabet: what monotonic location attention was tried on (arXiv 2305.20019)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ropewalk.tasks.length_generalization import RUN_LENGTHS, Words, backwards, deduplicated, digits, recopied

COLON, SEMICOLON, NOTHING, EOS = ":", ";", "n/a", "<eos>"
SYMBOLS = (*"0123456789", COLON, SEMICOLON, NOTHING, EOS)

Pair = tuple[Words, Words]  # source and target, whose <eos> is left to who trains


def retrieved(words: Words) -> Words:
    """For each digit, what stands at that place, counted from 0."""
    there = [words[int(word)] if int(word) < len(words) else NOTHING for word in words]
    return [one for word, found in zip(words, there, strict=True) for one in (word, COLON, found, SEMICOLON)]


def repeated(rng: Random, size: int) -> Words:
    """Each of ``size`` digits once, three or five times, at random; equal neighbours merge when read."""
    return [one for one in digits(rng, size) for _ in range(rng.choice(RUN_LENGTHS))]


def _of(answer: Callable[[Words], Words], source: Callable[[Random, int], Words] = digits) -> Callable[..., Pair]:
    def pair(rng: Random, size: int) -> Pair:
        words = source(rng, size)
        return words, answer(words)

    return pair


def _exchanged(made: Callable[..., Pair]) -> Callable[..., Pair]:
    def pair(rng: Random, size: int) -> Pair:
        source, target = made(rng, size)
        return target, source

    return pair


_recopy, _reverse_recopy = _of(recopied), _of(lambda words: backwards(recopied(words)))

REWRITINGS: dict[str, Callable[[Random, int], Pair]] = {  # of a random source of so many digits
    "copy": _of(list),
    "reverse": _of(backwards),
    "recopy": _recopy,
    "reverse_recopy": _reverse_recopy,
    "inverse_recopy": _exchanged(_recopy),
    "inverse_reverse_recopy": _exchanged(_reverse_recopy),
    "deduplicate": _of(deduplicated, repeated),
    "retrieve": _of(retrieved),
}
