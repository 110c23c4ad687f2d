"""LongBioBench: questions about many artificial biographies (arXiv 2506.02921).

Files are JSON lists ``[{"context": [biography, ...], "questions": {"NLG": [question, ...]}}]``, named after their task
as the published script names them, ``data_standard.json`` and so on, in a folder for each length and number of answers
(name those with several answers ``multi_standard.json`` to have both). Several answers are all wanted, in order. The
first question is asked; with ``with_shots`` others come before it as worked examples. Prompts are our own wording. The
repository states no licence. Contexts are never shortened: the asked biography might go.

Not copied from the official code:
  * names in order of age are found there anywhere in the answer, so that one that names people in both orders is right.
    Here the order counts in which they are named first, behind the last "therefore" (order, list, ...; else "so")
    that all follow.
  * a base model's answer is cut at the next "Question: ", and loses its last character where there is none.
  * the age of a person is read by a pattern that ends the run where a biography has no age. Here the row is left out.
  * whether a refusal counts is taken from the record of an earlier run. Here both versions of the context are asked.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, means, with_means
from ropewalk.texts.rows import Row

SUBSETS = {
    "standard": "contains",
    "multi_standard": "in_order",
    "paraphrase": "contains",
    "pronoun": "contains",
    "calculation": "last_integer",
    "rank": "ranked",
    "multihop": "answer",
    "twodiff": "age_difference",
    "citation": "cited",
    "idk": "contains",
}
REFUSAL = "not stated"
NAME = re.compile(r"(?<=Below is the bio of )(.*?)(?=\.)")
CONCLUSIONS = (r"\b(?:therefore|thus|hence|order|ranking|ranked|list|answer)\b", r"\bso\b", "^")  # the strongest first
AGE = re.compile(r"The age of .*? is (\d+)")
MAX_NEW_TOKENS = 256  # ours
TEMPLATE = (
    "Read these biographies and answer the question.{hint}\n\n{context}\n\n{examples}Question: {question}\n"
    "Answer: Based on the context,"
)
CITE = " Give the number of the biography, as in [3], behind each answer."
REFUSE = f' Where the biographies do not say, reply "{REFUSAL}".'


def read(row: Row, name: str, shots: int = 0) -> list[Question]:
    """One question behind ``shots`` worked ones, or two for "idk": with the asked sentence, and without."""
    bios, asked = row.texts("context"), row.row("questions").rows("NLG")
    question = _question(row, name, asked, bios, shots)
    if name != "idk":
        return [question]
    without = list(bios)
    for position, start, end in _spans(asked[0], bios):
        without[position] = bios[position][:start] + bios[position][end:]
    removed = replace(
        question,
        id=f"{question.id}/removed",
        context="".join(without),
        references=(REFUSAL,),
        metric="refusal",
    )
    return [question, removed]


def _question(row: Row, name: str, asked: Sequence[Row], bios: Sequence[str], shots: int) -> Question:
    if len(asked) <= shots:
        raise row.row("questions").refuse("NLG", f"{shots + 1} questions for {shots} examples")
    first, metric = asked[0], SUBSETS[name]
    references, facts = _answer(first, name, bios)
    if metric == "answer":
        metric = "last_integer" if isinstance(first.values["Answer"], int) else "contains"
    if metric == "contains" and len(references) > 1:
        metric = "in_order"
    worked = "".join(_example(example) for example in asked[1 : 1 + shots])
    texts = {"examples": worked, "hint": {"citation": CITE, "idk": REFUSE}.get(name, "")}
    numbered = "\n".join(f"Bio [{i}]: {bio}" for i, bio in enumerate(bios))
    context = numbered if name == "citation" else "".join(bios)
    return Question.of(
        row, name, TEMPLATE, context, references, metric, MAX_NEW_TOKENS, question=first.text("Question"), texts=texts,
        shorten=False, ends=("Question:",), facts=facts,
    )  # fmt: skip


def _answer(question: Row, name: str, bios: Sequence[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """References, and what else the score needs."""
    if name == "twodiff":
        return (str(question.row("Answer").integer("age_difference")),), {"ages": _ages(question, bios)}
    references = question.answers("Answer")
    if name == "rank" and len(references) == 1:
        references = tuple(re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", references[0].strip()))
    if name in ("standard", "multi_standard", "paraphrase", "pronoun", "idk", "citation"):
        text = "".join(bios).lower()
        dates = "birthdate" in (question.values.get("Property") or ())  # which may be written in another form
        if not dates and not all(answer.lower() in text for answer in references):
            raise question.refuse("Answer", "answers that a biography has")
    if name == "citation":
        return references, {"citations": tuple(f"[{position}]" for position in _positions(question, bios))}
    return references, {}


def _ages(question: Row, bios: Sequence[str]) -> dict[str, int]:
    """Age by name."""
    ages = {}
    for bio in bios:
        name, age = NAME.search(bio), AGE.search(bio)
        if name is None or age is None:
            raise question.refuse(
                "Question", 'biographies that say "Below is the bio of NAME." and "The age of NAME is N"'
            )
        ages[name[0]] = int(age[1])
    return ages


def _positions(question: Row, bios: Sequence[str]) -> list[int]:
    """In which biographies the answers stand."""
    positions = question.values.get("position_in_list")
    if not isinstance(positions, list) or not all(isinstance(p, int) and 0 <= p < len(bios) for p in positions):
        raise question.refuse("position_in_list", f"a list of numbers from 0 to {len(bios) - 1}")
    return positions


def _spans(question: Row, bios: Sequence[str]) -> list[tuple[int, int, int]]:
    """Biography, start and end of each sentence that has an answer."""
    positions, spans = _positions(question, bios), question.values.get("position_in_bios")
    if not isinstance(spans, list) or len(spans) != len(positions):
        raise question.refuse("position_in_bios", f"a list of {len(positions)} times [start, end]")
    for position, span in zip(positions, spans, strict=True):
        if not isinstance(span, list) or len(span) != 2 or not 0 <= span[0] < span[1] <= len(bios[position]):
            raise question.refuse("position_in_bios", "[start, end] within the biography")
    return [(position, start, end) for position, (start, end) in zip(positions, spans, strict=True)]


def _example(question: Row) -> str:
    reasoning = f"{question.text('Rationale')} Therefore, " if question.has("Rationale") else ""
    stem = question.text("Question_prefix") if question.has("Question_prefix") else "the answer is"
    paired = isinstance(question.values.get("Answer"), dict)
    answer = ", ".join(question.row("Answer").texts("ref_names") if paired else question.answers("Answer"))
    return f"Question: {question.text('Question')}\nAnswer: Based on the context, {reasoning}{stem} {answer}.\n"


def score(prediction: str, question: Question) -> float:
    """The task's rule, on the answer before a further "Question:"."""
    answer = question.answer(prediction)
    references = question.references
    if question.metric == "in_order":
        return metrics.all_in_order(answer, references)
    if question.metric == "ranked":
        return _ranked(answer, references)
    if question.metric == "last_integer":
        return float(metrics.last_integer(answer) == references[0])
    if question.metric == "age_difference":
        ages = [age for name, age in question.facts["ages"].items() if name in answer]
        return float(len(ages) == 2 and abs(ages[0] - ages[1]) == int(references[0]))
    if question.metric == "cited":
        return metrics.all_in_order(answer, references) * metrics.all_in_order(answer, question.facts["citations"])
    return metrics.best(metrics.contains, answer, references)


