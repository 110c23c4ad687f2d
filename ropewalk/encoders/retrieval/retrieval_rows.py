"""A retrieval set from files: texts, questions, and which text answers which question.

A folder holds ``corpus``, ``queries`` and ``qrels``, each as .jsonl, .json or .parquet, or as a folder of such files,
as a hub lays out what it made parquet of, with LongEmbed's keys
(``doc_id`` and ``text``; ``qid`` and ``text``; ``qid`` and ``doc_id``) or BEIR's (``_id``, ``title`` and ``text``;
``query-id``, ``corpus-id`` and ``score``). BEIR's qrels may be a .tsv, which is of one split: questions that it does
not name are another split's, and are left out. Several splits are refused.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path

from ropewalk.common.errors import UserError
from ropewalk.common.outside import open_file, spelled
from ropewalk.encoders.retrieval.long_retrieval import Retrieval, Tokenise
from ropewalk.texts.rows import SUFFIXES, Row, read

NAMED = 3  # ids in a message
OF_LENGTH = "context_length"  # LongEmbed's synthetic tasks: texts of all lengths in one file
TABLE = ".tsv"  # BEIR's judgements
PART = re.compile(r"(^|[-._])\d+(-of-\d+)?$")  # of a name without suffix: what follows that of the split
PREFIX = "rows/"  # of the task's name, so that it is no other task's


def retrieval(folder: str | Path, tokenise: Tokenise) -> Retrieval:
    """The set of a folder; its name is that of the task.

    Raises:
        UserError: naming the file that is missing, or file, line and key of a row that is wrong.
    """
    place = spelled(folder)
    if not place.is_dir():
        raise UserError(f"{place} is no folder, expected one with corpus, queries and qrels (.jsonl)")
    texts: dict[str, str] = {}
    ids: dict[str, list[int]] = {}
    for row in _read(place, "corpus"):
        own = _id(row, "doc_id", "_id")
        if own in texts:
            raise row.refuse("doc_id" if row.has("doc_id") else "_id", "an id that no row before it has")
        title = row.text("title", empty=True) if row.has("title") else ""
        texts[own] = " ".join(part for part in (title, row.text("text", empty=bool(title.strip()))) if part)
        ids[own] = tokenise(texts[own])
        if not ids[own]:
            raise row.refuse("text", "a text that has a token")
    questions: dict[str, str] = {}
    for row in _read(place, "queries"):
        own = _id(row, "qid", "_id")
        if own in questions:
            raise row.refuse("qid" if row.has("qid") else "_id", "an id that no row before it has")
        questions[own] = row.text("text")
    for name, some in (("corpus", texts), ("queries", questions)):
        if not some:
            raise UserError(f"{_files(place, name)[0]} has no rows, expected one at least", "Fill it.")
    order = {own: i for i, own in enumerate(texts)}
    answers: dict[str, set[int]] = {}
    judged = set()
    for row in _read(place, "qrels"):
        question, text = _id(row, "qid", "query-id"), _id(row, "doc_id", "corpus-id")
        if question not in questions or text not in order:
            missing = question if question not in questions else text
            raise UserError(
                f"{row.where}: {missing!r} is in no row of {'queries' if question == missing else 'corpus'}"
            )
        judged.add(question)
        if _grade(row) > 0:
            answers.setdefault(question, set()).add(order[text])
    if _files(place, "qrels")[0].suffix == TABLE:
        questions = {own: asked for own, asked in questions.items() if own in judged}
        if not questions:
            raise UserError(f"{_files(place, 'qrels')[0]} has no rows, expected one at least", "Fill it.")
    unanswered = [own for own in questions if own not in answers]
    if unanswered:
        raise UserError(
            f"{place}: {len(unanswered)} questions have no text in qrels: {', '.join(unanswered[:NAMED])}",
            "Leave them out of queries.",
        )
    asked = list(questions)
    return Retrieval(
        PREFIX + place.resolve().name, 0, list(ids.values()), [questions[own] for own in asked],
        [frozenset(answers[own]) for own in asked], [None] * len(asked),
    )  # fmt: skip


def _read(place: Path, name: str) -> Iterator[Row]:
    """The rows of a part of the set, which are all of texts of one length, or say nothing of it."""
    lengths: dict[str, None] = {}
    for file in _files(place, name):
        for row in _table(file) if file.suffix == TABLE else read(file):
            lengths[str(row.values.get(OF_LENGTH))] = None
            if len(lengths) > 1:
                raise UserError(
                    f"{row.where}: {OF_LENGTH} is {' and '.join(lengths)} in one file, expected texts of one length: "
                    "each is a set",
                    "Keep rows of one length, or measure the task at any length: --tasks passkey,needle.",
                )
            yield row


def _table(file: Path) -> Iterator[Row]:
    """Rows of a .tsv, whose first line has the names of the columns."""
    with open_file(file) as stream:
        names: list[str] = []
        for number, line in enumerate(stream, 1):
            values = line.decode("utf-8-sig", "replace").rstrip("\r\n").split("\t")
            names = names or values
            if len(values) != len(names):
                raise UserError(f"{file}:{number}: {len(values)} columns, expected {len(names)}: {', '.join(names)}")
            if number > 1:
                yield Row(dict(zip(names, values, strict=True)), f"{file}:{number}")


def _files(place: Path, name: str) -> list[Path]:
    """Those of a part of the set.

    Raises:
        UserError: if there is none, or if there are several which could be it, or several splits.
    """
    suffixes = (*SUFFIXES, TABLE) if name == "qrels" else SUFFIXES
    one = [place / (name + suffix) for suffix in suffixes]
    parted = [sorted(place.glob(f"{name}-*-of-*.parquet"))]
    parted += [sorted((place / name).glob(f"*{suffix}")) for suffix in suffixes]
    found = [files for files in (*([file] for file in one if file.is_file()), *parted) if files]
    if not found:
        raise UserError(f"{place} holds no {name} as {', '.join(suffixes)}", "Give a folder with all three files.")
    if len(found) > 1:
        named = " and ".join(str(files[0].relative_to(place)) for files in found)
        raise UserError(f"{place} holds {name} as {named}, expected one of them", "Take the others away.")
    splits = {PART.sub("", file.stem): file for file in reversed(found[0])}
    if len(splits) > 1:
        files = [str(file.relative_to(place)) for file in reversed(splits.values())]
        raise UserError(
            f"{place} holds {len(splits)} splits of {name}: {', '.join(files[:NAMED])}, expected one",
            f"Leave one there, such as {splits.get('test', found[0][0]).relative_to(place)}: the others go elsewhere.",
        )
    return found[0]


def drawn(every: Retrieval, questions: int | None, seed: int) -> Retrieval:
    """Some of a set's questions, among all of its texts; None takes all."""
    if questions is None or questions >= len(every.questions):
        return every
    chosen = sorted(random.Random(seed).sample(range(len(every.questions)), questions))
    return replace(
        every,
        questions=[every.questions[i] for i in chosen],
        answers=[every.answers[i] for i in chosen],
        depths=[every.depths[i] for i in chosen],
    )


def _grade(row: Row) -> float:
    """How well a text answers a question; BEIR has a number, LongEmbed none."""
    value = row.values.get("score", 1)
    try:
        if isinstance(value, bool):
            raise ValueError
        grade = float(value)
        if not isfinite(grade):
            raise ValueError
        return grade
    except (TypeError, ValueError):
        raise row.refuse("score", "a number; above 0 where the text answers the question") from None


def _id(row: Row, *keys: str) -> str:
    key = next((key for key in keys if row.has(key)), None)
    if key is None:
        seen, expected = ", ".join(row.values) or "none", " (LongEmbed) or ".join(map(repr, keys)) + " (BEIR)"
        raise UserError(f"{row.where}: the columns are {seen}, expected {expected} with an id")
    value = row.values.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise row.refuse(key, "an id, a string or a number")
    return str(value)
