"""Finding the text that answers a question among others of the same length (LongEmbed, arXiv 2404.12096)."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.encoders.retrieval.pairs_of_trivia import PAIRS
from ropewalk.texts.builtin import topics

FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
FIRST = (
    "Sky Cesar Nora Elias Tamara Ingrid Hugo Priya Marcus Leila Owen Freya Dmitri Alma Kenji Rosa Felix Amara Jonas "
    "Yara Silas Mei Victor Hanna Omar Greta Luca Zora Pavel Iris Tobias Nadia Rufus Clara Bruno Esther Anton Vera Milo "
    "Judith"
).split()
LAST = (
    "Morrow McLean Alvarez Whitfield Okafor Lindqvist Tanaka Bergman Castillo Novak Hathaway Petrov Grant Moreau "
    "Schmidt Delgado Rossi Abernathy Kowalski Fontaine Iverson Nakamura Quinn Barlow Haddad Sorensen Vance Chowdhury "
    "Beaumont Stark Ellison Kuznetsov Mbeki Larkin Pereira Winslow Zhang Holloway Dubois Ferrara"
).split()
SHARED = 8  # first names, and last names, of people in short texts; every pair is a person
MOST = 10  # ranks that nDCG@10 looks at
Tokenise = Callable[[str], list[int]]


class TooShort(ValueError):
    """A text of that length does not hold what has to stand in it."""


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Texts, and questions that one of them answers.

    Attributes:
        task: name.
        length: tokens of each text, those around it among them; 0 where texts are as long as they are.
        documents: token ids, without those around a text.
        questions: in words.
        answers: of each question, the indices of texts that answer it.
        depths: of each question, where its answer stands in the text, 0 to 1; None where that is not known.
    """

    task: str
    length: int
    documents: Sequence[Sequence[int]]
    questions: Sequence[str]
    answers: Sequence[frozenset[int]]
    depths: Sequence[float | None]

    @cached_property
    def relevant(self) -> NDArray[np.bool_]:
        """Which texts answer: bool [questions, documents]."""
        found = np.zeros((len(self.questions), len(self.documents)), bool)
        for i, own in enumerate(self.answers):
            found[i, list(own)] = True
        return found


def passkeys(tokenise: Tokenise, length: int, around: int, seed: int = 0, n: int = 64) -> Retrieval:
    """A name and a number in repeated sentences; the question asks for the number of one name.

    Args:
        tokenise: text to ids, without those around it.
        length: tokens of each text, with those around it.
        around: of these.
        seed: of the draw.
        n: texts, and questions.

    Raises:
        TooShort: if the sentence is longer than that.
    """
    rng = random.Random(seed)
    names = rng.sample([f"{first} {last}" for first in FIRST for last in LAST], n)
    filler = tokenise(FILLER)
    documents, depths = [], []
    for name in names:
        key = rng.randint(10000, 99999)
        span = tokenise(f"{name}'s passkey is {key}. Remember it. {key} is the passkey for {name}.")
        depth = rng.random()
        at, room = _place(depth, length - around - len(span))
        documents.append([*_repeated(filler, at), *span, *_repeated(filler, room - at)])
        depths.append(depth)
    asked = [f"What is the pass key for {name}?" for name in names]
    return Retrieval("passkey", length, documents, asked, [frozenset({i}) for i in range(n)], depths)


