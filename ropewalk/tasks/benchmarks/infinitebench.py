"""InfiniteBench: twelve tasks beyond 100k tokens (arXiv 2402.13718).

Files are those of the hub set: ``{"id", "context", "input", "answer", "options"}`` per line, one file per task. Prompts
are our own wording (the official ones differ from model to model).

Rooms for answers are the official ones where an answer continues the prompt, but hold a sentence at least ("The pass
key is 27611."). Behind a chat template they hold what real answers do: say the question again, or reason first.

Not copied from the official code:
  * multiple choice: any word that begins with A-D counts as a choice ("Because" is B), and so does "AB"; an empty
    answer ends the run. Here letters are read as ``metrics.stated_choice`` says; where
    none is stated, the text of the right choice and of no other is right too.
  * dialogue: only the first of several names is right, and one of several words can never be found. Here any is right.
  * ``int("3.5")`` ends the run where a whole number is expected. Here numbers are compared as numbers, with their sign.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, lettered, means, with_means
from ropewalk.texts.rows import Row


class Subset(NamedTuple):
    """How a task is asked and scored."""

    metric: str
    max_new_tokens: int
    template: str
    in_chat: int = 0


_FIND = "Something is hidden in a lot of text that does not matter. Find it.\n\n{context}\n\n{input}\nAnswer:"
_CHOICE = "{context}\n\n{input}\n{options}\n\nReply with the letter only (A, B, C or D).\nAnswer:"

SUBSETS = {
    "passkey": Subset("first_integer", 6, _FIND, 48),
    "number_string": Subset("first_integer", 12, _FIND, 64),
    "kv_retrieval": Subset(
        "word", 50, "Find the value of a key in this JSON object.\n\n{context}\n\n{input}\nValue:", 160
    ),
    "longbook_sum_eng": Subset("rougeLsum", 1200, "Summarise this book.\n\n{context}\n\nSummary of the book:"),
    "longbook_choice_eng": Subset("choice", 40, f"Answer a question about this book.\n\n{_CHOICE}", 128),
    "longbook_qa_eng": Subset(
        "qa_f1", 40, "Answer a question about this book, in a phrase.\n\n{context}\n\nQuestion: {input}\nAnswer:"
    ),
    "longbook_qa_chn": Subset("character_f1", 40, "请根据下面的书简短回答问题。\n\n{context}\n\n问题：{input}\n答案："),
    "longdialogue_qa_eng": Subset(
        "name",
        40,
        'One name in this dialogue is replaced by "$$MASK$$".\n\n{context}\n\nThe name behind "$$MASK$$" is:',
    ),
    "math_find": Subset("first_number", 3, "{input}\n\n{context}\n\n{input}\nReply with the number only.\nAnswer:"),
    "math_calc": Subset(
        "prefix",
        30000,
        "Compute step by step.\n\n{context}\n\nList the value after each operation, separated by commas:",
    ),
    "code_run": Subset("last_integer", 5, "{context}\n\n{input}\nReply with the number only.\nAnswer:", 512),
    "code_debug": Subset("choice", 5, f"One function of this code has an obvious error. Find it.\n\n{_CHOICE}", 256),
}
UNASKED = ("longbook_sum_eng", "longdialogue_qa_eng", "math_calc", "code_debug")  # the template says it all
PLANTED = ("passkey", "number_string", "kv_retrieval")  # answers that are in the context word by word


def read(row: Row, name: str) -> list[Question]:
    """The question of a row."""
    subset = SUBSETS[name]
    blank = name in UNASKED
    context, asked = row.text("context"), row.text("input", empty=blank) if row.has("input") or not blank else ""
    references = _values(row) if subset.metric == "prefix" else row.answers("answer")
    choices: tuple[str, ...] = ()
    if subset.metric == "choice":
        choices = row.texts("options")
        references = (_letter(row, references, choices),)
    if name in PLANTED and references[0] not in context:
        raise row.refuse("answer", 'a part of "context"')
    if subset.metric in ("first_integer", "first_number", "last_integer") and not all(
        metrics.numbers(reference) for reference in references
    ):
        raise row.refuse("answer", "a number, or a list of them")
    return [
        Question.of(
            row, name, subset.template, context, references, subset.metric, subset.max_new_tokens,
            row.values.get("id"), asked, {"input": asked, "options": lettered(choices)}, choices=choices,
            in_chat=subset.in_chat,
        )
    ]  # fmt: skip


def _values(row: Row) -> tuple[str, ...]:
    """The results of a calculation: a list of numbers, which may be in a list of one, or written out as text."""
    value = row.values.get("answer")
    while isinstance(value, list) and len(value) == 1 and isinstance(value[0], list | str):
        value = value[0]
    if isinstance(value, str):
        value = metrics.numbers(value)
    if not isinstance(value, list) or not value or not all(type(one) in (int, float) for one in value):
        raise row.refuse("answer", "a list of numbers")
    return tuple(map(str, value))


def _letter(row: Row, answer: Sequence[str], choices: Sequence[str]) -> str:
    """The right choice: files give its text, or the text and its letter."""
    if len(choices) != 4:
        raise row.refuse("options", "four strings")
    if len(answer) == 2 and answer[1] in tuple("ABCD"):
        return answer[1]
    if answer[0] not in choices:
        raise row.refuse("answer", 'one of "options"')
    return "ABCD"[choices.index(answer[0])]


def score(prediction: str, question: Question) -> float:
    """The task's rule, the best over all references."""
    if question.metric == "prefix":
        return _right_prefix(prediction, question.references)
    if question.metric == "choice":
        return _chosen(prediction, question)
    return metrics.best(METRICS[question.metric], prediction, question.references)


