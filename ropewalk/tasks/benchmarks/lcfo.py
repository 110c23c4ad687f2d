"""LCFO: summaries of a fifth, a tenth and a twentieth of a text, their expansion, and questions (arXiv 2412.08268).

Rows are ``{"source", "summary_20", "summary_10", "summary_5", "qa": [{"question", "answer"}]}``. The published set
leaves most source texts out; they have to be put in first. It is for non-commercial use. Prompts are our own wording.

Word counts and overlap say little about summaries (the paper finds a correlation of 0.4 with people), so in
``coverage_20`` and so on a judge says which questions a summary answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ropewalk.common.errors import UserError
from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks import judge as judging
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, means
from ropewalk.texts.rows import Row, each_numbered

SHARES = (20, 10, 5)  # percent of the source's length
SUBSETS = (*(f"{kind}_{share}" for kind in ("summary", "expansion", "coverage") for share in SHARES), "qa")
TOKENS_PER_WORD = 2  # room for answers; ours

SUMMARY = "Summarise this text in about {words} words.\n\n{context}\n\nSummary of about {words} words:"
EXPANSION = "This is the summary of a longer text.\n\n{context}\n\nWrite that text, in about {words} words:"
QA = "Answer a question about this text, in a sentence or less.\n\n{context}\n\nQuestion: {question}\nAnswer:"


def read(row: Row, _: str = "") -> Iterator[Question | UserError]:
    """Summaries, expansions and questions of a row; a summary must be shorter than its source."""
    source, line, made = row.text("source"), row.where.rpartition(":")[2], []
    for share in SHARES:
        summary = row.text(f"summary_{share}")
        if len(summary.split()) >= len(source.split()):
            raise row.refuse(f"summary_{share}", 'a text shorter than "source"')
        made.append(_long(row, f"summary_{share}", SUMMARY, source, summary))
        made.append(_long(row, f"expansion_{share}", EXPANSION, summary, source))
        about = {"qa": [(qa.text("question"), qa.text("answer")) for qa in row.rows("qa")]}
        made.append(
            replace(made[-2], id=f"coverage_{share}/{line}", subset=f"coverage_{share}", metric="coverage", facts=about)
        )
    yield from made

    def asked(number: int, qa: Row) -> Question:
        name, question = f"{line}/{number}", qa.text("question")
        return Question.of(qa, "qa", QA, source, (qa.text("answer"),), "qa_f1", 64, name, question=question)

    yield from each_numbered(row.rows("qa"), asked)


def _long(row: Row, name: str, template: str, context: str, reference: str) -> Question:
    words = len(reference.split())
    return Question.of(
        row, name, template, context, (reference,), "rougeL", TOKENS_PER_WORD * words,
        texts={"words": str(words)}, facts={"words": words},
    )  # fmt: skip


def score(prediction: str, question: Question) -> float:
    """ROUGE-L of a text, token F1 of an answer."""
    if question.metric == "qa_f1":
        return metrics.best(metrics.qa_f1, prediction, question.references)
    return metrics.rouge(prediction, question.references[0], "rougeL", stem=True)


def length_ratio(prediction: str, question: Question) -> float:
    """Words of a text over the words asked for."""
    return float(len(prediction.split()) / question.facts["words"])


def coverage(judge: judging.Judge, summary: str, question: Question) -> float:
    """The share of questions (with their answers) that a summary answers, as a judge has it."""
    points = [f"{asked} {answer}" for asked, answer in question.facts["qa"]]
    prompt = judging.RECALL.format(points=judging.listed(points), answer=summary)
    return judging.ask(judge, prompt, len(points)) / len(points)


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean score of each subset and, for texts, the mean length in percent of the length asked for."""
    texts = [item for item in scored if "words" in item.question.facts]
    lengths = [Scored(item.question, item.prediction, length_ratio(item.prediction, item.question)) for item in texts]
    return {**means(scored), **means(lengths, lambda item: f"length: {item.question.subset}")}


LCFO = Benchmark(
    "lcfo",
    "LCFO",
    SUBSETS,
    read,
    score,
    aggregate,
    "the file of facebook/LCFO and put the source texts in",
    "CC-BY-NC-4.0",
    one_file=True,
    judged={"coverage": coverage},
)
