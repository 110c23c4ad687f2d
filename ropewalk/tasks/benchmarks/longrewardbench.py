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

from ropewalk.tasks.benchmarks.question import Benchmark, Question, Scored, means
from ropewalk.texts.rows import Row

SUBSETS = ("LongQA", "Summ", "Safety", "ICL", "Cite", "Code", "Math")
MAX_NEW_TOKENS = 2048
TEMPLATE = (
    "Several responses to a task follow it. Rank them by how right and useful they are, going by the task's text.\n\n"
    "{context}\n\n{responses}\n\n"
    'Reason briefly, then end with a line "Ranking: " and the numbers, the best response first, as in "Ranking: 2 > 1".'
)


def read(row: Row, name: str) -> list[Question]:
    """The question of a row."""
    kind = row.one_of("tasktype", ("PairWise", "BestOfN")) if row.has("tasktype") else "PairWise"
    responses = row.texts("candidates") if kind == "BestOfN" else (row.text("chosen"), row.text("rejected"))
    if len(responses) < 2:
        raise row.refuse("candidates", "two or more strings")
    context = "\n\n".join(message.text("content") for message in row.rows("prompt_template"))
    order = random.Random(context).sample(range(len(responses)), len(responses))
    shown = tuple(responses[i] for i in order)
    listed = "\n\n".join(f"Response {i}:\n{text}" for i, text in enumerate(shown, 1))
    right = ranking([-place for place in order])
    return [
        Question.of(
            row, name, TEMPLATE, context, (right,), kind, MAX_NEW_TOKENS, question=listed, texts={"responses": listed},
            choices=shown, shorten=False, facts={"length": row.values.get("ctx_length_for_length")},
        )
    ]  # fmt: skip


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


LONGREWARDBENCH = Benchmark(
    "longrewardbench",
    "Long-RewardBench",
    SUBSETS,
    read,
    score,
    aggregate,
    "the files TASK.jsonl of LCM-Lab/LongRewardBench",
    "Apache-2.0",
)
