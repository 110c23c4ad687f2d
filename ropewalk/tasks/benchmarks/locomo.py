"""LoCoMo: questions about very long dialogues (arXiv 2402.17753).

The file is ``locomo10.json``: a list of ``{"sample_id", "conversation", "qa"}``, a conversation being ``session_1``,
``session_1_date_time`` and so on. Prompts are our own wording. Evidence recall belongs to retrieval and is not here.

Not copied from the official code:
  * unanswerable questions (category 5) reward a model that always refuses. They are reported on their own, and are not
    in the overall mean.
  * these questions are asked there as a choice of two, with the expected refusal in the prompt. Here they are asked as
    all others are.
  * the function named ROUGE-L returns ROUGE-1; neither is reported.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ropewalk.common.errors import UserError
from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, means
from ropewalk.texts.rows import Row, each_numbered

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop", 5: "unanswerable"}
REFUSALS = ("no information available", "not mentioned")
MAX_NEW_TOKENS = 64  # ours
TEMPLATE = (
    "Read this dialogue and answer the question about it, in its own words where that is possible.\n\n{context}\n\n"
    "Question: {question}{hint}\n"
    'Reply with a phrase, or with "not mentioned" where the dialogue does not say.\nAnswer:'
)


def read(row: Row, _: str = "") -> Iterator[Question | UserError]:
    """The questions about a dialogue; they share its context and stand together."""
    context = dialogue(row.row("conversation"))
    sample = row.text("sample_id")
    return each_numbered(row.rows("qa"), lambda number, qa: _question(qa, context, f"{sample}/{number}"))


def _question(qa: Row, context: str, name: str) -> Question:
    category = qa.integer("category")
    if category not in CATEGORIES:
        raise qa.refuse("category", "a number from 1 to 5")
    answers = REFUSALS if category == 5 else qa.answers("answer")[:1]
    if category == 3:
        answers = (answers[0].split(";")[0].strip(),)  # what follows explains
    hint = " (Give a date, going by the dates of the sessions.)" if category == 2 else ""
    metric = "refusal" if category == 5 else "list_f1" if category == 1 else "stemmed_f1"
    return Question.of(
        qa, CATEGORIES[category], TEMPLATE, context, answers, metric, MAX_NEW_TOKENS, name, qa.text("question"),
        {"hint": hint},
    )  # fmt: skip


def dialogue(conversation: Row) -> str:
    """Sessions in their order, each with its date and "speaker: text" lines; pictures by their captions.

    Raises:
        UserError: if there is no session, or a turn lacks its speaker or text.
    """
    numbers = sorted(int(found[1]) for key in conversation.values if (found := re.fullmatch(r"session_(\d+)", key)))
    if not numbers:
        raise conversation.refuse("session_1", "a list of turns")
    sessions = []
    for number in numbers:
        turns = [_turn(turn) for turn in conversation.rows(f"session_{number}")]
        date = conversation.text(f"session_{number}_date_time")
        sessions.append("\n".join([f"Session {number}, {date}", *turns]))
    return "\n\n".join(sessions)


def _turn(turn: Row) -> str:
    line = f"{turn.text('speaker')}: {turn.text('text', empty=turn.has('blip_caption'))}"
    return f"{line} [shares a picture: {turn.text('blip_caption')}]" if turn.has("blip_caption") else line


def score(prediction: str, question: Question) -> float:
    """Stemmed word F1; of lists, the mean over expected items of the best given one; for category 5, a refusal."""
    if question.metric == "refusal":
        return float(any(refusal in prediction.lower() for refusal in REFUSALS))
    reference = question.references[0]
    if question.metric == "stemmed_f1":
        return metrics.stemmed_f1(prediction, reference)
    given = prediction.split(",")
    best = [max(metrics.stemmed_f1(item, expected) for item in given) for expected in reference.split(",")]
    return sum(best) / len(best)


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Mean of each category, and over all answerable questions."""
    answerable = [item for item in scored if item.question.subset != CATEGORIES[5]]
    return {**means(scored), **means(answerable, lambda _: "answerable")}


LOCOMO = Benchmark(
    "locomo", "LoCoMo", tuple(CATEGORIES.values()), read, score, aggregate,
    "data/locomo10.json of github.com/snap-research/locomo", "CC-BY-NC-4.0", one_file=True,
)  # fmt: skip
