"""Long tasks out of short labelled texts, by M4LE's rule (arXiv 2310.19240).

Texts get ids, are put one behind the other until a length bucket is full, and are asked about: by id (explicit) or by
meaning (semantic), about one text or several, or about all together (global). The answer is known by construction.

  explicit-single     the label of the text with a given id.
  explicit-multiple   the ids of all texts with a given label.
  semantic-single     the id of the text that continues a given one; texts are cut in two at a sentence end.
  semantic-multiple   how many texts have a given label.
  global              the one label that all texts share.

As in the paper the asked label belongs to more than one text where some label does, and the places of the asked text
go round: the first and every fifth (every tenth from 200 texts on). Unlike the official scripts, ids come from the seed
and not from the system's randomness, so that a file can be made again, and texts are drawn until the bucket is full
instead of drawing sets of a guessed size until one fits.
"""

from __future__ import annotations

import json
import random
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.common.whole import write_text
from ropewalk.tasks.benchmarks.m4le import BUCKETS
from ropewalk.tasks.benchmarks.question import words
from ropewalk.texts import rows

SENTENCE_END = re.compile(r"[.!?。！？]['\"”’)]*\s*")
TRIALS = 20  # draws before a bucket is given up


@dataclass(frozen=True)
class Text:
    """A short text and its class."""

    text: str
    label: str


@dataclass(frozen=True)
class Task:
    """An assembled task: ``texts`` with their ids, what is asked, and the answer."""

    texts: tuple[tuple[str, str], ...]
    question: str
    answer: str


def read(source: str | Path) -> list[Text]:
    """Texts of a file with ``{"text", "label"}`` per row.

    Raises:
        UserError: naming file and line, key, value seen and value expected.
    """
    return [Text(row.text("text").strip(), row.answers("label")[0].strip()) for row in rows.read(source)]


def build(
    source: str | Path,
    out: Path,
    buckets: Sequence[int] = BUCKETS,
    n: int = 200,
    seed: int = 0,
    length: Callable[[str], int] = words,
) -> list[Path]:
    """Write one file per task, readable by ``m4le.load``.

    Args:
        source: short labelled texts, ``{"text", "label"}`` per row.
        out: folder for the files.
        buckets: upper ends of the lengths; an instance is longer than the bucket before.
        n: instances per task and bucket.
        seed: of all draws.
        length: of a text; words, as M4LE measures English, unless given (a tokenizer's count works as well).

    Raises:
        UserError: if the texts are too few, or too long, for a bucket.
    """
    corpus, paths = Corpus(tuple(read(source)), length), []
    if len(corpus.labels) < 2:
        raise UserError(f"{source}: {len(corpus.labels)} label(s), a classification needs two or more")
    for name in MAKERS:
        rows = []
        for low, high in zip((0, *sorted(buckets)), sorted(buckets), strict=False):
            rng = random.Random(f"{seed}/{name}/{high}")
            rows += [corpus.instance(name, low, high, i, rng) for i in range(n)]
        path = out / f"built_{name}.jsonl"
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Corpus:
    """Short texts and how their length is measured."""

    texts: tuple[Text, ...]
    length: Callable[[str], int] = words

    @cached_property
    def labels(self) -> list[str]:
        """All labels, sorted."""
        return sorted({text.label for text in self.texts})

    def instance(self, name: str, low: int, high: int, number: int, rng: random.Random) -> dict[str, Any]:
        """A row of M4LE's schema that is longer than ``low`` and no longer than ``high``, its answer included.

        Raises:
            UserError: if the texts do not make one.
        """
        usable = [text for text in self.texts if name != "semantic-single" or _halves(text.text)]
        for _ in range(TRIALS):
            pool = rng.sample(usable, len(usable))
            if name == "global":
                pool = [text for text in pool if text.label == pool[0].label]
            row = partial(self._row, name, pool, number, rng.random())
            counts = range(2, self._at_most(pool, high) + 1)
            fitting = bisect_left(counts, high + 1, key=partial(_length, row))
            if fitting and _length(row, counts[fitting - 1]) > low:
                return row(counts[fitting - 1]) | {"length_bucket": high}
        raise UserError(
            f"{len(usable)} texts make no {name} instance longer than {low} and at most {high} long",
            "give more or shorter texts, or other buckets",
        )

    def _row(self, name: str, pool: Sequence[Text], number: int, seed: float, count: int) -> dict[str, Any]:
        """The instance of the first ``count`` texts."""
        instruction = INSTRUCTIONS[name].replace("LABELS", ", ".join(self.labels))
        task = MAKERS[name](pool[:count], number, random.Random(seed))
        body = "\n\n".join([*(f"[{key}] {text}" for key, text in task.texts), task.question])
        return {
            "instruction": instruction,
            "input": body,
            "answers": [task.answer],
            "input_length": self.length(f"{instruction}\n{body}"),
            "total_length": self.length(f"{instruction}\n{body} {task.answer}"),
        }

    def _at_most(self, pool: Sequence[Text], room: int) -> int:
        """How many texts, taken in order, may fit: as many as are ``2 * room`` long, since halves may be used."""
        used = accumulate(self.length(text.text) for text in pool)
        return sum(1 for _ in takewhile(lambda total: total <= 2 * room, used))


