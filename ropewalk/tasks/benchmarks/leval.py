"""L-Eval: 20 tasks over 508 long documents, several questions each (arXiv 2307.11088).

Files are the published JSON lines, one document each: ``{"instructions": [...], "outputs": [...], "input": document}``.
All rules are derived from the paper's and the method's description; the official code is GPL and was not used.

As there, the first "The answer is N" of a calculation counts, and ROUGE of a task is the geometric mean of the means of
ROUGE-1, -2 and -L over its questions. (A single answer scores the geometric mean of its own three; the mean of these is
another number.)

Not copied from the official evaluation:
  * an empty answer is a subset of every set of letters and earns 0.25. Here it earns nothing.
  * a judge compares with a fixed model's answers. ``win_rate`` compares with those that you give, in both orders.

Open-ended tasks tell the model how long the reference is (the paper's length instruction); their rule scores are token
F1 for questions and ROUGE for summaries. An answer to a question of codeU is compared symbol by symbol.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence

from ropewalk.common.errors import UserError
from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks import judge as judging
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, means, with_means
from ropewalk.texts.rows import SHOWN, Row

CLOSED = {
    "tpo": "letters",
    "quality": "letters",
    "coursera": "letters",
    "gsm100": "number",
    "sci_fi": "true_false",
    "topic_retrieval_longchat": "substring",
    "codeU": "value",
}
OPEN = {
    "multidoc_qa": "qa_f1",
    "natural_question": "qa_f1",
    "narrative_qa": "qa_f1",
    "scientific_qa": "qa_f1",
    "legal_contract_qa": "qa_f1",
    "financial_qa": "qa_f1",
    "gov_report_summ": "rouge",
    "meeting_summ": "rouge",
    "news_summ": "rouge",
    "patent_summ": "rouge",
    "paper_assistant": "rouge",
    "review_summ": "rouge",
    "tv_show_summ": "rouge",
}
SUBSETS = CLOSED | OPEN

HINTS = {
    "letters": "Reply with the letter of every right choice, and nothing else.",
    "number": 'Work it out, then end with "The answer is" and the number.',
    "true_false": "Reply True or False.",
    "substring": "Reply with the answer only.",
    "value": "Reply with the answer only.",
}
ENDS = {"number": ("\nQuestion", "\nQ:")}  # where a model goes on with questions of its own
MAX_NEW_TOKENS = {
    "letters": 16,
    "number": 512,
    "true_false": 16,
    "substring": 64,
    "value": 64,
    "qa_f1": 256,
    "rouge": 512,
}
LETTERS = "ABCDEFGH"
ROUGE = ("rouge1", "rouge2", "rougeL")
TEMPLATE = "Read the document and do what is asked below it.\n\n{context}\n\n{question}\n{hint}\nAnswer:"


def read(row: Row, name: str) -> Iterator[Question | UserError]:
    """The questions of a document; they share its context and stand together."""
    document, asked, answers = row.text("input"), row.texts("instructions"), row.texts("outputs")
    if len(answers) != len(asked):
        raise row.refuse("outputs", f'{len(asked)} strings, as many as "instructions"')
    metric, line = SUBSETS[name], row.where.rpartition(":")[2]
    for i, (question, answer) in enumerate(zip(asked, answers, strict=True)):
        if expected := _unscorable(metric, answer):
            yield UserError(f'{row.where}: "outputs"[{i}] is {answer[:SHOWN]!r}, expected {expected}')
            continue
        hint = HINTS.get(metric) or f"Use about {len(answer.split())} words."
        yield Question.of(
            row, name, TEMPLATE, document, (answer,), metric, MAX_NEW_TOKENS[metric], f"{line}/{i}", question,
            {"hint": hint}, ends=ENDS.get(metric, ()),
        )  # fmt: skip


def _unscorable(metric: str, answer: str) -> str:
    """What is expected in the place of a reference that its own metric could not score; else nothing."""
    if metric == "letters" and not _letters(answer):
        return "letters of choices (A, B, ...)"
    if metric == "number" and not _numbers(answer):
        return "numbers"
    if metric == "true_false" and not _truth(answer):
        return "True or False"
    return ""


def score(prediction: str, question: Question) -> float:
    """The task's rule."""
    return METRICS[question.metric](question.answer(prediction), question.references[0])


