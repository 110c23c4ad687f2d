"""Semantic compression (arXiv 2312.09571): topics of a text are found, each made shorter, and all are read at once."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from ropewalk.common.errors import UserError
from ropewalk.common.extras import extra
from ropewalk.workflows.chunks import Chunk, chunks, sentences
from ropewalk.workflows.strategies.retrieval import BETWEEN
from ropewalk.workflows.strategy import NOTES, WHOLE, Model, Reading, Strategy, all_asked, answered, cut, room_left
from ropewalk.workflows.summaries import whole, words
from ropewalk.workflows.word_vectors import vectors_of

RATIO = 1 / 6
NEIGHBOURS = 8  # most similar blocks that a block is linked to, besides the ones before and behind it
NEXT = 0.1  # what links of those two weigh more
LEAST = 24  # tokens of a topic, where there are as many
SHORTEST = 8  # tokens of a summary; with room for less, or for all, no model is asked
NUMBER = re.compile(r"(?:(?<!\w)[-+\u2212])?[$€£¥]?\d(?:[\w.,:/-]*\w)?(?: ?[%€$£¥])?")
CAPITAL = "".join(sign for sign in map(chr, range(0x530)) if sign.isupper())  # Latin, Greek and Cyrillic
NAME = re.compile(rf"\b[{CAPITAL}][\w'’-]+(?: [{CAPITAL}][\w'’-]+)*")
LISTED = 0.25  # share of what the window leaves, for what is kept word for word

PROMPT = """{part}

