from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.tasks.benchmarks.longrewardbench import LONGREWARDBENCH, ranking
from tests.tasks.benchmarks.files import Row, jsonl, refused, table

PAIR: Row = {
    "prompt_template": [{"role": "system", "content": "Be fair."}, {"role": "user", "content": "Long text."}],
    "tasktype": "PairWise",
    "chosen": "good",
    "rejected": "bad",
    "ctx_length_for_length": "4k",
    "subtype": "same",
}
BEST: Row = PAIR | {"tasktype": "BestOfN", "candidates": ["c0", "c1", "c2"]}


def test_the_reference_ranking_scores_1_and_stands_in_no_fixed_order(tmp_path: Path) -> None:
    rows = [PAIR | {"prompt_template": [{"role": "user", "content": f"Text {i}"}]} for i in range(20)]
    questions = LONGREWARDBENCH.load(jsonl(tmp_path, "LongQA", *rows))
    assert all(LONGREWARDBENCH.score(f"Ranking: {q.references[0]}", q) == 1.0 for q in questions)
    assert {q.references[0] for q in questions} == {"1 > 2", "2 > 1"}
    for question in questions:
        assert question.choices[int(question.references[0][0]) - 1] == "good" and not question.shorten


def test_best_of_n_counts_places_and_candidates_stand_best_first(tmp_path: Path) -> None:
    rows = [BEST | {"prompt_template": [{"role": "user", "content": f"Text {i}"}]} for i in range(10)]
    for question in LONGREWARDBENCH.load(jsonl(tmp_path, "Summ", *rows)):
        first, second, third = question.references[0].split(" > ")
        assert [question.choices[int(n) - 1] for n in (first, second, third)] == ["c0", "c1", "c2"]
        assert LONGREWARDBENCH.score(f"1 > 3 > 2? No: {first} > {second} > {third}", question) == 1.0
        assert LONGREWARDBENCH.score(f"{first} > {third} > {second}", question) == pytest.approx(1 / 3)
        assert LONGREWARDBENCH.score(f"Ranking: {first} > {second}", question) == 0.0
        assert LONGREWARDBENCH.score("", question) == 0.0


def test_rows_without_a_type_are_pairs(tmp_path: Path) -> None:
    row = {key: value for key, value in PAIR.items() if key != "tasktype"}
    assert LONGREWARDBENCH.load(jsonl(tmp_path, "Code", row))[0].metric == "PairWise"


def test_rewards_become_rankings() -> None:
    assert ranking([0.1, 0.9, 0.5]) == "2 > 3 > 1" and ranking([1.0, 1.0]) == "1 > 2"


def test_pairs_lengths_and_numbers_of_candidates_are_reported(tmp_path: Path) -> None:
    questions = LONGREWARDBENCH.load(jsonl(tmp_path, "Math", PAIR, PAIR | {"ctx_length_for_length": "8k"}, BEST))
    assert table(LONGREWARDBENCH, questions, [1.0, 0.0, 0.5]) == {
        "Math": 50.0, "4k": 100.0, "8k": 0.0, "pairs": 50.0, "best of 3": 50.0, "best of N": 50.0, "average": 50.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "word"),
    [
        (PAIR | {"tasktype": "pair"}, "one of PairWise, BestOfN"),
        (PAIR | {"chosen": ""}, '"chosen"'),
        (PAIR | {"prompt_template": []}, '"prompt_template" is []'),
        (BEST | {"candidates": ["one"]}, "two or more strings"),
        (BEST | {"candidates": None}, '"candidates" is None'),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, row: Row, word: str) -> None:
    refused(LONGREWARDBENCH, jsonl(tmp_path, "Cite", row), "Cite.jsonl:1", word)
