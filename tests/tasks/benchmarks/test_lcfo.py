from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.tasks.benchmarks.lcfo import LCFO, SUBSETS, length_ratio
from ropewalk.tasks.benchmarks.question import Scored
from tests.tasks.benchmarks.files import Row, jsonl, refused

ROW: Row = {
    "source": " ".join(f"w{i}" for i in range(100)),
    "summary_20": " ".join(f"w{i}" for i in range(20)),
    "summary_10": " ".join(f"w{i}" for i in range(10)),
    "summary_5": "w0 w1 w2 w3 w4",
    "qa": [{"question": "First?", "answer": "w0"}, {"question": "Last?", "answer": "w99"}],
}


def test_summaries_expansions_and_questions_come_out_of_a_row(tmp_path: Path) -> None:
    questions = LCFO.load(jsonl(tmp_path, "lcfo", ROW))
    assert sorted(q.subset for q in questions) == sorted([*SUBSETS, "qa"])
    by_subset = {q.subset: q for q in questions}
    assert "about 20 words" in by_subset["summary_20"].after and by_subset["summary_20"].max_new_tokens == 40
    assert by_subset["expansion_5"].context == ROW["summary_5"] and "100 words" in by_subset["expansion_5"].after
    assert by_subset["expansion_5"].references == (ROW["source"],)
    assert len({q.id for q in questions}) == len(questions)
    assert [q.id for q in questions if q.subset == "qa"] == ["qa/1/0", "qa/1/1"]


def test_scores_and_lengths_by_hand(tmp_path: Path) -> None:
    pytest.importorskip("rouge_score")
    by_subset = {q.subset: q for q in LCFO.load(jsonl(tmp_path, "lcfo", ROW))}
    summary = by_subset["summary_10"]
    assert LCFO.score("w0 w1 w2 w3 w4", summary) == pytest.approx(2 * 0.5 / 1.5)
    assert length_ratio("w0 w1 w2 w3 w4", summary) == 0.5
    assert LCFO.score("w99", by_subset["qa"]) == 1.0
    reported = LCFO.aggregate([Scored(summary, "w0 w1 w2 w3 w4", 0.25), Scored(by_subset["qa"], "w99", 1.0)])
    assert reported == {"summary_10": 25.0, "qa": 100.0, "length: summary_10": 50.0}


def test_coverage_is_the_share_of_questions_that_a_judge_finds_answered(tmp_path: Path) -> None:
    class Judge:
        name = "judge"

        def __call__(self, prompt: str) -> str:
            return f"Score: {sum(answer in prompt.split('Summary: ')[1] for answer in ('w0', 'w99'))}"

    by_subset = {q.subset: q for q in LCFO.load(jsonl(tmp_path, "lcfo", ROW))}
    question = by_subset["coverage_10"]
    assert (question.before, question.after) == (by_subset["summary_10"].before, by_subset["summary_10"].after)
    assert LCFO.judged["coverage"](Judge(), "w0 is first", question) == 0.5


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"summary_5": ROW["source"]}, 'a text shorter than "source"'),
        ({"source": None}, '"source" is None'),
        ({"qa": [{"question": "x"}]}, 'qa[0]: no "answer"'),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, change: Row, word: str) -> None:
    refused(LCFO, jsonl(tmp_path, "lcfo", ROW | change), "lcfo.jsonl:1", word)


def test_subsets_are_chosen_by_name(tmp_path: Path) -> None:
    file = jsonl(tmp_path, "lcfo", ROW)
    assert [q.subset for q in LCFO.load(file, ["summary_5"])] == ["summary_5"]
    with pytest.raises(UserError, match="no subset 'summary_6'; did you mean 'summary_5'"):
        LCFO.load(file, ["summary_6"])
