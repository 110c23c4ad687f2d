"""VaL probing: retrieval in three styles of context, each in its own direction (FILM, arXiv 2404.16811).

A database is asked forwards (from an id to what follows it), code backwards (from an inner line to the name before
it), and a document in both directions (from the middle of a sentence to all of it).
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from ropewalk.common.errors import UserError
from ropewalk.tasks.context import SPARE, Question, SharedContext, mentions, pose, records_context
from ropewalk.tasks.names import COLOURS, NOUNS, distinct, thing, town
from ropewalk.tasks.task import Sample
from ropewalk.texts.pieces import TokenUnits

BIN = 50  # records; scores are shown by bins of the asked record's position
SENTENCE_WORDS = range(9, 41)
FUNCTION_LINES = range(3, 16)
KEY_LETTERS = 16  # an inner line that is shorter says too little to be asked for


@dataclass(frozen=True)
class Piece:
    """A record and the question that it answers; its key stands in no other record."""

    record: str
    question: Question


class ValProbe(SharedContext):
    """A context of pieces; facts have the ``position`` of the asked one, and its ``bin``."""

    introduction: str

    def pieces(self, rng: random.Random) -> Iterator[Piece]:
        """Pieces in random order, none twice."""
        raise TypeError(f"{type(self).__name__} has no pieces")

    def ask(self, n_tokens: int, rng: random.Random, units: TokenUnits, depths: list[float]) -> list[Sample]:
        """One piece per depth; all others are distractors.

        Raises:
            UserError: if the material has no pieces.
            TooShort: if ``n_tokens`` does not hold the asked ones.
        """
        pieces = self.pieces(rng)
        asked = list(islice(pieces, len(depths)))
        if not asked:
            raise UserError(
                f"{self.name} has nothing to ask: its material has no piece that a key tells from all others"
            )
        questions = [replace(piece.question, depth=depth) for piece, depth in zip(asked, depths, strict=False)]
        context, at = records_context(
            self.name, n_tokens, units, self.introduction, [piece.record for piece in asked], depths[: len(asked)],
            questions, (piece.record for piece in pieces),
        )  # fmt: skip
        placed = [replace(one, facts={"position": i, "bin": i // BIN}) for one, i in zip(questions, at, strict=True)]
        return pose(context, placed, n_tokens, units)


@dataclass(frozen=True)
class ValDatabase(ValProbe):
    """Forward: the label and the description behind an id."""

    name: str = "val_database"
    scope: str = "small"
    diffusion: str = "high"
    free: bool = True
    introduction = " Below is a database. Each entry has an id, a label and a description."

    def pieces(self, rng: random.Random) -> Iterator[Piece]:
        """Generated entries."""
        for key in distinct(lambda: f"Q{rng.randint(100000, 9999999)}"):
            label, description = thing(rng), f"{rng.choice(COLOURS)} {rng.choice(NOUNS)} from {town(rng)}"
            yield Piece(
                f" <id: {key}, label: {label}, description: {description}>",
                Question(
                    f" What are the label and the description of id {key}? The entry says label:",
                    f"{label}, description: {description}",
                    references=(label, description),
                    spare=SPARE,
                ),
            )

    def solve(self, prompt_text: str) -> str:
        """What follows the asked id."""
        key = re.findall(r"of id (Q\d+)\?", prompt_text)[-1]
        found = re.search(rf"<id: {key}, label: ([^>]*)>", prompt_text)
        return found.group(1) if found else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the label or the description stands in the prediction."""
        return float(any(mentions(prediction, reference) for reference in sample.references))


@dataclass(frozen=True)
class Function:
    """A function of some source code.

    Attributes:
        name: no other function in the collection has it.
        source: with its ``def`` line.
        key: an inner line that stands nowhere else in the collection.
    """

    name: str
    source: str
    key: str