def _ranked(answer: str, names: Sequence[str]) -> float:
    """1 if all names follow each other in order, in the conclusion of an answer where it has one."""
    answer, wanted = answer.lower(), [name.lower() for name in names]
    for words in CONCLUSIONS:
        for found in reversed(list(re.finditer(words, answer))):
            places = [answer.find(name, found.end()) for name in wanted]
            if min(places) >= 0:
                return float(places == sorted(places))
    return 0.0


GROUPS = {
    "understanding": ("standard", "multi_standard", "paraphrase", "pronoun"),
    "reasoning": ("calculation", "rank", "multihop", "twodiff"),
    "trust": ("citation", "idk"),
}


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Accuracy of each task and group.

    A pair of "idk" is right if the model answers while the sentence is there, and refuses when it is gone.
    """
    pairs: dict[str, list[Scored]] = defaultdict(list)
    for item in scored:
        pairs[item.question.id.removesuffix("/removed")].append(item)
    whole = [Scored(items[0].question, "", min(item.score for item in items)) for items in pairs.values()]
    return with_means(means(whole), GROUPS)


def with_shots(shots: int) -> Benchmark:
    """LongBioBench with worked examples before the question."""
    return replace(LONGBIO, read=partial(read, shots=shots))


LONGBIO = Benchmark(
    "longbio", "LongBioBench", tuple(SUBSETS), read, score, aggregate,
    "github.com/Thomasyyj/LongBio-Benchmark, make files with its prepare_data.sh", "not stated",
    aliases={f"data_{name}": name for name in SUBSETS},
)  # fmt: skip
