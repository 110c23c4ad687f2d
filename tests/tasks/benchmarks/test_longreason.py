from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.tasks.benchmarks.longreason import LONGREASON
from tests.tasks.benchmarks.files import Row, jsonl, refused, table

ROW: Row = {"example_idx": "4", "background": "Facts.", "final_inquiry": "Which?\nA. x\nB. y", "answer": "B"}


@pytest.mark.parametrize(
    ("prediction", "value"),
    [
        ("The correct option is B", 1.0),
        ("Option B", 1.0),
        ("It's B.", 1.0),
        ("It's A.", 0.0),
        ("So the answer is B.", 1.0),
        ("Answer: A. Or rather, the answer is (B)", 1.0),
        ("B or A", 0.0),
        ("", 0.0),
    ],
)
def test_the_last_stated_letter_counts(tmp_path: Path, prediction: str, value: float) -> None:
    [question] = LONGREASON.load(jsonl(tmp_path, "8k", ROW))
    assert question.id == "8k/4" and ROW["final_inquiry"] in question.after
    assert LONGREASON.score(prediction, question) == value


def test_drops_are_against_the_expanded_texts(tmp_path: Path) -> None:
    for name in ("original", "expanded", "8k", "128k"):
        jsonl(tmp_path, name, ROW, ROW | {"example_idx": "5"})
    questions = LONGREASON.load(tmp_path)
    reported = table(LONGREASON, questions, [1.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.0, 0.5])
    assert reported["drop: 8k"] == 25.0 and reported["drop: 128k"] == 50.0 and "drop: original" not in reported
    assert "drop: 8k" not in table(LONGREASON, questions[4:], [1.0] * 4)


@pytest.mark.parametrize(
    ("change", "word"),
    [({"answer": "Yes"}, "a letter from A to D"), ({"background": ""}, '"background"'), ({"final_inquiry": 3}, "3")],
)
def test_bad_rows_are_refused(tmp_path: Path, change: Row, word: str) -> None:
    refused(LONGREASON, jsonl(tmp_path, "8k", ROW | change), "8k.jsonl:1", word)
