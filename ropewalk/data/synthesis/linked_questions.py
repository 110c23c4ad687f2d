"""Multi-hop questions over a graph of similar chunks, each hop in a document of its own (arXiv 2409.01893)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ropewalk.backends.chat.answering import Engine, Nonsense
from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.synthesis.drawing import Draw, Row, Text, drawn
from ropewalk.data.synthesis.replies import holds, plain
from ropewalk.data.synthesis.sieve import sieve_of
from ropewalk.data.synthesis.similarity import Similarity
from ropewalk.data.synthesis.synthesis import Written
from ropewalk.data.synthesis.written_questions import ASKS, ROOM, Question, question_prompt, read_question, unsupported

SOLVE = """Passage:
{passage}

Question: {question}

Answer the question from the passage, with a few words that stand there. Reply with the answer alone."""
MERGE = """Here are questions and their answers. Write one question that can be answered only by somebody who finds the answers to all of them, and that names none of those answers except where a comparison needs no name. Its answer must be one of those answers, or stand in the passage that one of them was taken from, word for word.

Reply with two lines:
Question: ...
Answer: ...

{pairs}"""  # noqa: E501
RATE = """How good is this question, which is to be answered from several documents? 0: it makes no sense. 1: one document answers it, or the answer is wrong. 2: it needs the documents, but is worded badly. 3: it needs the documents, and is clear.

{pairs}

Question: {question}
Answer: {answer}