def needles(
    tokenise: Tokenise, length: int, around: int, seed: int = 0, n: int = len(PAIRS), alike: bool = True
) -> Retrieval:
    """A sentence in English prose, the same prose in all texts; the question asks for what the sentence says.

    Args:
        tokenise: text to ids, without those around it.
        length: tokens of each text, with those around it.
        around: of these.
        seed: of the draw.
        n: texts, and questions, ``len(PAIRS)`` at most.
        alike: the prose is the same in all texts; else each begins elsewhere, and its subject outweighs the sentence.

    Raises:
        TooShort: if a sentence is longer than that.
    """
    if n > len(PAIRS):
        raise UserError(f"there are {len(PAIRS)} needles, and {n} are asked for", f"Ask for {len(PAIRS)} at most.")
    rng = random.Random(seed)
    prose = tokenise(haystack())
    pairs = rng.sample(PAIRS, n)
    documents, depths = [], []
    for _, fact in pairs:
        span = tokenise(fact)
        start = 0 if alike else rng.randrange(len(prose))
        depth = rng.random()
        at, room = _place(depth, length - around - len(span))
        text = _repeated(prose[start:] + prose[:start], room)
        documents.append([*text[:at], *span, *text[at:]])
        depths.append(depth)
    name = "needle" if alike else "needle-in-other-prose"
    asked = [question for question, _ in pairs]
    return Retrieval(name, length, documents, asked, [frozenset({i}) for i in range(n)], depths)


def short_texts(tokenise: Tokenise, length: int = 0, around: int = 0, n: int = 64) -> Retrieval:
    """Sentences about people who share first names and last names, for what an extension costs where texts are short.

    Args:
        tokenise: text to ids, without those around it.
        length: tokens of each text, with those around it: the sentence stands in English prose, the same in all texts;
            0: it stands alone.
        around: of these.
        n: texts, and questions, 64 at most.

    Raises:
        TooShort: if a sentence is longer than that.
    """
    people = [f"{first} {last}" for first in FIRST[:SHARED] for last in LAST[:SHARED]][:n]
    documents = [tokenise(f"{name}'s passkey is {10000 + 1237 * i}.") for i, name in enumerate(people)]
    if length:
        rng, prose = random.Random(0), tokenise(haystack())
        placed = [_place(rng.random(), length - around - len(span)) for span in documents]
        texts = [_repeated(prose, room) for _, room in placed]
        documents = [
            [*text[:at], *span, *text[at:]] for text, span, (at, _) in zip(texts, documents, placed, strict=True)
        ]
    own = [frozenset({i}) for i in range(len(people))]
    asked = [f"What is the pass key for {name}?" for name in people]
    return Retrieval("short", length, documents, asked, own, [None] * len(people))


def haystack() -> str:
    """English prose of about 420,000 letters: Python's language reference, without its marks."""
    words = re.sub(r"""[^A-Za-z0-9 .,;:'"()-]""", " ", topics())
    return " ".join(words.split())


def similarities(questions: NDArray[np.float32], documents: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """float32 [questions, documents]: cosines; of a text with several vectors, the nearest one's.

    Args:
        questions: float32 [questions, e], of length 1.
        documents: of each text, float32 [k, e], of length 1.
    """
    ends = np.cumsum([0, *map(len, documents)])[:-1]
    return np.asarray(np.maximum.reduceat(questions @ np.concatenate(list(documents)).T, ends, axis=1), np.float32)


def first_right(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 [questions]: accuracy@1, 1 where the nearest text answers; a tie is shared out among those in it."""
    best = scores >= scores.max(1, keepdims=True)
    return np.asarray((best & relevant).sum(1) / best.sum(1), np.float64)


def ndcg(scores: NDArray[np.float32], relevant: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 [questions]: nDCG@10; among equal scores, texts that do not answer come first."""
    found = []
    for own, right in zip(scores, relevant, strict=True):
        order = np.lexsort((right, -own))[:MOST]
        gained = sum(1 / math.log2(rank + 2) for rank, i in enumerate(order) if right[i])
        ideal = sum(1 / math.log2(rank + 2) for rank in range(min(MOST, int(right.sum()))))
        found.append(gained / ideal)
    return np.asarray(found)


TASKS: Mapping[str, Callable[..., Retrieval]] = {"passkey": passkeys, "needle": needles}


def _place(depth: float, room: int) -> tuple[int, int]:
    """Where in so many tokens of filler something stands, and the room."""
    if room < 0:
        raise TooShort(f"{-room} tokens are missing")
    return int(depth * room), room


def _repeated(tokens: Sequence[int], n: int) -> list[int]:
    times = -(-n // len(tokens))
    return (list(tokens) * times)[:n]