def _right_prefix(prediction: str, values: Sequence[str]) -> float:
    """The share of intermediate results before the first wrong one."""
    right = 0
    for got, value in zip(metrics.numbers(prediction), map(float, values), strict=False):
        if got != value:
            break
        right += 1
    return right / len(values)


def _chosen(prediction: str, question: Question) -> float:
    """Whether the letter is right or, where no letter is stated, the text of the right choice and of no other."""
    letter = metrics.stated_choice(prediction)
    if letter:
        return float(letter == question.references[0])
    named = [c for c, choice in zip("ABCD", question.choices, strict=True) if metrics.contains(prediction, choice)]
    return float(named == [question.references[0]])


def _is_word(prediction: str, reference: str) -> float:
    return float(reference in re.split(r"[\s:\"'.,?!{}]+", prediction))


def _is_name(prediction: str, reference: str) -> float:
    words, name = (" ".join(["", *re.findall(r"\w+", text.upper()), ""]) for text in (prediction, reference))
    return float(name in words)


def _ends_in(prediction: str, reference: str) -> float:
    words = re.split(r"[\s.`'\":*]+", prediction.strip(" \n.`'\":*"))
    return float(words[-1:] == [reference])


def _first_number(prediction: str, reference: str) -> float:
    return float(metrics.numbers(prediction)[:1] == [float(reference)])


METRICS = {
    "first_integer": lambda prediction, reference: float(metrics.first_integer(prediction) == reference),
    "word": _is_word,
    "name": _is_name,
    "last_integer": _ends_in,
    "first_number": _first_number,
    "qa_f1": metrics.qa_f1,
    "character_f1": metrics.character_f1_zh,
    "rougeLsum": lambda prediction, reference: metrics.rouge(prediction, reference, "rougeLsum"),
}


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean of each task, and over the twelve."""
    return with_means(means(scored), {"average": SUBSETS})


INFINITEBENCH = Benchmark(
    "infinitebench",
    "InfiniteBench",
    tuple(SUBSETS),
    read,
    score,
    aggregate,
    "the files TASK.jsonl of xinrongzhang2022/InfiniteBench",
    "MIT",
    split="{subset}",
)