Reply with one line: "Score: " and the number."""  # noqa: E501
NEIGHBOURS, HOPS, GOOD = 10, 3, 2  # chunks that one is linked with, hops at most, the least score that is kept
SMALLEST, POOL = 64, 50_000  # tokens of a chunk at least, chunks that are searched
BETWEEN, ANSWERS = "\n\n", " {answer}"
SUPPORT = "every hop was answered twice alike, and the answer stands in one of their chunks word for word"


@dataclass(frozen=True)
class LinkedQuestions:
    """Questions about chunks that are neighbours in a graph of similarity, merged into one that needs them all.

    Each filter has a reason of its own in what is counted: what is asked without naming what it is about, what the
    engine answers otherwise when it is asked again, what tells a step, what is not in its evidence, and what it scores
    below 2 of 3. The loss is on the answer alone.

    Attributes:
        engine: that writes, answers and scores.
        rows: how many are made.
        chunk: tokens that it reads at once, and that a piece of a row has.
        least: tokens of a context at least, a quarter of the longest by default; lengths are uniform from there on.
        draws: at most; by default 4 for every row.
        grounded: drop rows that the engine answers without their context.
        robust: drop rows that it does not answer with their context.
    """

    engine: Engine
    rows: int
    chunk: int = 2048
    least: int | None = None
    draws: int | None = None
    grounded: bool = False
    robust: bool = False

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""
        return max(self.least or 1, HOPS * (self.chunk + SMALLEST)) + 2 * ROOM

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of a context at least and at most, in rows of ``length`` tokens that begin with ``begin``.

        Raises:
            UserError: if rows are too short, or ``least`` does not fit them.
        """
        most = length - begin - 2 * ROOM
        least = self.least or max(most // 4, 1)
        if not HOPS * (self.chunk + SMALLEST) <= most or not 0 < least <= most:
            raise UserError(
                f"contexts of {least:,} to {most:,} tokens, where {HOPS} chunks have up to {HOPS * self.chunk:,}",
                "Give a greater --length, a smaller --chunk, or another --least.",
            )
        return least, most

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if the documents are too few, or the engine writes nothing of use.
        """
        begin = len(corpus.manifest.begin)
        least, most = self.bounds(length, begin, marks)
        pool = _chunks(corpus, begin, self.chunk, seed)
        documents = np.array([piece.document for piece in pool])
        if len(np.unique(documents)) < HOPS or sum(piece.tokens for piece in pool) < most:
            raise UserError(
                f"{len(np.unique(documents)):,} documents have chunks, of together "
                f"{sum(piece.tokens for piece in pool):,} tokens; {HOPS} and {most:,} are expected at least",
                "Give more texts, or a smaller --length.",
            )
        texts = [marks.decode(corpus.tokens(one.document, one.start, one.stop).tolist()) for one in pool]
        similar, between = Similarity(texts), Text.of(BETWEEN, marks)

        def path(rng: np.random.Generator) -> list[int]:
            """Chunks of as many documents, each among the nearest to the one before it."""
            found = [int(rng.integers(len(pool)))]
            for _ in range(int(rng.integers(2, HOPS + 1)) - 1):
                ranked = similar.ranked(texts[found[-1]])[0]
                near = ranked[~np.isin(documents[ranked], documents[found])][:NEIGHBOURS]
                found.append(int(rng.choice(near)))
            return found

        def draw(numbers: range) -> Iterator[Draw]:
            chances = {number: np.random.default_rng([seed, number]) for number in numbers}
            paths = {number: path(rng) for number, rng in chances.items()}
            why: dict[int, str] = {}
            hops = self._hops(paths, texts, why)
            merged = self._merged(hops, paths, texts, why)
            for number, rng in chances.items():
                if number in why:
                    yield why[number]
                else:
                    room = int(rng.integers(least, most + 1))
                    chosen = _context(paths[number], merged[number].answers[0], pool, texts, room, between.tokens, rng)
                    yield [_row(merged[number], chosen, paths[number], pool, between, marks)]

        sieve = sieve_of(self.engine, self.grounded, self.robust)
        return drawn(self.rows, self.draws, draw, corpus, length, marks, engine=self.engine, sieve=sieve)

    def _hops(
        self, paths: Mapping[int, list[int]], texts: Sequence[str], why: dict[int, str]
    ) -> dict[int, list[Question]]:
        """A question about each chunk of each path, if all are of use; else the reason goes to ``why``."""
        places = [(number, i) for number, some in paths.items() for i in some]
        asked = self.engine.answers([question_prompt([texts[i]]) for _, i in places], ROOM, read_question)
        hops: dict[int, list[Question]] = {number: [] for number in paths}
        for (number, i), one in zip(places, asked, strict=True):
            if one is None:
                why.setdefault(number, "no question")
            elif reason := unsupported(one, texts[i], [(0, len(texts[i]))]):
                why.setdefault(number, reason)
            else:
                hops[number].append(one)
        left = [(number, i, k) for number, some in paths.items() if number not in why for k, i in enumerate(some)]
        prompts = [SOLVE.format(question=hops[n][k].question, passage=texts[i]) for n, i, k in left]
        for (number, _, k), answer in zip(left, self.engine.answers(prompts, ROOM, str), strict=True):
            if answer is None or not _same(answer, hops[number][k].answers[0]):
                why.setdefault(number, "answered otherwise when asked again")
        return hops

    def _merged(
        self,
        hops: Mapping[int, list[Question]],
        paths: Mapping[int, list[int]],
        texts: Sequence[str],
        why: dict[int, str],
    ) -> dict[int, Question]:
        """One question out of the hops of each path, if it is of use."""
        left = [number for number in hops if number not in why]
        pairs = {number: _pairs(hops[number]) for number in left}
        asked = self.engine.answers([MERGE.format(pairs=pairs[number]) for number in left], ROOM, read_question)
        found: dict[int, Question] = {}
        for number, one in zip(left, asked, strict=True):
            if one is None or len(one.answers) != 1:
                why[number] = "not merged"
            elif any(holds(one.question, hop.answers[0]) for hop in hops[number]):
                why[number] = "the question tells a step"
            elif not any(holds(texts[i], one.answers[0]) for i in paths[number]):
                why[number] = "the answer is not in its evidence"
            else:
                found[number] = one
        rated = [number for number in left if number in found]
        prompts = [
            RATE.format(pairs=pairs[number], question=found[number].question, answer=found[number].answers[0])
            for number in rated
        ]
        for number, score in zip(rated, self.engine.answers(prompts, ROOM, _score), strict=True):
            if score is None:
                why[number] = "not scored"
            elif score < GOOD:
                why[number] = f"scored below {GOOD}"
        return found


def _chunks(corpus: Corpus, begin: int, size: int, seed: int) -> list[Piece]:
    """Documents in pieces, without short rests."""
    wholes = [Piece(d, begin, int(n), loss=False) for d, n in enumerate(corpus.lengths) if n > begin]
    parts = [part for one in wholes for part in one.parted(range(size, one.tokens, size)) if part.tokens >= SMALLEST]
    if len(parts) > POOL:
        kept = np.sort(np.random.default_rng([seed, POOL]).choice(len(parts), POOL, replace=False))
        parts = [parts[i] for i in kept]
    return parts


def _context(
    hops: Sequence[int],
    answer: str,
    pool: Sequence[Piece],
    texts: Sequence[str],
    room: int,
    between: int,
    rng: np.random.Generator,
) -> list[int]:
    """The hops, and as many other chunks that do not hold the answer as there is room for, shuffled."""
    chosen, used = list(hops), {pool[i].document for i in hops}
    left = room - sum(pool[i].tokens + between for i in hops)
    for i in rng.permutation(len(pool)).tolist():
        size = pool[i].tokens + between
        if size <= left and pool[i].document not in used and not holds(texts[i], answer):
            chosen.append(i)
            left -= size
        if left < SMALLEST:
            break
    return [chosen[i] for i in rng.permutation(len(chosen))]


def _row(
    question: Question, chosen: Sequence[int], hops: Sequence[int], pool: Sequence[Piece], between: Text, marks: Marks
) -> Row:
    parts: list[Piece | Text] = []
    for i in chosen:
        parts += [between, pool[i]] if parts else [pool[i]]
    evidence = [2 * list(chosen).index(i) for i in hops]
    asks = Text.of(ASKS.format(question=question.question), marks)
    answer = Text.of(ANSWERS.format(answer=question.answers[0]), marks, loss=True)
    return Row([*parts, asks, answer], f"{len(hops)} hops", evidence, SUPPORT, [len(parts)], question.answers)


def _pairs(hops: Sequence[Question]) -> str:
    numbered = enumerate(hops, 1)
    return "\n\n".join(f"Question {i}: {one.question}\nAnswer {i}: {one.answers[0]}" for i, one in numbered)


def _score(text: str) -> int:
    found = re.findall(r"score:\s*([0-3])\b", text.replace("*", ""), re.IGNORECASE)
    if not found:
        raise Nonsense("no score")
    return int(found[-1])


def _same(one: str, other: str) -> bool:
    """Whether two answers say the same: one holds the other."""
    one, other = plain(one.strip(" .\"'")), plain(other)
    return holds(one, other) or holds(other, one)
