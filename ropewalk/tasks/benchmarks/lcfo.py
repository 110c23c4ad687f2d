"""LCFO: summaries of a fifth, a tenth and a twentieth of a text, their expansion, and questions (arXiv 2412.08268).

Rows are ``{"source", "summary_20", "summary_10", "summary_5", "qa": [{"question", "answer"}]}``. The published set
leaves most source texts out; they have to be put in first. It is for non-commercial use. Prompts are our own wording.

Word counts and overlap say little about summaries (the paper finds a correlation of 0.4 with people), so ``coverage``
lets a judge say which questions a summary answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks import judge as judging
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, around, means
from ropewalk.texts import rows as records
from ropewalk.texts.rows import Record

SHARES = (20, 10, 5)  # percent of the source's length
SUBSETS = (*(f"summary_{s}" for s in SHARES), *(f"expansion_{s}" for s in SHARES), "qa")
TOKENS_PER_WORD = 2  # room for answers; ours

SUMMARY = "Summarise this text in about {words} words.\n\n{context}\n\nSummary of about {words} words:"
EXPANSION = "This is the summary of a longer text.\n\n{context}\n\nWrite that text, in about {words} words:"
QA = "Answer a question about this text, in a sentence or less.\n\n{context}\n\nQuestion: {question}\nAnswer:"


def load(source: str | Path, subsets: Sequence[str] | None = None) -> list[Question]:
    """Questions of LCFO.

    Args:
        source: a file of rows as above.
        subsets: some of "summary_20", "summary_10", "summary_5", "expansion_20", ..., "qa"; all unless given.

    Raises:
        UserError: naming file and line, key, value seen and value expected; also if a summary is not shorter.
    """
    records.check_known(subsets, SUBSETS)
    questions = [question for row in records.read(source) for question in _questions(row)]
    return [question for question in questions if not subsets or question.subset in subsets]


def _questions(row: Record) -> list[Question]:
    source = row.text("source")
    made = []
    for share in SHARES:
        summary = row.text(f"summary_{share}")
        if len(summary.split()) >= len(source.split()):
            raise row.refuse(f"summary_{share}", 'a text shorter than "source"')
        made.append(_long(row, f"summary_{share}", SUMMARY, source, summary))
        made.append(_long(row, f"expansion_{share}", EXPANSION, summary, source))
    return made + [_asked(qa, source) for qa in row.records("qa")]


def _long(row: Record, name: str, template: str, context: str, reference: str) -> Question:
    n_words = len(reference.split())
    before, after = around(template, words=str(n_words))
    return Question(
        id=f"{name}/{row.where.rpartition(':')[2]}",
        context=context,
        question="",
        references=(reference,),
        subset=name,
        metric="rougeL",
        before=before,
        after=after,
        max_new_tokens=TOKENS_PER_WORD * n_words,
        source=row.where,
        facts={"words": n_words},
    )


def _asked(qa: Record, source: str) -> Question:
    question = qa.text("question")
    before, after = around(QA, question=question)
    return Question(
        id=f"qa/{qa.where.rpartition(':')[0].rpartition(':')[2]}/{qa.where.rpartition('[')[2].rstrip(']')}",
        context=source,
        question=question,
        references=(qa.text("answer"),),
        subset="qa",
        metric="qa_f1",
        before=before,
        after=after,
        max_new_tokens=64,
        source=qa.where,
    )


def score(prediction: str, question: Question) -> float:
    """ROUGE-L of a text, token F1 of an answer."""
    if question.metric == "qa_f1":
        return metrics.best(metrics.qa_f1, prediction, question.references)
    return metrics.rouge(prediction, question.references[0], "rougeL", stem=True)


def length_ratio(prediction: str, question: Question) -> float:
    """Words of a text over the words asked for."""
    return float(len(prediction.split()) / question.facts["words"])


def coverage(judge: judging.Judge, summary: str, qa: Sequence[tuple[str, str]]) -> float:
    """The share of questions (with their answers) that a summary answers, as a judge has it.

    Args:
        judge: the language model that grades.
        summary: generated text.
        qa: questions with answers about the source.
    """
    points = [f"{question} {answer}" for question, answer in qa]
    return judging.ask(judge, judging.RECALL.format(points=judging.listed(points), answer=summary), len(qa)) / len(qa)


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean score of each subset and, for texts, the mean length in percent of the length asked for."""
    texts = [item for item in scored if "words" in item.question.facts]
    lengths = [Scored(item.question, item.prediction, length_ratio(item.prediction, item.question)) for item in texts]
    return {**means(scored), **means(lengths, lambda item: f"length: {item.question.subset}")}


LCFO = Benchmark("lcfo", load, score, aggregate, "facebook/LCFO", "CC-BY-NC-4.0")
