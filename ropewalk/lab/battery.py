"""What the lab's decoders learn: rows of bytes of any length, from algorithms, automata, sequences and source code.

Algorithms and sequences are those of the tasks of the same names, without instructions and examples: a model that is
trained on nothing else needs none. Some tasks are learnt from other rows than those that are asked: a few long ones
(priming, arXiv 2306.15400), an easier task beside it (hinting, arXiv 2310.00726), or a column of a sum at a time (arXiv
2406.00075).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import islice

from ropewalk.common.errors import UserError, one_of
from ropewalk.lab.reasoning import REASONING
from ropewalk.lab.regular_languages import LANGUAGES
from ropewalk.tasks.length_generalization import (
    ALGORITHMS,
    Algorithm,
    Words,
    columns,
    digits,
    largest,
    operands,
    summands,
)
from ropewalk.tasks.posgen import KINDS, PosGen, sequence
from ropewalk.texts import builtin

PAD, BEGIN, END, ANSWER = 0, 2, 3, 4  # bytes that no text has
LETTERS = {"even": "e", "odd": "o", "none": "n"}  # else the room that an answer takes would tell it
BETWEEN = {"sort_numbers": " "}  # words; all other algorithms' can be told apart without it
SEQUENCES = {f"posgen_{kind}": kind for kind in KINDS}
STATES = {  # the state of an automaton behind a word; parity is among the algorithms
    f"state_{name.replace(' ', '_')}": language for name, language in LANGUAGES.items() if name != "parity"
}
FIRST = ord("0")  # a symbol or a state is the byte so many behind it
PRIMED = {f"{name}_primed": f"{name}_reversed" for name in ("addition", "multiplication")}
PRIMES, PRIME, SHARE = 50, 2, 1 / 50  # rows there are, how many windows long, and how many of all rows they are
HINTED = {"sort_hinted": "sort"}
BY_COLUMN, TAUGHT = "addition_by_column", 3  # digits of what is learnt: of two, none have a carry above two zeros
TEXT = "text"
DOCUMENTS = 200  # of the standard library, for training
SEED = 0
ASKED = 8  # one problem in so many is asked, and never taught
PATIENCE = 1000  # rows that are drawn for one

TITLES = {
    **{name: name.replace("_", " ") for name in ALGORITHMS},
    "lego": "chains of signs, as LEGO's",
    "multi_hop": "two chains of pointers, several hops",
    "polynomial": "polynomials, modulo 10",
    "scan": "commands, as SCAN's",
    "pcfg": "functions of strings, as PCFG SET's",
    **{name: f"PosGen, {kind.replace('_', '-')}" for name, kind in SEQUENCES.items()},
    **{name: name.replace("_", " ") for name in STATES},
    **{name: f"{base.replace('_', ' ')}, primed with long rows" for name, base in PRIMED.items()},
    **{name: f"{base}, successors beside it" for name, base in HINTED.items()},
    BY_COLUMN: "addition, a column at a time",
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
    one_of("task", task, TITLES)


def successor(words: Words) -> Words:
    """The smallest digit that is larger than the last word."""
    return [min((word for word in words[:-2] if word > words[-1]), default="none")]


def _with_one_of_them(rng: random.Random, size: int) -> Words:
    words = digits(rng, size)
    return [*words, "?", rng.choice(words)]


SUCCESSOR = Algorithm("Write the smallest digit that is larger than the last.", _with_one_of_them, successor)


def taught(task: str, window: int, seed: int, rng: random.Random) -> Drawn:
    """A row to train on: up to a window long, uniformly; those of text are as long.

    Args:
        task: one of ``TITLES``.
        window: bytes of the longest row, but for priming; as many as ``shortest`` at least.
        seed: of the training; the rows of priming are few and depend on it alone.
        rng: all other chance comes from it.
    """
    if task in PRIMED and rng.random() < SHARE:
        return draw(task, PRIME * window, random.Random(f"primed {seed} {rng.randrange(PRIMES)}"))
    tokens = rng.randint(window if task == TEXT else shortest(task), window)
    if task in HINTED and rng.random() < 0.5:
        return _longest(SUCCESSOR, "", tokens, rng)
    return draw(task, tokens, rng)


@cache
def shortest(task: str) -> int:
    """Bytes that hold a smallest problem, whichever it is.

    Raises:
        UserError: if there is no such task.
    """
    check(task)
    if task == TEXT:
        return 2
    if task == BY_COLUMN:
        return max(shortest("addition_reversed"), len(draw(task, 0, random.Random(0)).ids))
    rng = random.Random(0)
    rows = [_drawn(task, 0, rng) for _ in range(PATIENCE)]
    hints = [_longest(SUCCESSOR, "", 0, rng) for _ in range(PATIENCE)] if task in HINTED else []
    return max(len(row.ids) for row in rows + hints)


def asked(task: str, tokens: int, rng: random.Random) -> list[Drawn]:
    """The rows of one problem that is asked: one of ``tokens`` bytes, or, by column, one for each of its columns.

    Raises:
        UserError: if no problem of that length is kept from training, or no text is as long.
    """
    if task != BY_COLUMN:
        return [draw(task, tokens, rng, held_out=True)]
    whole = bytes(draw("addition_reversed", tokens, rng, held_out=True).ids)
    return [_column(*one) for one in columns(*summands([chr(one) for one in whole[1 : whole.index(ANSWER)]], list))]


def _column(a: str, b: str, carry: int, total: int) -> Drawn:
    """Carry and digits, then the digit of the sum and the next carry."""
    return Drawn([BEGIN, *f"{carry}{a}{b}".encode(), ANSWER, *f"{total % 10}{total // 10}".encode(), END], 5, 5)


def draw(task: str, tokens: int, rng: random.Random, held_out: bool = False) -> Drawn:
    """A row of ``tokens`` bytes, or the longest one below.

    Args:
        task: one of ``TITLES``.
        tokens: of the row, as many as ``shortest`` at least.
        rng: all chance comes from it.
        held_out: take what no model is trained on: other texts, and of all other problems the one in eight that is
            asked, which its bytes alone decide.

    Raises:
        UserError: if there is no such problem, or no text of that length.
    """
    if task == BY_COLUMN:
        return _column(*rng.choice(columns(*operands(rng, TAUGHT))))
    if task == TEXT:
        return _text(tokens, rng, held_out)
    for _ in range(PATIENCE):
        row = _drawn(task, tokens, rng)
        if len(row.ids) <= tokens and _is_asked(bytes(row.ids[: row.learnt])) == held_out:
            return row
    raise UserError(
        f"{task} has no row of {tokens:,} bytes that is {'kept from' if held_out else 'left for'} training",
        "Choose longer --lengths." if held_out else "Choose a longer --window.",
    )


def _is_asked(problem: bytes) -> bool:
    return blake2b(problem, digest_size=8).digest()[0] % ASKED == 0


def _drawn(task: str, tokens: int, rng: random.Random) -> Drawn:
    if task in STATES:
        return _state(task, max(tokens - 4, 1), rng)
    task = {**PRIMED, **HINTED}.get(task, task)
    if task in SEQUENCES:
        one = PosGen(SEQUENCES[task])
        seeds = [rng.randrange(one.modulus) for _ in range(one.far + one.near)]
        count = max(tokens - 1, len(seeds) + 1)
        row = islice(sequence(one.kind, seeds, one.far, one.modulus), count)
        return Drawn([BEGIN, *(ord("A") + number for number in row)], 1 + len(seeds), count)
    return _longest({**ALGORITHMS, **REASONING}[task], BETWEEN.get(task, ""), tokens, rng)


def _state(task: str, symbols: int, rng: random.Random) -> Drawn:
    language = STATES[task]
    word = language.sample(rng, symbols)
    state = language.labels_of(word)[-1]
    first = len(word) + 2
    return Drawn([BEGIN, *(FIRST + one for one in word), ANSWER, FIRST + state, END], first, first)


def _longest(algorithm: Algorithm, between: str, tokens: int, rng: random.Random) -> Drawn:
    seed = rng.getrandbits(64)
    return _problem(
        algorithm, between, largest(lambda size: len(_problem(algorithm, between, size, seed).ids) <= tokens), seed
    )


def _problem(algorithm: Algorithm, between: str, size: int, seed: int) -> Drawn:
    words = algorithm.problem(random.Random(seed), size)
    answer = [LETTERS.get(word, word) for word in algorithm.answer(words)]
    problem, said = ([*between.join(part).encode()] for part in (words, answer))
    first = len(problem) + 2
    return Drawn([BEGIN, *problem, ANSWER, *said, END], first, first)


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
