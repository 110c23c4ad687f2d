"""The user's files for RULER's question tasks: SQuAD's ``dev-v2.0.json`` as ``qa_1.json``, HotpotQA's as ``qa_2.json``.

The documents of a question are its paragraph (SQuAD) or all of its ten (``hotpot_dev_distractor_v1.json``).
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.tasks.altered_qa import Page, altered
from ropewalk.tasks.ruler.qa import QAExample
from ropewalk.texts import rows
from ropewalk.texts.rows import Row


def read_squad(source: str | Path) -> list[QAExample]:
    """Answerable questions of SQuAD, with the other paragraphs of their article as distractors.

    Raises:
        UserError: naming file, line and key; also if an answer does not stand at its place in the paragraph.
    """
    found = []
    for article in rows.read(source):
        paragraphs = article.rows("paragraphs")
        texts = [paragraph.text("context") for paragraph in paragraphs]
        for text, paragraph in zip(texts, paragraphs, strict=True):
            others = tuple(other for other in texts if other != text)
            for qa in paragraph.rows("qas", empty=True):
                if not qa.values.get("is_impossible"):
                    answers = tuple(dict.fromkeys(_span(answer, text) for answer in qa.rows("answers")))
                    found.append(QAExample(qa.text("question").strip(), answers, (text,), others))
    return found


def _span(answer: Row, paragraph: str) -> str:
    text, start = answer.text("text"), answer.integer("answer_start")
    if not paragraph.startswith(text, start):
        raise answer.refuse("answer_start", f"where {text!r} stands in the paragraph")
    return text


def read_hotpotqa(source: str | Path) -> list[QAExample]:
    """Questions of HotpotQA (distractor setting); each document stands behind its title.

    Raises:
        UserError: naming file, line and key; also if a supporting document is missing.
    """
    found = []
    for row in rows.read(source):
        context, facts = row.values.get("context"), row.values.get("supporting_facts")
        if not isinstance(context, list) or not context or not all(_titled(document) for document in context):
            raise row.refuse("context", "a list of [title, [sentence, ...]]")
        titles = {title for title, _ in context}
        if not isinstance(facts, list) or not all(isinstance(f, list) and f and f[0] in titles for f in facts):
            raise row.refuse("supporting_facts", 'a list of [title, sentence] with titles of "context"')
        documents = tuple(f"{title}\n{''.join(sentences)}" for title, sentences in context)
        found.append(QAExample(row.text("question"), (row.text("answer"),), documents))
    return found


def _titled(document: object) -> bool:
    if not (isinstance(document, list) and len(document) == 2 and isinstance(document[0], str)):
        return False
    return isinstance(document[1], list) and all(isinstance(sentence, str) for sentence in document[1])


FILES = {"qa_1": ("squad", read_squad), "qa_2": ("hotpotqa", read_hotpotqa)}


def material(source: str | Path) -> dict[str, Any]:
    """What tasks of the registry ask about: "squad" and "hotpotqa" (examples), and "pages" of SQuAD to alter.

    Args:
        source: folder with ``qa_1.json`` and ``qa_2.json``, or with one of them.

    Raises:
        UserError: naming file and line, key, value seen and value expected.
    """
    files = {part: (Path(source) / f"{name}.json", read) for name, (part, read) in FILES.items()}
    found: dict[str, Any] = {part: tuple(read(file)) for part, (file, read) in files.items() if file.is_file()}
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