def functions(sources: Iterable[str]) -> tuple[Function, ...]:
    """The short functions of Python modules that an inner line tells from all others."""
    found: dict[str, list[str]] = {}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if (
                isinstance(node, ast.FunctionDef)
                and node.end_lineno
                and node.end_lineno - node.lineno + 1 in FUNCTION_LINES
            ):
                found.setdefault(node.name, []).append(_dedented(source.split("\n")[node.lineno - 1 : node.end_lineno]))
    alone = {name: texts[0] for name, texts in found.items() if len(texts) == 1 and "def " not in texts[0][4:]}
    everything = "\n".join(alone.values())
    return tuple(
        Function(name, text, key)
        for name, text in sorted(alone.items())
        if (key := next((line for line in _inner_lines(text) if everything.count(line) == 1), None))
    )


def _dedented(lines: list[str]) -> str:
    indent = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[indent:] for line in lines)


def _inner_lines(text: str) -> list[str]:
    return [line.strip() for line in text.split("\n")[1:] if len(line.strip()) >= KEY_LETTERS and "`" not in line]


@dataclass(frozen=True)
class ValCode(ValProbe):
    """Backward: the name of the function that has a line.

    Attributes:
        material: what ``functions`` finds, for example in the standard library.
    """

    material: tuple[Function, ...]
    name: str = "val_code"
    scope: str = "small"
    diffusion: str = "high"
    introduction = " Below are Python functions."

    def pieces(self, rng: random.Random) -> Iterator[Piece]:
        """The material's functions, each on lines of its own."""
        for one in rng.sample(self.material, len(self.material)):
            yield Piece(
                f"\n\n{one.source}\n#",
                Question(f" Which of the functions has the line `{one.key}` in it? The function is called", one.name),
            )

    def solve(self, prompt_text: str) -> str:
        """The last name that is defined before the line."""
        context, _, question = prompt_text.rpartition(" Which of the functions has the line `")
        before, found, _ = context.partition(question.rpartition("` in it?")[0])
        names = re.findall(r"def (\w+)", before)
        return names[-1] if found and names else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """1.0 if the name stands in the prediction."""
        return float(mentions(prediction, sample.text))


def sentences(text: str) -> tuple[str, ...]:
    """The plain sentences of a text whose middle stands in no other sentence."""
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text))
    plain = dict.fromkeys(
        one
        for paragraph in paragraphs
        for one in re.findall(r'(?:(?<=^)|(?<=[.!?] ))[A-Z][^.!?"]+\.(?= |$)', paragraph)
    )
    fitting = [one for one in plain if len(one.split()) in SENTENCE_WORDS]
    everything = "\n".join(fitting)
    return tuple(one for one in fitting if everything.count(middle(one)) == 1)


def middle(sentence: str) -> str:
    """The middle third of a sentence's words."""
    words = sentence.split()
    third = len(words) // 3
    return " ".join(words[third : len(words) - third])


@dataclass(frozen=True)
class ValDocument(ValProbe):
    """In both directions: the sentence around its middle third.

    Attributes:
        material: what ``sentences`` finds in some text.
    """

    material: tuple[str, ...]
    name: str = "val_document"
    scope: str = "small"
    diffusion: str = "high"
    free: bool = True
    introduction = " Below is a collection of sentences."

    def pieces(self, rng: random.Random) -> Iterator[Piece]:
        """The material's sentences."""
        for one in rng.sample(self.material, len(self.material)):
            stem = f' One of the sentences has "{middle(one)}" in it. The whole sentence is:'
            yield Piece(f" {one}", Question(stem, one, spare=SPARE))

    def solve(self, prompt_text: str) -> str:
        """The sentence that has the quoted words."""
        context, _, question = prompt_text.rpartition(' One of the sentences has "')
        words = question.partition('" in it.')[0]
        found = re.search(rf"[^.\s][^.]*{re.escape(words)}[^.]*\.", context)
        return found.group() if found else ""

    def score(self, prediction: str, sample: Sample) -> float:
        """The share of the sentence's different words that stand in the prediction."""
        expected = set(re.findall(r"[\w'-]+", sample.text.lower()))
        return len(expected & set(re.findall(r"[\w'-]+", prediction.lower()))) / len(expected)
