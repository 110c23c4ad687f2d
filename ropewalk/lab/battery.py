"""What the lab's decoders learn: rows of bytes of any length, from algorithms, number sequences and source code.

Algorithms and sequences are those of the tasks of the same names, without instructions and examples: a model that is
trained on nothing else needs none.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import islice

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.tasks.length_generalization import ALGORITHMS, largest
from ropewalk.tasks.posgen import KINDS, PosGen, sequence
from ropewalk.texts import builtin

PAD, BEGIN, END, ANSWER = 0, 2, 3, 4  # bytes that no text has
LETTERS = {"even": "e", "odd": "o", "none": "n"}  # else the room that an answer takes would tell it
BETWEEN = {"sort_numbers": " "}  # words; all other algorithms' can be told apart without it
SEQUENCES = {f"posgen_{kind}": kind for kind in KINDS}
TEXT = "text"
DOCUMENTS = 200  # of the standard library, for training
SEED = 0

TITLES = {
    **{name: name.replace("_", " ") for name in ALGORITHMS},
    **{name: f"PosGen, {kind.replace('_', '-')}" for name, kind in SEQUENCES.items()},
    TEXT: "source code, by bytes",
}


@dataclass(frozen=True)
class Drawn:
    """A row of a task.

    Attributes:
        ids: bytes.
        learnt: index of the first one that is learnt.
        asked: index of the first one that is scored.
    """

    ids: list[int]
    learnt: int
    asked: int


def check(task: str) -> None:
    """Refuse a task that is none.

    Raises:
        UserError: naming it.
    """
    if task not in TITLES:
        raise UserError(f"unknown task {task!r}{did_you_mean(task, TITLES)}", f"There are {', '.join(TITLES)}.")


def draw(task: str, tokens: int, rng: random.Random, held_out: bool = False) -> Drawn:
    """A row of ``tokens`` bytes, or the longest one below.

    Args:
        task: one of ``TITLES``.
        tokens: of the row; one that is too short for a problem gets the smallest problem there is.
        rng: all chance comes from it.
        held_out: take texts that no model was trained on.
    """
    if task == TEXT:
        return _text(tokens, rng, held_out)
    if task in SEQUENCES:
        one = PosGen(SEQUENCES[task])
        seeds = [rng.randrange(one.modulus) for _ in range(one.far + one.near)]
        count = max(tokens - 1, len(seeds) + 1)
        row = islice(sequence(one.kind, seeds, one.far, one.modulus), count)
        return Drawn([BEGIN, *(ord("A") + number for number in row)], 1 + len(seeds), count)
    seed = rng.getrandbits(64)
    return _problem(task, largest(lambda size: len(_problem(task, size, seed).ids) <= tokens), seed)


def _problem(task: str, size: int, seed: int) -> Drawn:
    algorithm, between = ALGORITHMS[task], BETWEEN.get(task, "")
    words = algorithm.problem(random.Random(seed), size)
    answer = [LETTERS.get(word, word) for word in algorithm.answer(words)]
    asked, said = ([*between.join(part).encode()] for part in (words, answer))
    first = len(asked) + 2
    return Drawn([BEGIN, *asked, ANSWER, *said, END], first, first)


def _text(tokens: int, rng: random.Random, held_out: bool) -> Drawn:
    documents = [one for one in _documents(held_out) if len(one) >= tokens - 1]
    if not documents:
        raise UserError(f"no text of the standard library has {tokens:,} bytes", "Choose shorter --lengths.")
    document = rng.choice(documents)
    start = rng.randrange(len(document) - tokens + 2)
    return Drawn([BEGIN, *document[start : start + tokens - 1]], 1, 1)


@cache
def _documents(held_out: bool) -> list[bytes]:
    if held_out:
        return [text.encode() for text in builtin.held_out_sources().values()]
    return [text.encode() for text in builtin.library_documents(SEED, DOCUMENTS)]
