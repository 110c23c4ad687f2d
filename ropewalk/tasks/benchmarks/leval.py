"""L-Eval: 20 tasks over 508 long documents, several questions each (arXiv 2307.11088).

Files are the published JSON lines, one document each: ``{"instructions": [...], "outputs": [...], "input": document}``.
All rules are derived from the paper's and the method's description; the official code is GPL and was not used.

Not copied from the official evaluation:
  * an empty answer is a subset of every set of letters and earns 0.25. Here it earns nothing.
  * a judge compares with a fixed model's answers. ``win_rate`` compares with those that you give, in both orders.

Open-ended tasks tell the model how long the reference is (the paper's length instruction); their rule scores are token
F1 for questions and the geometric mean of ROUGE-1, -2 and -L for summaries.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ropewalk.common.errors import UserError
from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks import judge as judging
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, means, with_means
from ropewalk.texts.rows import Row

CLOSED = {
    "tpo": "letters",
    "quality": "letters",
    "coursera": "letters",
    "gsm100": "number",
    "sci_fi": "true_false",
    "topic_retrieval_longchat": "substring",
    "codeU": "substring",
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
}
MAX_NEW_TOKENS = {"letters": 16, "number": 512, "true_false": 16, "substring": 64, "qa_f1": 256, "rouge": 512}
TEMPLATE = "Read the document and do what is asked below it.\n\n{context}\n\n{question}\n{hint}\nAnswer:"


def read(row: Row, name: str) -> list[Question]:
    """The questions of a document; they share its context and stand together."""
    document, asked, answers = row.text("input"), row.texts("instructions"), row.texts("outputs")
    if len(answers) != len(asked):
        raise row.refuse("outputs", f'{len(asked)} strings, as many as "instructions"')
    metric, line, questions = SUBSETS[name], row.where.rpartition(":")[2], []
    for i, (question, answer) in enumerate(zip(asked, answers, strict=True)):
        _check(row, metric, answer)
        hint = HINTS.get(metric) or f"Use about {len(answer.split())} words."
        questions.append(
            Question.of(
                row, name, TEMPLATE, document, (answer,), metric, MAX_NEW_TOKENS[metric], f"{line}/{i}", question,
                {"hint": hint},
            )
        )  # fmt: skip
    return questions


def _check(row: Row, metric: str, answer: str) -> None:
    """Refuse a reference that its own metric could not score."""
    if metric == "letters" and not _letters(answer):
        raise row.refuse("outputs", "letters of choices (A, B, ...)")
    if metric == "number" and not _numbers(answer):
        raise row.refuse("outputs", "numbers")
    if metric == "true_false" and not _truth(answer):
        raise row.refuse("outputs", "True or False")


def score(prediction: str, question: Question) -> float:
    """The task's rule."""
    return METRICS[question.metric](prediction, question.references[0])


def _letters(text: str) -> str:
    """The choices of an answer: letters behind "answer is", else in its first line; "" if it names none.

    Where these begin with a choice and its mark ("B. ", "(AC) "), what follows explains and is not read.
    """
    stated = re.split(r"answer(?: is)?:?", text, flags=re.IGNORECASE)[-1].strip()
    marked = re.match(r"\(?([A-H]+)[).:]", stated)
    groups = [marked[1]] if marked else re.findall(r"\b[A-Z]{1,6}\b(?!')", stated.split("\n")[0])
    return "".join(sorted(set("".join(groups)) & set("ABCDEFGH")))


def _choices(prediction: str, reference: str) -> float:
    """1 for exactly the right choices, 0.25 for some of them and no wrong one."""
    chosen, right = set(_letters(prediction)), set(_letters(reference))
    return 1.0 if chosen == right else 0.25 if chosen and chosen < right else 0.0


def _numbers(text: str) -> list[float]:
    """All numbers, where commas may mark thousands."""
    return metrics.numbers(re.sub(r"(?<=\d),(?=\d{3}\b)", "", text))


def _truth(text: str) -> str:
    """The first true or false of a text; what follows in brackets ("[fact: ...]") is another question."""
    found = re.search(r"\b(true|false)\b", text, re.IGNORECASE)
    return found[0].lower() if found else ""


def _rouge(prediction: str, reference: str) -> float:
    one, two, longest = (metrics.rouge(prediction, reference, kind) for kind in ("rouge1", "rouge2", "rougeL"))
    return float((one * two * longest) ** (1 / 3))


METRICS = {
    "letters": _choices,
    "number": lambda prediction, reference: float(_numbers(prediction)[-1:] == _numbers(reference)[-1:]),
    "true_false": lambda prediction, reference: float(_truth(prediction) == _truth(reference)),
    "substring": metrics.substring_match,
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
    """Mean of each task, and over the closed ones."""
    return with_means(means(scored), {"closed-ended": CLOSED})


LEVAL = Benchmark(
    "leval", "L-Eval", tuple(SUBSETS), read, score, aggregate, "L4NLP/LEval", "GPL-3.0 (of the repository)"
)