def _letters(text: str) -> str:
    """The choices of an answer: those that it states or explains line by line, else all in its first line.

    A line explains a choice where it begins with the letter and a mark ("B. ", "(C) ").
    """
    lines = re.findall(r"^\s*\(?([A-H])[).:](?=\s)", text, re.MULTILINE)
    if len(set(lines)) > 1 and re.match(r"\s*\(?[A-H][).:]\s", text):
        return "".join(sorted(set(lines)))
    return metrics.stated_choices(text, LETTERS) or metrics.named_choices(text.strip().split("\n")[0], LETTERS)


def _choices(prediction: str, reference: str) -> float:
    """1 for exactly the right choices, 0.25 for some of them and no wrong one."""
    chosen, right = set(_letters(prediction)), set(_letters(reference))
    return 1.0 if chosen == right else 0.25 if chosen and chosen < right else 0.0


def _numbers(text: str) -> list[float]:
    """All numbers, where commas may mark thousands."""
    return metrics.numbers(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))


def _result(text: str) -> list[float]:
    """The number of the first "answer is N", else the last number of a text; none if there is none."""
    stated = re.search(r"answer is\b:?\s*[*$(\\]*\s*(-?[$]?\d[\d,]*(?:\.\d+)?)", text, re.IGNORECASE)
    return _numbers(stated[1].replace("$", "")) if stated else _numbers(text)[-1:]


def _truth(text: str) -> str:
    """The first true or false of a text; what follows in brackets ("[fact: ...]") is another question."""
    found = re.search(r"\b(true|false)\b", text, re.IGNORECASE)
    return found[0].lower() if found else ""


def _rouge(prediction: str, reference: str) -> float:
    return math.prod(metrics.rouge(prediction, reference, kind) for kind in ROUGE) ** (1 / 3)


METRICS = {
    "letters": _choices,
    "number": lambda prediction, reference: float(_result(prediction) == _result(reference)),
    "true_false": lambda prediction, reference: float(_truth(prediction) == _truth(reference)),
    "substring": metrics.substring_match,
    "value": metrics.value_match,
    "qa_f1": metrics.qa_f1,
    "rouge": _rouge,
}


def win_rate(scored: Sequence[Scored], baseline: Mapping[str, str], judge: judging.Judge) -> dict[str, float]:
    """How often (in points, ties half) a judge prefers an answer to the baseline's, by open-ended task.

    Args:
        scored: answers; those to closed tasks are passed over.
        baseline: the other model's answers by question id.
        judge: the language model that compares.

    Raises:
        UserError: if the baseline lacks an answer.
    """
    wins = []
    for item in scored:
        question = item.question
        if question.subset not in OPEN:
            continue
        if question.id not in baseline:
            raise UserError(f"the baseline has no answer to {question.id}")
        value = judging.preference(
            judge, question.question, question.references[0], item.prediction, baseline[question.id]
        )
        wins.append(Scored(question, item.prediction, value))
    return means(wins)


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean of each task (of ROUGE the geometric mean of three means), and over the closed ones."""
    table = means(scored)
    for name in table:
        if SUBSETS[name] == "rouge":
            own = [item for item in scored if item.question.subset == name]
            kinds = [
                sum(metrics.rouge(one.prediction, one.question.references[0], kind) for one in own) for kind in ROUGE
            ]
            table[name] = 100 * math.prod(total / len(own) for total in kinds) ** (1 / 3)
    return with_means(table, {"closed-ended": CLOSED})


LEVAL = Benchmark(
    "leval",
    "L-Eval",
    tuple(SUBSETS),
    read,
    score,
    aggregate,
    "LEval-data of github.com/OpenLMLab/LEval",
    "GPL-3.0 (of the repository)",
)