Say what stands above in at most {words} words. Keep what is said, leave out what is said twice, and copy names and \
numbers exactly.
Summary:"""


@dataclass(frozen=True)
class SemanticCompression(Strategy):
    """One call for each topic of the text, side by side, and one for the answer.

    Attributes:
        ratio: of what is left, in tokens; less where the window does not hold that.
        block: sentences that belong together.
        by: how blocks are compared: ``words`` (TF-IDF) or ``vectors`` of an embedding model.
        write: ``model``: summaries of topics; ``sentences``: those of each topic that are most like all of it, which
            takes no calls.
        verbatim: whether numbers, with the names beside them, are listed below, as summaries lose them.
    """

    name: ClassVar[str] = "semantic-compression"
    ratio: float = RATIO
    block: int = 5
    by: Literal["words", "vectors"] = "words"
    write: Literal["model", "sentences"] = "model"
    verbatim: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise UserError(f"ratio is {self.ratio}, expected above 0, and 1 at most")
        if self.block < 1:
            raise UserError(f"block is {self.block}, expected 1 or more")

    async def read(self, model: Model, reading: Reading) -> str:
        tokens = len(model.spans(reading.text))
        left = room_left(model, reading.last("", NOTES), reading.room, "the last call")
        if tokens <= left:
            return await answered(model, reading, reading.text, WHOLE)
        listed = shown(model, verbatim(reading.text), int(LISTED * left), "the list") if self.verbatim else ""
        left -= len(model.spans(listed))
        short = await self.compressed(model, reading.text, min(self.ratio, left / tokens))
        context = BETWEEN.join(one for one in (shown(model, short, left, "the summaries"), listed) if one)
        return await answered(model, reading, context, NOTES)

    async def compressed(self, model: Model, text: str, ratio: float) -> str:
        """At most that share of the tokens of a text, in its order; the text itself for 1."""
        if ratio >= 1:
            return text
        size = room_left(model, PROMPT.format(part="", words=0), model.window // 4, "the prompt of a summary")
        said = [part for one in sentences(text) for part in chunks(one, model.spans(one), size)]
        parts = await self._parts(model, said, size)
        tokens = [sum(said[i].tokens for i in part) for part in parts]
        target, between = int(ratio * len(model.spans(text))), len(BETWEEN) * len(parts)
        asks = self.write == "model" and target >= SHORTEST * len(parts) + between
        if self.write == "model" and not asks:
            model.note(f"{len(parts):,} topics have {target:,} tokens: sentences are taken, as summaries have no room")
        rooms = shares(tokens, target - between * asks)
        found: dict[int, str] = {}
        if asks:
            asked = [k for k, room in enumerate(rooms) if SHORTEST <= room < tokens[k]]
            prompts = [
                PROMPT.format(part="".join(said[i].text for i in parts[k]).strip(), words=words(rooms[k]))
                for k in asked
            ]
            limits = [min(rooms[k], model.window // 4) for k in asked]
            written = await all_asked(model, prompts, limits, "topic")
            for k, limit, one in zip(asked, limits, written, strict=True):
                if one:
                    found[parts[k][0]] = whole(model, cut(model, one, limit), limit) + BETWEEN
        left, lost = 0, 0  # tokens that topics so far had room for, and did not take; topics of which nothing is left
        for part, room in zip(parts, rooms, strict=True):
            if part[0] not in found:
                left += room
                vectors = await vectors_of(model, [said[i].text for i in part], self.by)
                central = [part[i] for i in most_central(vectors, [said[i] for i in part], left)]
                left -= sum(said[i].tokens for i in central)
                lost += not central
                found |= {i: said[i].text for i in central}
        if lost:
            model.note(f"{lost:,} of {len(parts):,} topics have no sentence that fits: nothing is left of them")
        return "".join(one for _, one in sorted(found.items()))

    async def _parts(self, model: Model, said: Sequence[Chunk], size: int) -> list[list[int]]:
        """Numbers of the sentences of each topic; of a topic that is too long for a call, in several parts."""
        blocks = ["".join(part.text for part in said[i : i + self.block]) for i in range(0, len(said), self.block)]
        topics = topics_of(await vectors_of(model, blocks, self.by))
        of = [[i * self.block + j for i in topic for j in range(self.block)] for topic in topics]
        return [part for topic in of for part in packed([i for i in topic if i < len(said)], said, size)]


def shares(tokens: Sequence[int], target: int) -> list[int]:
    """Tokens that are left of each topic, ``target`` of all at most.

    A topic of a single sentence that is like no other is where a needle lies: each has a few tokens before the rest is
    shared out by length.
    """
    least = [min(LEAST, max(0, target) // max(1, len(tokens)), many) for many in tokens]
    share = min(1, max(0, target - sum(least)) / max(1, sum(tokens) - sum(least)))
    return [some + int(share * (many - some)) for some, many in zip(least, tokens, strict=True)]


def topics_of(vectors: NDArray[np.float32]) -> list[list[int]]:
    """Blocks by topic, each in order, the topic that begins first first: communities of greatest modularity.

    A block that is like no other is a topic of its own.

    Args:
        vectors: float32 [blocks, e], of length 1.
    """
    networkx = extra("networkx", "topics of a text", "read")
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(vectors)))
    for i, vector in enumerate(vectors):
        likeness = vectors @ vector
        likeness[i] = -1
        for j in np.argsort(-likeness, kind="stable")[:NEIGHBOURS]:
            if likeness[j] > 0:
                graph.add_edge(i, int(j), weight=round(float(likeness[j]), 6))
    for i, j in pairwise(range(len(vectors))):
        likeness = float(vectors[i] @ vectors[j])
        if likeness > 0:
            graph.add_edge(i, j, weight=round(likeness + NEXT, 6))
    if not graph.size():
        return [[i] for i in graph]
    found = networkx.community.greedy_modularity_communities(graph, weight="weight")
    return sorted(sorted(one) for one in found)


def packed(which: Sequence[int], said: Sequence[Chunk], size: int) -> Iterator[list[int]]:
    """The same sentences, in runs of at most ``size`` tokens."""
    run: list[int] = []
    left = size
    for i in which:
        if run and said[i].tokens > left:
            yield run
            run, left = [], size
        run.append(i)
        left -= said[i].tokens
    if run:
        yield run


def most_central(vectors: NDArray[np.float32], said: Sequence[Chunk], most: float) -> list[int]:
    """Sentences that are most like all of them together, none twice, of at most ``most`` tokens, in order."""
    scores = vectors @ vectors.mean(0)
    found: dict[str, int] = {}
    for i in np.argsort(-scores, kind="stable"):
        text = " ".join(said[i].text.split())
        if text not in found and said[i].tokens <= most:
            found[text] = int(i)
            most -= said[i].tokens
    return sorted(found.values())


def verbatim(text: str) -> str:
    """A line for each sentence with numbers: the names in it, and the numbers; none twice."""
    lines = []
    for one in sentences(text):
        if numbers := NUMBER.findall(one):
            names = [match.group() for match in NAME.finditer(one) if match.start() or " " in match.group()]
            lines.append(", ".join(names) + (": " if names else "") + ", ".join(numbers))
    return "\n".join(dict.fromkeys(lines))


def shown(model: Model, text: str, most: int, what: str) -> str:
    """As much of it as there is room for; the rest is told of."""
    short = cut(model, text, most)
    if short != text:
        model.note(f"{what} had {len(model.spans(text)):,} tokens, of which {most:,} were read")
    return short
