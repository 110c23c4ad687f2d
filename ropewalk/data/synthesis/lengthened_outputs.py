"""Long outputs of a model that writes short ones: what it wrote is the outline of what it writes next (2410.23933)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from ropewalk.backends.chat.answering import Engine, Nonsense
from ropewalk.common.errors import UserError
from ropewalk.data.corpus import Corpus
from ropewalk.data.knots.marks import Marks
from ropewalk.data.synthesis.drawing import Draw, Row, Text, drawn
from ropewalk.data.synthesis.replies import instruction_about
from ropewalk.data.synthesis.synthesis import Written
from ropewalk.tasks.output_length import about, distinct, length_score

INSTRUCTION = """Text:
{chunk}

Think of something long that could be written about the subject of this text: an essay, a story, a report, a guide. Write the instruction for it, in one sentence, without a length.

Reply with the instruction alone."""  # noqa: E501
WRITE = """{instruction}

Reply with the text alone, every paragraph on a line of its own."""
EXTEND = """Task: {instruction}

This is the first half of a draft. Write it anew, much longer: more detail, examples and explanation for every line, nothing said twice. Keep the order. Do not go beyond the end of the draft.

Draft:
{outline}

Reply with the text alone, every paragraph on a line of its own."""  # noqa: E501
GO_ON = """Task: {instruction}

This is a draft, and the beginning of a much longer text that is made of it. Write what follows that beginning, up to the end of the draft: more detail, examples and explanation for every line, nothing said twice.

Draft:
{outline}

Beginning:
{beginning}

