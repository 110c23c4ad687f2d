"""LongReason: 794 multiple-choice reasoning questions in ever longer contexts (arXiv 2501.15089).

Files are the splits of the hub set, named ``original``, ``expanded``, ``8k`` ... ``128k``, with ``{"example_idx",
"background", "final_inquiry", "answer"}`` per row; data from before May 2025 has answers that do not fit the questions.
The prompt is our own wording and asks for reasoning. Chance is 25 points.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, around, means
from ropewalk.texts import rows as records
from ropewalk.texts.rows import Record

SUBSETS = ("original", "expanded", "8k", "16k", "32k", "64k", "128k")
MAX_NEW_TOKENS = 1024  # ours; reasoning comes before the letter
TEMPLATE = (
    "Read the text and answer the multiple-choice question about it.\n\n{context}\n\n{question}\n\n"
    'Think step by step, then end with "The answer is" and the letter.'
)


def load(source: str | Path, subsets: Sequence[str] | None = None) -> list[Question]:
    """Questions of LongReason.

    Args:
        source: folder with ``8k.parquet`` and so on, one such file, or a hub id.
        subsets: splits wanted; every one that is there unless given.

    Raises:
        UserError: naming file and line, key, value seen and value expected.
    """
    if records.is_hub_id(source):  # the lengths are splits there, not configurations
        records.check_known(subsets, SUBSETS)
        return [_question(row, name) for name in subsets or SUBSETS for row in records.read(source, split=name)]
    return [_question(row, name) for name, rows in records.tables(source, SUBSETS, subsets) for row in rows]


def _question(row: Record, name: str) -> Question:
    asked = row.text("final_inquiry")
    before, after = around(TEMPLATE, question=asked)
    answer = metrics.stated_choice(row.text("answer"))
    if not answer:
        raise row.refuse("answer", "a letter from A to D")
    return Question(
        id=f"{name}/{row.answers('example_idx')[0]}",
        context=row.text("background"),
        question=asked,
        references=(answer,),
        subset=name,
        metric="choice",
        before=before,
        after=after,
        max_new_tokens=MAX_NEW_TOKENS,
        source=row.where,
    )


def score(prediction: str, question: Question) -> float:
    """1 if the letter that the answer states last is right; none stated is wrong."""
    return float(metrics.stated_choice(prediction) == question.references[0])


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Accuracy of each split, and by how much each length is below "expanded", the same texts without padding."""
    table = means(scored)
    drops = {f"drop: {name}": table["expanded"] - table[name] for name in SUBSETS[2:] if {name, "expanded"} <= {*table}}
    return {**table, **drops}


LONGREASON = Benchmark("longreason", load, score, aggregate, "lz1bytedance/LongReason", "CC-BY-4.0")
