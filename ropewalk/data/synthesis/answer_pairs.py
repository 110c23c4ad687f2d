"""LongPO: a model's answer to short evidence beside its answer to the whole text (arXiv 2502.13922)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from ropewalk.backends.chat.answering import Engine
from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.knots.row_builder import Piece
from ropewalk.data.pairs import PAIRS_WANTED, ROWS
from ropewalk.data.synthesis.drawing import END, Draw, Row, Text, drawn
from ropewalk.data.synthesis.information_intensive import QUOTE, SEGMENT, asked_of, once, segments_of
from ropewalk.data.synthesis.replies import plain
from ropewalk.data.synthesis.synthesis import WANTED, Written

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTIONS = {
    "forward": "\n\nWhat comes right after this passage in the text above? Copy fifteen words, nothing else.\n",
    "backward": "\n\nWhat comes right before this passage in the text above? Copy fifteen words, nothing else.\n",
}
ASKS, ANSWERS = "\nAnswer:", " {answer}"  # of a tokenizer without a chat template
CONTENT = "CONTENT"  # for a user's words in a template
ROOM = 128  # tokens of an answer
HALF = 0.5  # of the words that stand there, which a chosen answer has in one run
TRIED = 8  # prompts with the shortest contexts, of which an engine's window has to hold one
SEGMENTS = 4  # of a context at least


@dataclass(frozen=True)
class AnswerPairs:
    """A question about segments of 128 tokens, and two answers of the model that is to be trained on them.

    It is asked twice: with the segment alone that the question is about, and with all of them. A pair is kept if the
    first answer gives half of the words that stand there in one run, more than the other one does. So the question is
    what stands beside a quote, which nobody has to judge. Each pair is four rows, as ``Pairs`` has them, in the
    tokenizer's chat template if there is one.

    Attributes:
        engine: that answers; the model that is to be trained.
        rows: pairs that are made.
        least: tokens of a context at least, a quarter of ``length`` by default, or four segments; lengths are uniform
            from there on.
        draws: at most; by default 4 for every pair.
    """

    engine: Engine
    rows: int
    least: int | None = None
    draws: int | None = None

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""
        return (self.least or SEGMENTS * SEGMENT) + QUOTE + ROOM

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of a context at least and at most, in rows of ``length`` tokens that begin with ``begin``.

        Raises:
            UserError: if rows are too short, or ``least`` does not fit them.
        """
        before, after = _turn(self.engine.tokenizer, bool(begin))
        question = max(len(marks.encode(text)) for text in QUESTIONS.values())
        furniture = len(marks.encode(before)) + question + QUOTE + len(marks.encode(after or ASKS)) + ROOM + END
        least, most = self.least or max(length // 4, SEGMENTS * SEGMENT), length - begin - furniture
        if not SEGMENTS * SEGMENT <= least <= most:
            raise UserError(
                f"contexts of {least:,} to {most:,} tokens, in segments of {SEGMENT}; expected {SEGMENTS} a context at "
                "least",
                "Give a greater --length, or another --least.",
            )
        return least, most

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if the documents have too few segments, the engine's window holds no context, or no pair is
                kept.
        """
        begin = len(corpus.manifest.begin)
        before, after = _turn(self.engine.tokenizer, bool(begin))
        opens = [Text.of(before, marks)] if before else []
        questions = {name: Text.of(text, marks) for name, text in QUESTIONS.items()}
        asks = Text.of(after or ASKS, marks)
        (least, most), segments = self.bounds(length, begin, marks), segments_of(corpus.lengths, begin)
        if len(segments) < most // SEGMENT:
            raise UserError(
                f"the texts have {len(segments):,} segments of {SEGMENT} tokens, and a row takes {most // SEGMENT:,}",
                "Give more texts, or a smaller --length.",
            )

        def text(parts: Sequence[Piece | Text]) -> str:
            """Of all ids at once: some tokenizers strip a blank of what they decode."""
            ids = (one.ids if isinstance(one, Text) else corpus.tokens(one.document, one.start, one.stop).tolist()
                   for one in parts)  # fmt: skip
            return marks.decode([*chain.from_iterable(ids)])

        def question(number: int, most: int = most) -> tuple[str, list[Piece], int, Piece, str]:
            """Direction, segments, the one that is asked about, quote, and what stands beside it."""
            rng = np.random.default_rng([seed, number])
            count = int(rng.integers(least, most + 1)) // SEGMENT
            chosen = segments[rng.choice(len(segments), count, replace=False)]
            context = [Piece(int(d), int(s), int(s) + SEGMENT, loss=False) for d, s in chosen]
            place, direction = int(rng.integers(count)), str(rng.choice(list(QUESTIONS)))
            quote, parts = asked_of(context[place], direction, rng, corpus, marks.decode)
            return direction, context, place, quote, text(parts)

        def prompt(context: Sequence[Piece], direction: str, quote: Piece) -> str:
            """What a row has before the answer; a template says itself what stands around a user's words."""
            whole = text([*opens, *context, questions[direction], quote, *([] if after else [asks])])
            return whole[len(text(opens)) :]

        shortest = [question(number, least) for number in range(TRIED)]
        prompts = [prompt(some, direction, quote) for direction, some, _, quote, _ in shortest]
        self.engine.require_room(prompts, ROOM, length)

        def draw(numbers: range) -> Iterator[Draw]:
            asked = [question(number) for number in numbers]
            short = [prompt([some[place]], direction, quote) for direction, some, place, quote, _ in asked]
            whole = [prompt(some, direction, quote) for direction, some, _, quote, _ in asked]
            answers = self.engine.answers([*short, *whole], ROOM, str)
            for one, chosen, rejected in zip(asked, answers, answers[len(asked) :], strict=False):
                direction, some, place, quote, truth = one
                if chosen is None or rejected is None:
                    yield f"no answer to the {'evidence' if chosen is None else 'whole text'}"
                elif why := _useless(chosen, rejected, truth):
                    yield why
                elif not once(text(some), text([quote])):
                    yield "the quote stands twice in the context"
                else:
                    said = {
                        name: Text.of(answer if after else ANSWERS.format(answer=answer), marks, loss=True)
                        for name, answer in (("chosen", chosen), ("rejected", rejected))
                    }
                    support = f"{share(chosen, truth):.0%} of what stands there in one run; the other answer "
                    support += f"{share(rejected, truth):.0%}"
                    yield [
                        Row([*opens, *context, questions[direction], quote, asks, answer],
                            f"{direction}, {name}, {what}", [len(opens) + at], support,
                            range(len(opens) + len(context), len(opens) + len(context) + 3))
                        for what, context, at in (("whole text", some, place), ("evidence", [some[place]], 0))
                        for name, answer in said.items()
                    ]  # fmt: skip

        draws = self.draws or 4 * self.rows
        made = drawn(ROWS * self.rows, draws, draw, corpus, length, marks, ROWS, self.engine)
        told = {name: number for name, number in made.told.items() if name != WANTED}
        return replace(made, told={PAIRS_WANTED: self.rows, **told})


def share(answer: str, truth: str) -> float:
    """How much of the words that stand there an answer has in one run, 0 to 1."""
    theirs, words = plain(answer).split(), plain(truth).split()
    run = SequenceMatcher(None, theirs, words, autojunk=False).find_longest_match()
    return run.size / max(len(words), 1)


def _useless(chosen: str, rejected: str, truth: str) -> str:
    """Why two answers are no pair; empty if they are one."""
    if chosen == rejected:
        return "one answer to both"
    if share(chosen, truth) < HALF:
        return "the answer to the evidence is not what stands there"
    if share(rejected, truth) >= share(chosen, truth):
        return "the answer to the whole text is as good"
    return ""


def _turn(tokenizer: PreTrainedTokenizerBase, begun: bool) -> tuple[str, str]:
    """What stands before a user's words, and behind them; empty without a chat template.

    Args:
        tokenizer: of the model that answers.
        begun: whether rows begin with BOS, which a template then need not say.
    """
    if tokenizer.chat_template is None:
        return "", ""
    turns = [{"role": "user", "content": CONTENT}]
    whole = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    before, _, after = whole.partition(CONTENT)
    bos = tokenizer.bos_token if begun else None
    return before.removeprefix(str(bos or "")), after