Reply with what follows alone, every paragraph on a line of its own."""  # noqa: E501
CHUNK, BRIEF = 512, 128  # tokens of the text that an instruction is about, and of the instruction
ROUNDS, GROWS = 3, 1.2  # of lengthening at most, and times more words that one must give
RUN, DISTINCT = 4, 0.75  # words of a run, and the share of runs that must be different
TOKENS = 3  # that a word may have, with room to spare
SHORTEST = 0.25  # of ``words``: outputs are asked for from there on
ASKS, ANSWERS = "Instruction: {instruction} Write about {words:,} words.\nAnswer:", " {answer}"
SUPPORT = "as long as was asked for, and three quarters of its runs of four words are different"


@dataclass(frozen=True)
class LengthenedOutputs:
    """An instruction about a random chunk, and an output that grows: the first half, then what follows it.

    In a round, the first half of the lines is written anew, longer; the first two thirds of that stay, and the rest is
    written behind them with all lines as the outline. A round that does not give 1.2 times as many words is tried
    again. An output is kept if its length is what the instruction asks for, and if it does not repeat itself, which a
    length alone does not show. No document is in a row; the loss is on the output.

    Attributes:
        engine: that writes.
        rows: how many are made.
        words: of an output at most; how many are asked for is drawn, evenly in the logarithm, from a quarter on.
        draws: at most; by default 4 for every row.
    """

    engine: Engine
    rows: int
    words: int = 2000
    draws: int | None = None

    @property
    def shortest(self) -> int:
        """Tokens that rows may have at least, by any tokenizer."""
        return BRIEF + self.words

    def bounds(self, length: int, begin: int, marks: Marks) -> tuple[int, int]:
        """Tokens of a row at least and at most, in rows of ``length`` tokens that begin with ``begin``.

        Raises:
            UserError: if rows are too short for so many words.
        """
        least = begin + BRIEF + self.words
        if least > length:
            raise UserError(
                f"outputs of {self.words:,} words in rows of {length:,} tokens", "Give a greater --length, or --words."
            )
        return least, length

    def write(self, corpus: Corpus, length: int, marks: Marks, seed: int) -> Written:
        """Rows of up to ``length`` tokens.

        Raises:
            UserError: if rows are too short for so many words, or the engine writes nothing of use.
        """
        begin, room = len(corpus.manifest.begin), int(1.2 * self.words * TOKENS)
        self.bounds(length, begin, marks)
        sizes = np.maximum(corpus.lengths - begin, 0)

        def source(rng: np.random.Generator) -> str:
            document = int(rng.choice(len(sizes), p=sizes / sizes.sum()))
            size = min(CHUNK, int(sizes[document]))
            start = begin + int(rng.integers(int(sizes[document]) - size + 1))
            return marks.decode(corpus.tokens(document, start, start + size).tolist())

        def draw(numbers: range) -> Iterator[Draw]:
            chances = [np.random.default_rng([seed, number]) for number in numbers]
            chunks = [source(rng) for rng in chances]
            wanted = [int(self.words * SHORTEST ** rng.random()) for rng in chances]
            prompts = [INSTRUCTION.format(chunk=one) for one in chunks]
            told = self.engine.answers(prompts, BRIEF, list(map(instruction_about, chunks)))
            there = [i for i, one in enumerate(told) if one is not None]
            first = self.engine.answers([WRITE.format(instruction=told[i]) for i in there], room, str)
            texts = {i: text for i, text in zip(there, first, strict=True) if text is not None}
            instructions = {i: one for i, one in enumerate(told) if one is not None}
            rounds = self._lengthened(texts, instructions, wanted, room)
            for i, words in enumerate(wanted):
                if i not in instructions:
                    yield "no instruction"
                elif i not in texts:
                    yield "no output"
                elif length_score(len(texts[i].split()), *about(words)) < 1:
                    yield "not as long as was asked for"
                elif distinct(texts[i], RUN) < DISTINCT:
                    yield "repeats itself"
                else:
                    asks = Text.of(ASKS.format(instruction=instructions[i], words=words), marks)
                    answer = Text.of(ANSWERS.format(answer=texts[i]), marks, loss=True)
                    yield [Row([asks, answer], f"{words:,} words, {rounds[i]} rounds", [], SUPPORT, [0])]

        return drawn(self.rows, self.draws, draw, corpus, length, marks, engine=self.engine)

    def _lengthened(
        self, texts: dict[int, str], instructions: dict[int, str], wanted: list[int], room: int
    ) -> dict[int, int]:
        """Lengthen texts in their places, as long as they are too short and grow; gives the rounds of each."""
        rounds = dict.fromkeys(texts, 0)
        short = list(texts)
        for _ in range(ROUNDS):
            short = [i for i in short if len(texts[i].split()) < about(wanted[i])[0]]
            halves = {i: first_half(texts[i]) for i in short}
            prompts = [EXTEND.format(instruction=instructions[i], outline=halves[i]) for i in short]
            written = self.engine.answers(prompts, room, [_longer(halves[i]) for i in short])
            begun = {i: two_thirds(text) for i, text in zip(short, written, strict=True) if text is not None}
            prompts = [GO_ON.format(instruction=instructions[i], outline=texts[i], beginning=begun[i]) for i in begun]
            written = self.engine.answers(prompts, room, [_longer(texts[i], begun[i]) for i in begun])
            short = [i for i, text in zip(begun, written, strict=True) if text is not None]
            for i, text in zip(begun, written, strict=True):
                if text is not None:
                    texts[i] = f"{begun[i]}\n{text}"
                    rounds[i] += 1
        return rounds


def first_half(text: str) -> str:
    """The first half of the lines, one at least."""
    lines = _lines(text)
    return "\n".join(lines[: -(-len(lines) // 2)])


def two_thirds(text: str) -> str:
    """The first two thirds of the lines, one at least."""
    lines = _lines(text)
    return "\n".join(lines[: max(2 * len(lines) // 3, 1)])


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _longer(before: str, begun: str = "") -> Callable[[str], str]:
    """Reads what makes a text long enough, with what it begins with."""
    least = GROWS * len(before.split()) - len(begun.split())

    def read(text: str) -> str:
        if len(text.split()) <= least:
            raise Nonsense("not longer than before")
        return "\n".join(_lines(text))

    return read
