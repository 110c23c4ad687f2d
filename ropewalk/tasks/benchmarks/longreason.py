"""LongReason: 794 multiple-choice reasoning questions in ever longer contexts (arXiv 2501.15089).

Files are the splits of the hub set, named ``original``, ``expanded``, ``8k`` ... ``128k``, with ``{"example_idx",
"background", "final_inquiry", "answer"}`` per row; data from before May 2025 has answers that do not fit the questions.
The prompt is our own wording and asks for reasoning. Chance is 25 points.
"""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.tasks import metrics
from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, means
from ropewalk.texts.rows import Row

SUBSETS = ("original", "expanded", "8k", "16k", "32k", "64k", "128k")
MAX_NEW_TOKENS = 1024  # ours; reasoning comes before the letter
TEMPLATE = (
    "Read the text and answer the multiple-choice question about it.\n\n{context}\n\n{question}\n\n"
    'Think step by step, then end with "The answer is" and the letter.'
)


def read(row: Row, name: str) -> list[Question]:
    """The question of a row."""
    answer = metrics.stated_choice(row.text("answer"))
    if not answer:
        raise row.refuse("answer", "a letter from A to D")
    return [
        Question.of(
            row, name, TEMPLATE, row.text("background"), (answer,), "choice", MAX_NEW_TOKENS,
            row.answers("example_idx")[0], row.text("final_inquiry"),
        )
    ]  # fmt: skip


def score(prediction: str, question: Question) -> float:
    """1 if the letter that the answer states last is right; none stated is wrong."""
    return float(metrics.stated_choice(prediction) == question.references[0])


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Accuracy of each split, and by how much each length is below "expanded", the same texts without padding."""
    table = means(scored)
    drops = {f"drop: {name}": table["expanded"] - table[name] for name in SUBSETS[2:] if {name, "expanded"} <= {*table}}
    return {**table, **drops}


LONGREASON = Benchmark(
    "longreason", "LongReason", SUBSETS, read, score, aggregate,
    "the splits of lz1bytedance/LongReason, named SPLIT.parquet", "CC-BY-4.0", split="{subset}",
)  # fmt: skip