def _length(row: Callable[[int], dict[str, Any]], count: int) -> int:
    return int(row(count)["total_length"])


_EACH = "Below are texts, each behind its id in brackets."
_CLASSES = "The classes are: LABELS."
INSTRUCTIONS = {
    "explicit-single": f"{_EACH} Classify the one whose id is asked for. {_CLASSES}",
    "explicit-multiple": f"{_EACH} List the ids of all that belong to the class asked for. {_CLASSES}",
    "semantic-single": f"{_EACH} One of them continues the text at the end. Reply with its id.",
    "semantic-multiple": f"{_EACH} Count those that belong to the class asked for. {_CLASSES}",
    "global": f"{_EACH} All of them belong to one class. Reply with it. {_CLASSES}",
}


def _ids(n: int, rng: random.Random) -> list[str]:
    """Distinct ids of six hexadecimal digits."""
    return [f"{number:06X}" for number in rng.sample(range(16**6), n)]


def place_of(instance: int, n_texts: int) -> int:
    """Where the asked text of the i-th instance stands: the first place and every fifth (tenth from 200 texts on)."""
    step = 10 if n_texts >= 200 else 5
    places = [0, *range(step - 1, n_texts, step)]
    return places[instance % len(places)]


def explicit_single(texts: Sequence[Text], instance: int, rng: random.Random) -> Task:
    """The label of one text, named by its id."""
    ids, place = _ids(len(texts), rng), place_of(instance, len(texts))
    question = f"Which class does the text {ids[place]} belong to?\nClass:"
    return Task(tuple(zip(ids, (t.text for t in texts), strict=True)), question, texts[place].label)


def explicit_multiple(texts: Sequence[Text], instance: int, rng: random.Random) -> Task:
    """The ids of all texts of a class."""
    ids = _ids(len(texts), rng)
    label, members = _asked_class(texts, ids, rng)
    question = f'Which texts belong to the class "{label}"? Separate their ids by commas.\nIds:'
    return Task(tuple(zip(ids, (t.text for t in texts), strict=True)), question, ", ".join(members))


def semantic_multiple(texts: Sequence[Text], instance: int, rng: random.Random) -> Task:
    """How many texts are of a class."""
    ids = _ids(len(texts), rng)
    label, members = _asked_class(texts, ids, rng)
    question = f'How many texts belong to the class "{label}"?\nNumber:'
    return Task(tuple(zip(ids, (t.text for t in texts), strict=True)), question, str(len(members)))


def semantic_single(texts: Sequence[Text], instance: int, rng: random.Random) -> Task:
    """The second half of a text among second halves of others."""
    ids, place = _ids(len(texts), rng), place_of(instance, len(texts))
    halves = [_halves(text.text) for text in texts]
    question = f"Which text continues this one? {halves[place][0]}\nId:"
    return Task(tuple(zip(ids, (second for _, second in halves), strict=True)), question, ids[place])


def whole(texts: Sequence[Text], instance: int, rng: random.Random) -> Task:
    """The label that all texts share."""
    ids = _ids(len(texts), rng)
    question = "Which class do the texts belong to?\nClass:"
    return Task(tuple(zip(ids, (t.text for t in texts), strict=True)), question, texts[0].label)


MAKERS: dict[str, Callable[[Sequence[Text], int, random.Random], Task]] = {
    "explicit-single": explicit_single,
    "explicit-multiple": explicit_multiple,
    "semantic-single": semantic_single,
    "semantic-multiple": semantic_multiple,
    "global": whole,
}


def _asked_class(texts: Sequence[Text], ids: Sequence[str], rng: random.Random) -> tuple[str, list[str]]:
    """A label and the ids of its texts; a label of more than one text if there is any."""
    members = defaultdict(list)
    for key, text in zip(ids, texts, strict=True):
        members[text.label].append(key)
    several = [label for label, keys in members.items() if len(keys) > 1]
    label = rng.choice(several or list(members))
    return label, members[label]


def _halves(text: str) -> tuple[str, ...]:
    """A text cut at the sentence end nearest to its middle; () if it is a single sentence."""
    ends = [found.end() for found in SENTENCE_END.finditer(text) if text[found.end() :].strip()]
    if not ends:
        return ()
    cut = min(ends, key=lambda end: abs(end - len(text) / 2))
    return text[:cut].strip(), text[cut:].strip()
