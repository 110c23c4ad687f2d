"""Long-RewardBench: which of several answers about a long context is the better one (arXiv 2510.06915).

Files are those of the hub set, one per task: ``{"prompt_template": [{"role", "content"}], ...}`` with "chosen" and
"rejected" or, where "tasktype" is "BestOfN", with "candidates", the best one first. A model that writes replies with a
ranking, "2 > 1"; the rewards of a model that scores become one by ``ranking``. The prompt is our own wording.

Not copied from the official code: prompts over 131072 tokens lose their middle, and the label may no longer hold. Here
contexts are never shortened. The order in which responses are shown comes from the question, not from a run.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path

from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, around, means
from ropewalk.texts import rows as records
from ropewalk.texts.rows import Record

SUBSETS = ("LongQA", "Summ", "Safety", "ICL", "Cite", "Code", "Math")
MAX_NEW_TOKENS = 2048
TEMPLATE = (
    "Several responses to a task follow it. Rank them by how right and useful they are, going by the task's text.\n\n"
    "{context}\n\n{responses}\n\n"
    'Reason briefly, then end with a line "Ranking: " and the numbers, the best response first, as in "Ranking: 2 > 1".'
)


def load(source: str | Path, subsets: Sequence[str] | None = None) -> list[Question]:
    """Questions of Long-RewardBench.

    Args:
        source: folder with ``LongQA.jsonl`` and so on, one such file, or a hub id.
        subsets: tasks wanted; every one that is there unless given.

    Raises:
        UserError: naming file and line, key, value seen and value expected.
    """
    return [_question(row, name) for name, rows in records.tables(source, SUBSETS, subsets) for row in rows]


def _question(row: Record, name: str) -> Question:
    kind = row.one_of("tasktype", ("PairWise", "BestOfN")) if row.has("tasktype") else "PairWise"
    responses = row.texts("candidates") if kind == "BestOfN" else (row.text("chosen"), row.text("rejected"))
    if len(responses) < 2:
        raise row.refuse("candidates", "two or more strings")
    context = "\n\n".join(message.text("content") for message in row.records("prompt_template"))
    order = random.Random(context).sample(range(len(responses)), len(responses))
    shown = tuple(responses[i] for i in order)
    listed = "\n\n".join(f"Response {i}:\n{text}" for i, text in enumerate(shown, 1))
    before, after = around(TEMPLATE, responses=listed)
    return Question(
        id=f"{name}/{row.where.rpartition(':')[2]}",
        context=context,
        question=listed,
        references=(ranking([-place for place in order]),),
        subset=name,
        metric=kind,
        before=before,
        after=after,
        max_new_tokens=MAX_NEW_TOKENS,
        source=row.where,
        choices=shown,
        shorten=False,
        facts={"length": row.values.get("ctx_length_for_length")},
    )


def ranking(rewards: Sequence[float]) -> str:
    """The ranking that rewards stand for: "2 > 1" if the second response has the higher one; ties keep their order."""
    return " > ".join(str(i + 1) for i in sorted(range(len(rewards)), key=lambda i: -rewards[i]))


def score(prediction: str, question: Question) -> float:
    """The share of places with the right response, by the last ranking of a reply; 0 if it is none of all responses."""
    chains = re.findall(r"\d+(?:\s*>\s*\d+)+", prediction)
    places = re.findall(r"\d+", chains[-1]) if chains else []
    ideal = question.references[0].split(" > ")
    if sorted(places) != sorted(ideal):
        return 0.0
    return sum(place == best for place, best in zip(places, ideal, strict=True)) / len(ideal)


def aggregate(scored: Sequence[Scored]) -> dict[str, float]:
    """Pairs: each task, each length, and all; best-of-N: each number of candidates, and all; and both together."""
    pairs = [item for item in scored if item.question.metric == "PairWise"]
    ranked = [item for item in scored if item.question.metric == "BestOfN"]
    lengths = [item for item in pairs if item.question.facts["length"]]
    return {
        **means(pairs),
        **means(lengths, lambda item: str(item.question.facts["length"])),
        **means(pairs, lambda _: "pairs"),
        **means(ranked, lambda item: f"best of {len(item.question.choices)}"),
        **means(ranked, lambda _: "best of N"),
        **means(scored, lambda _: "average"),
    }


LONGREWARDBENCH = Benchmark("longrewardbench", load, score, aggregate, "LCM-Lab/LongRewardBench", "Apache-2.0")
