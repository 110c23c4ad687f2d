"""RULER's two question tasks: SQuAD and HotpotQA with more and more documents around (arXiv 2404.06654).

Files are ``qa_1.json``, SQuAD 2.0's ``dev-v2.0.json``, and ``qa_2.json``, HotpotQA's
``hotpot_dev_distractor_v1.json``. The documents of a question (SQuAD: its paragraph; HotpotQA: all of its ten) are
joined by others of the same article, then by any, until there is no more room, and shuffled.

Not copied from the official code: one fixed shuffle for all samples of a task, which puts the same ranks of documents
at the same depths. Here every question has its own.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.tasks import metrics
from ropewalk.tasks.altered_qa import Page, altered
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, around, means, words
from ropewalk.tasks.ruler.qa import QAExample
from ropewalk.texts import rows as records
from ropewalk.texts.rows import Record

MAX_NEW_TOKENS = 32
AROUND = 192  # tokens of the instruction, the question and the answer, at most
HEADING = 8  # tokens of "Document 1000:" and the lines around, at most
TEMPLATE = (
    "Answer a question from these documents. Reply with the answer only.\n\n{context}\n\n"
    "Reply with the answer only.\n\nQuestion: {question}\nAnswer:"
)


@dataclass(frozen=True)
class DocumentQuestion:
    """A question before documents are put around it.

    Attributes:
        id: of the published set.
        question: what is asked.
        answers: any of them is right.
        gold: documents that are always there.
        related: documents of the same article.
        source: file and line.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]
    related: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Collection:
    """The questions of a file, and all of its documents."""

    questions: tuple[DocumentQuestion, ...]
    documents: frozenset[str]


def read_squad(source: str | Path) -> Collection:
    """Answerable questions of SQuAD, and all paragraphs.

    Raises:
        UserError: naming file, line and key; also if an answer does not stand at its place in the paragraph.
    """
    questions, documents = [], set[str]()
    for article in records.read(source):
        paragraphs = article.records("paragraphs")
        texts = [paragraph.text("context") for paragraph in paragraphs]
        documents.update(texts)
        for text, paragraph in zip(texts, paragraphs, strict=True):
            related = tuple(other for other in texts if other != text)
            for qa in paragraph.records("qas", empty=True):
                if not qa.values.get("is_impossible"):
                    answers = tuple(dict.fromkeys(_span(answer, text) for answer in qa.records("answers")))
                    asked = qa.text("question").strip()
                    questions.append(DocumentQuestion(qa.text("id"), asked, answers, (text,), related, qa.where))
    return Collection(tuple(questions), frozenset(documents))


def _span(answer: Record, paragraph: str) -> str:
    text, start = answer.text("text"), answer.integer("answer_start")
    if not paragraph.startswith(text, start):
        raise answer.refuse("answer_start", f"where {text!r} stands in the paragraph")
    return text


def read_hotpotqa(source: str | Path) -> Collection:
    """Questions of HotpotQA (distractor setting), and all paragraphs, each behind its title.

    Raises:
        UserError: naming file, line and key; also if a supporting document is missing.
    """
    questions, documents = [], set[str]()
    for row in records.read(source):
        context = row.values.get("context")
        if not isinstance(context, list) or not context or not all(_titled(document) for document in context):
            raise row.refuse("context", "a list of [title, [sentence, ...]]")
        facts = row.values.get("supporting_facts")
        titles = {title for title, _ in context}
        if not isinstance(facts, list) or not all(isinstance(f, list) and f and f[0] in titles for f in facts):
            raise row.refuse("supporting_facts", 'a list of [title, sentence] with titles of "context"')
        gold = tuple(f"{title}\n{''.join(sentences)}" for title, sentences in context)
        documents.update(gold)
        asked, answer = row.text("question"), row.text("answer")
        questions.append(DocumentQuestion(row.text("_id"), asked, (answer,), gold, (), row.where))
    return Collection(tuple(questions), frozenset(documents))


def _titled(document: object) -> bool:
    if not (isinstance(document, list) and len(document) == 2 and isinstance(document[0], str)):
        return False
    return isinstance(document[1], list) and all(isinstance(sentence, str) for sentence in document[1])


READERS: dict[str, Callable[[str | Path], Collection]] = {"qa_1": read_squad, "qa_2": read_hotpotqa}


