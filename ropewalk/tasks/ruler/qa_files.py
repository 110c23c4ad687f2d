"""The user's files for RULER's question tasks: SQuAD's ``dev-v2.0.json`` as ``qa_1.json``, HotpotQA's as ``qa_2.json``.

The documents of a question are its paragraph (SQuAD) or all of its ten (``hotpot_dev_distractor_v1.json``). Layouts are
those of the publishers and of the hub (objects of lists). Rows of SQuAD's own and of HotpotQA's hub layout were met.
"""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.tasks.altered_qa import Page, altered
from ropewalk.tasks.ruler.qa import QAExample
from ropewalk.texts import rows
from ropewalk.texts.rows import SUFFIXES, Row, told

NONE: dict[str, list[Any]] = {"text": [], "answer_start": []}  # answers of an unanswerable question, as the hub has it


def read_squad(source: str | Path, left_out: list[UserError] | None = None) -> list[QAExample]:
    """Answerable questions of SQuAD, with the other paragraphs of their article as distractors.

    Args:
        source: the published file (articles with paragraphs), or one in the layout of the hub (a question per row).
        left_out: where the error of each bad row or question goes; without, the first one is raised.

    Raises:
        UserError: naming file, line and key; also if an answer does not stand at its place in the paragraph.
    """
    articles: dict[str, list[tuple[str, list[Row]]]] = {}  # paragraphs with their questions
    for row, paragraphs in rows.good(rows.each(rows.read(source, left_out=left_out), _paragraphs), left_out):
        title = str(row.values["title"]) if row.has("context") and row.has("title") else row.where
        articles.setdefault(title, []).extend(paragraphs)
    found: list[QAExample] = []
    for paragraphs in articles.values():
        texts = list(dict.fromkeys(text for text, _ in paragraphs))
        for text, questions in paragraphs:
            others = tuple(other for other in texts if other != text)
            answerable = (
                qa for qa in questions if not qa.values.get("is_impossible") and qa.values.get("answers") != NONE
            )
            found += rows.good(rows.each(answerable, partial(_question, text=text, others=others)), left_out)
    return found


def _paragraphs(row: Row) -> tuple[Row, list[tuple[str, list[Row]]]]:
    """The paragraphs of a row, an article or a single question."""
    if not row.has("paragraphs") and row.has("context"):
        return row, [(row.text("context"), [row])]
    return row, [(one.text("context"), one.rows("qas", empty=True)) for one in row.rows("paragraphs")]


def _question(qa: Row, text: str, others: tuple[str, ...]) -> QAExample:
    answers = _answers(qa)
    if answers is None:
        raise qa.refuse("answers", 'a list of one or more objects, or an object with lists "text" and "answer_start"')
    return QAExample(
        qa.text("question").strip(), tuple(dict.fromkeys(_span(one, text) for one in answers)), (text,), others
    )


def _answers(qa: Row) -> list[Row] | None:
    """The answers of a question, listed or as columns."""
    return _listed(qa, "answers", ("text", "answer_start")) or None


def _span(answer: Row, paragraph: str) -> str:
    text, start = answer.text("text"), answer.integer("answer_start")
    if not paragraph.startswith(text, start):
        raise answer.refuse("answer_start", f"where {text!r} stands in the paragraph")
    return text


def read_hotpotqa(source: str | Path, left_out: list[UserError] | None = None) -> list[QAExample]:
    """Questions of HotpotQA (distractor setting); each document stands behind its title.

    Args:
        source: the published file, or one in the layout of the hub (columns in the place of pairs).
        left_out: where the error of each bad row goes; without, the first one is raised.

    Raises:
        UserError: naming file, line and key; also if a supporting document is missing.
    """
    return list(rows.good(rows.each(rows.read(source, left_out=left_out), _hotpotqa), left_out))


def _hotpotqa(row: Row) -> QAExample:
    context = _pairs(row, "context", "sentences")
    if not context or not all(_titled(document) for document in context):
        raise row.refuse("context", "a list of [title, [sentence, ...]]")
    facts, titles = _pairs(row, "supporting_facts", "sent_id"), {title for title, _ in context}
    if facts is None or not all(isinstance(fact, list) and fact and fact[0] in titles for fact in facts):
        raise row.refuse("supporting_facts", 'a list of [title, sentence] with titles of "context"')
    documents = tuple(f"{title}\n{''.join(sentences)}" for title, sentences in context)
    return QAExample(row.text("question"), (row.text("answer"),), documents)


def _pairs(row: Row, key: str, second: str) -> list[Any] | None:
    """A list of pairs, where the hub has an object of two lists, "title" and ``second``; None if it is neither."""
    value = row.values.get(key)
    listed = _listed(row, key, ("title", second)) if isinstance(value, dict) else None
    if listed is not None:
        return [[one.values["title"], one.values[second]] for one in listed]
    return value if isinstance(value, list) else None


def _listed(row: Row, key: str, columns: tuple[str, ...]) -> list[Row] | None:
    """A list of objects, which may be an object of lists of equal length; None if it is neither."""
    value = row.values.get(key)
    if isinstance(value, list) and all(isinstance(one, dict) for one in value):
        return row.rows(key, empty=True)
    lists = [value.get(column) for column in columns] if isinstance(value, dict) else [None]
    if not all(isinstance(one, list) for one in lists) or len({len(one) for one in lists if one is not None}) > 1:
        return None
    return [
        Row(dict(zip(columns, values, strict=True)), f"{row.where}: {key}[{i}]")
        for i, values in enumerate(zip(*lists, strict=True))  # type: ignore[arg-type]  # all are lists
    ]


def _titled(document: object) -> bool:
    if not (isinstance(document, list) and len(document) == 2 and isinstance(document[0], str)):
        return False
    return isinstance(document[1], list) and all(isinstance(sentence, str) for sentence in document[1])


FILES = {"qa_1": ("squad", read_squad), "qa_2": ("hotpotqa", read_hotpotqa)}


def material(source: str | Path, left_out: list[tuple[str, str]] | None = None) -> dict[str, Any]:
    """What tasks of the registry ask about: "squad" and "hotpotqa" (examples), and "pages" of SQuAD to alter.

    Args:
        source: folder with ``qa_1.json`` and ``qa_2.json`` (or .jsonl, .parquet), or with one of them.
        left_out: where bad rows go, as (task, how many and where); without, the first one is raised.

    Raises:
        UserError: naming file and line, key, value seen and value expected; also if no row of a file can be read.
    """
    found: dict[str, Any] = {}
    for name, (part, read) in FILES.items():
        file = next(
            (one for suffix in (".json", *SUFFIXES) if (one := Path(source) / f"{name}{suffix}").is_file()), None
        )
        if file is None:
            continue
        bad: list[UserError] = []
        examples = tuple(read(file, None if left_out is None else bad))
        why = told(bad, len(examples) + len(bad), "rows or questions") if bad else "it has none"
        if not examples:
            raise UserError(f"{file}: no question can be read; {why}")
        if left_out is not None and bad:
            left_out.append((name, why))
        found[part] = examples
    if not found:
        raise UserError(
            f"{source}: neither qa_1.json nor qa_2.json", "name SQuAD's file qa_1.json, HotpotQA's qa_2.json"
        )
    pages = tuple(page for one in found.get("squad", ()) if (page := _page(one)))
    return {**found, "pages": pages} if pages else found


def _page(example: QAExample) -> Page | None:
    """An example whose answer is a number that can be altered."""
    try:
        page = Page(example.documents[0], example.question, example.answers[0])
        altered(page, random.Random(0))
    except ValueError:
        return None
    return page
