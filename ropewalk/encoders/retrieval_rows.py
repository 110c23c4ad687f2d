"""A retrieval set from files: texts, questions, and which text answers which question.

A folder holds ``corpus``, ``queries`` and ``qrels``, each as .jsonl, .json or .parquet, with LongEmbed's keys
(``doc_id`` and ``text``; ``qid`` and ``text``; ``qid`` and ``doc_id``) or BEIR's (``_id``, ``title`` and ``text``;
``query-id``, ``corpus-id`` and ``score``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ropewalk.common.errors import UserError
from ropewalk.common.outside import spelled
from ropewalk.encoders.long_retrieval import Retrieval, Tokenise
from ropewalk.texts.rows import SUFFIXES, Row, read

NAMED = 3  # ids in a message


def retrieval(folder: str | Path, tokenise: Tokenise) -> Retrieval:
    """The set of a folder; its name is that of the task.

    Raises:
        UserError: naming the file that is missing, or file, line and key of a row that is wrong.
    """
    place = spelled(folder)
    if not place.is_dir():
        raise UserError(f"{place} is no folder, expected one with corpus, queries and qrels (.jsonl)")
    texts: dict[str, str] = {}
    for row in read(_file(place, "corpus")):
        own = _id(row, "doc_id", "_id")
        if own in texts:
            raise row.refuse("doc_id" if row.has("doc_id") else "_id", "an id that no row before it has")
        parts = [row.text("title", empty=True)] if row.has("title") else []
        texts[own] = " ".join(part for part in [*parts, row.text("text")] if part)
    questions = {_id(row, "qid", "_id"): row.text("text") for row in read(_file(place, "queries"))}
    order = {own: i for i, own in enumerate(texts)}
    answers: dict[str, set[int]] = {}
    for row in read(_file(place, "qrels")):
        question, text = _id(row, "qid", "query-id"), _id(row, "doc_id", "corpus-id")
        if question not in questions or text not in order:
            missing = question if question not in questions else text
            raise UserError(
                f"{row.where}: {missing!r} is in no row of {'queries' if question == missing else 'corpus'}"
            )
        if row.values.get("score", 1) not in (0, "0"):
            answers.setdefault(question, set()).add(order[text])
    unanswered = [own for own in questions if own not in answers]
    if unanswered:
        raise UserError(
            f"{place}: {len(unanswered)} questions have no text in qrels: {', '.join(unanswered[:NAMED])}",
            "Leave them out of queries.",
        )
    documents: Sequence[list[int]] = [tokenise(text) for text in texts.values()]
    asked = list(questions)
    return Retrieval(
        place.resolve().name, 0, documents, [questions[own] for own in asked],
        [frozenset(answers[own]) for own in asked], [None] * len(asked),
    )  # fmt: skip


def _file(place: Path, name: str) -> Path:
    found = [place / (name + suffix) for suffix in SUFFIXES if (place / (name + suffix)).is_file()]
    if not found:
        raise UserError(f"{place} holds no {name} as {', '.join(SUFFIXES)}", "Give a folder with all three files.")
    return found[0]


def _id(row: Row, *keys: str) -> str:
    key = next((key for key in keys if row.has(key)), keys[0])
    value = row.values.get(key)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise row.refuse(key, "an id, a string or a number")
    return str(value)