def load(
    source: str | Path,
    subsets: Sequence[str] | None = None,
    n: int = 500,
    room: int = 3000,
    length: Callable[[str], int] = words,
    seed: int = 42,
) -> list[Question]:
    """The first ``n`` questions of each task, with as many documents as fit.

    Args:
        source: folder with ``qa_1.json`` and ``qa_2.json``, or one of them.
        subsets: tasks wanted; those that are there unless given.
        n: questions per task.
        room: length of all documents of a question together.
        length: of a document; words unless given (a tokenizer's count makes prompts of a length in tokens).
        seed: of the documents and their order.

    Raises:
        UserError: naming file and line, key, value seen and value expected; also if a question's own documents are
            longer than ``room``.
    """
    folder = Path(source)
    files = {name: folder / f"{name}.json" if folder.is_dir() else folder for name in subsets or READERS}
    there = {name: file for name, file in files.items() if file.is_file() and file.stem == name}
    if missing := [name for name in subsets or [] if name not in there]:
        raise UserError(f"{source}: no file for the task {missing[0]!r}", f"name it {missing[0]}.json")
    if not there:
        raise UserError(
            f"{source}: neither qa_1.json nor qa_2.json", "name SQuAD's file qa_1.json, HotpotQA's qa_2.json"
        )
    questions = []
    for name, file in there.items():
        collection = READERS[name](file)
        pool = {document: length(document) for document in sorted(collection.documents)}
        rng = random.Random(f"{seed}/{name}")
        questions += [_question(item, name, pool, room, rng) for item in collection.questions[:n]]
    return questions


def material(source: str | Path) -> dict[str, Any]:
    """What tasks of the registry ask about: "squad" and "hotpotqa" (examples), and "pages" of SQuAD to alter.

    Args:
        source: folder with ``qa_1.json`` and ``qa_2.json``, or with one of them.

    Raises:
        UserError: naming file and line, key, value seen and value expected.
    """
    found: dict[str, Any] = {}
    for name, part in (("qa_1", "squad"), ("qa_2", "hotpotqa")):
        if (file := Path(source) / f"{name}.json").is_file():
            questions = READERS[name](file).questions
            found[part] = tuple(QAExample(one.question, one.answers, one.gold, one.related) for one in questions)
    if not found:
        raise UserError(
            f"{source}: neither qa_1.json nor qa_2.json", "name SQuAD's file qa_1.json, HotpotQA's qa_2.json"
        )
    numbers = (page for one in found.get("squad", ()) if (page := _page(one)))
    if pages := tuple(numbers):
        found["pages"] = pages
    return found


def _page(example: QAExample) -> Page | None:
    """An example whose answer is a number that can be altered."""
    try:
        page = Page(example.documents[0], example.question, example.answers[0])
        altered(page, random.Random(0))
    except ValueError:
        return None
    return page


def _question(item: DocumentQuestion, name: str, lengths: Mapping[str, int], room: int, rng: random.Random) -> Question:
    """A question with as many documents as fit; ``lengths`` has all documents there are."""
    chosen = list(dict.fromkeys(item.gold))
    used = sum(lengths[document] for document in chosen)
    if used > room:
        raise UserError(f"{item.source}: the documents of {item.id} are {used} long, there is room for {room}")
    related = rng.sample(item.related, len(item.related))
    for document in (*related, *rng.sample(list(lengths), len(lengths))):
        if used + lengths[document] > room:
            break
        if document not in chosen:
            chosen.append(document)
            used += lengths[document]
    rng.shuffle(chosen)
    before, after = around(TEMPLATE, question=item.question)
    return Question(
        id=f"{name}/{item.id}",
        context="\n\n".join(f"Document {i}:\n{document}" for i, document in enumerate(chosen, 1)),
        question=item.question,
        references=item.answers,
        subset=name,
        metric="contains",
        before=before,
        after=after,
        max_new_tokens=MAX_NEW_TOKENS,
        source=item.source,
        shorten=False,
        facts={"documents": len(chosen)},
    )


def score(prediction: str, question: Question) -> float:
    """1 if one of the answers is part of the prediction (RULER's string match, "part")."""
    return metrics.best(metrics.contains, prediction, question.references)


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean of each task."""
    return means(scored)


def sized(n_tokens: int, count: Callable[[str], int]) -> dict[str, Any]:
    """As many documents as ``n_tokens`` hold beside the instruction, the question and the answer."""
    return {"room": n_tokens - AROUND, "length": lambda text: count(text) + HEADING}


RULER_QA = Benchmark(
    "ruler-qa", load, score, aggregate, "SQuAD 2.0 and HotpotQA (their sites)", "CC-BY-SA-4.0", sized=sized
)
