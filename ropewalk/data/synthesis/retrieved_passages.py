"""Questions behind what a search finds for them: the passage that answers, among those that only look like it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from ropewalk.backends.chat.answering import Engine
from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.synthesis.drawing import Draw, Row, Text, drawn
from ropewalk.data.synthesis.information_intensive import SEGMENT, segments_of
from ropewalk.data.synthesis.replies import holds
from ropewalk.data.synthesis.sieve import sieve_of
from ropewalk.data.synthesis.similarity import Similarity
from ropewalk.data.synthesis.synthesis import Written
from ropewalk.data.synthesis.written_questions import ASKS, ROOM, question_prompt, read_question, unsupported

POOL = 50_000  # passages that are searched
SEEN, LABEL = "\n\n", "[{number}] "
NAMES, ANSWERS = " Passage [{number}] answers it: {answer}", " {answer}"
LABEL_TOKENS = 12  # that a number before a passage may take
RANK, ENDS, SHUFFLED = "rank", "ends", "shuffled"
SUPPORT = "stands in the evidence word for word, and in no other passage"
T = TypeVar("T")


def best_at_both_ends(ranked: Sequence[T]) -> list[T]:
    """Ranks 1, 3, 5, ..., 6, 4, 2: what is best stands where models look first (arXiv 2410.05983)."""
    return [*ranked[::2], *reversed(ranked[1::2])]


@dataclass(frozen=True)
class RetrievedPassages:
    """A question about a passage, behind that passage and those that are most like the question (arXiv 2410.05983).

    These are hard negatives: what a search by words finds and what does not hold the answer. Passages that hold it
    word for word are left out, so that one alone answers. The loss is on the answer alone.

    Attributes:
        engine: that writes questions.
        rows: how many are made.
        least: tokens of passages at least, a quarter of the longest by default; they are uniform from there on.
        draws: at most; by default 4 for every row.
        passages: their order: ``shuffled``, by ``rank``, or ``ends``: the best at both ends.
        named: whether the answer names the passage first.
        grounded: drop rows that the engine answers without their context.
        robust: drop rows that it does not answer with their context.
    """

    engine: Engine
    rows: int
    least: int | None = None
    draws: int | None = None
    passages: str = SHUFFLED
    named: bool = False
    grounded: bool = False
    robust: bool = False

    def __post_init__(self) -> None:
        if self.passages not in (RANK, ENDS, SHUFFLED):
            hint = did_you_mean(self.passages, (RANK, ENDS, SHUFFLED))
            raise UserError(f"no order of passages {self.passages!r}{hint}", f"There are {RANK}, {ENDS}, {SHUFFLED}.")

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""
        return (self.least or 2 * (SEGMENT + LABEL_TOKENS)) + 2 * ROOM

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of a context at least and at most, in rows of ``length`` tokens that begin with ``begin``.

        Raises:
            UserError: if rows are too short, or ``least`` does not fit them.
        """
        size, most = SEGMENT + LABEL_TOKENS, length - begin - 2 * ROOM
        least = self.least or max(most // 4, 2 * size)
        if not 2 * size <= least <= most:
            raise UserError(
                f"passages of together {least:,} to {most:,} tokens, expected {2 * size} at least",
                f"Give a greater --length, such as {8 * size + 2 * ROOM:,}, or another --least.",
            )
        return least, most

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if the documents have too few passages, or the engine writes nothing of use.
        """
        begin, size = len(corpus.manifest.begin), SEGMENT + LABEL_TOKENS
        least, most = self.bounds(length, begin, marks)
        every = segments_of(corpus.lengths, begin)
        rng = np.random.default_rng([seed, POOL])
        pool = every if len(every) <= POOL else every[np.sort(rng.choice(len(every), POOL, replace=False))]
        if len(pool) < most // size:
            raise UserError(
                f"the texts have {len(pool):,} passages of {SEGMENT} tokens, and a row takes {most // size:,}",
                "Give more texts, or a smaller --length.",
            )
        pieces = [Piece(int(d), int(s), int(s) + SEGMENT, loss=False) for d, s in pool]
        texts = [marks.decode(corpus.tokens(one.document, one.start, one.stop).tolist()) for one in pieces]
        similar = Similarity(texts)

        def draw(numbers: range) -> Iterator[Draw]:
            chances = [np.random.default_rng([seed, number]) for number in numbers]
            golds = [int(rng.integers(len(pool))) for rng in chances]
            asked = self.engine.answers([question_prompt([texts[gold]]) for gold in golds], ROOM, read_question)
            for rng, gold, one in zip(chances, golds, asked, strict=True):
                if one is None:
                    yield "no question"
                    continue
                if why := unsupported(one, texts[gold], [(0, len(texts[gold]))]):
                    yield why
                    continue
                question, (answer,) = one.question, one.answers
                count = int(rng.integers(least, most + 1)) // size
                ranked = [int(i) for i in similar.ranked(question)[0]]
                negatives: list[int] = []
                for i in ranked:
                    if len(negatives) == count - 1:
                        break
                    if i != gold and not holds(texts[i], answer):
                        negatives.append(i)
                if len(negatives) < count - 1:
                    yield "the answer stands in too many passages"
                    continue
                chosen = {gold, *negatives}
                yield [self._row([i for i in ranked if i in chosen], gold, question, answer, pieces, marks, rng)]

        sieve = sieve_of(self.engine, self.grounded, self.robust)
        return drawn(self.rows, self.draws, draw, corpus, length, marks, engine=self.engine, sieve=sieve)

    def _row(
        self,
        ranked: list[int],
        gold: int,
        question: str,
        answer: str,
        pieces: Sequence[Piece],
        marks: Marks,
        rng: np.random.Generator,
    ) -> Row:
        rank = ranked.index(gold) + 1
        if self.passages == ENDS:
            order = best_at_both_ends(ranked)
        else:
            order = ranked if self.passages == RANK else rng.permutation(ranked).tolist()
        place = order.index(gold)
        parts: list[Piece | Text] = []
        for number, i in enumerate(order, 1):
            parts += [Text.of((SEEN if parts else "") + LABEL.format(number=number), marks), pieces[i]]
        target = (NAMES if self.named else ANSWERS).format(number=place + 1, answer=answer)
        parts += [Text.of(ASKS.format(question=question), marks), Text.of(target, marks, loss=True)]
        kind = f"{len(order)} passages, rank {rank} answers"
        return Row(parts, kind, [2 * place + 1], SUPPORT, [len(parts) - 2], [answer])
