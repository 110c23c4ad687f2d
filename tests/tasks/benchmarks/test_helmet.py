from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.tasks.benchmarks.helmet import CATEGORIES, HELMET, SUBSETS, balanced, parsed, ranking
from ropewalk.tasks.benchmarks.question import Scored, grade
from tests.tasks.benchmarks.files import Row, jsonl, refused, table

RAG: Row = {"question": "Who?", "answers": ["Ann", "A. B."], "ctxs": [{"title": "T", "text": "Ann did."}]}
RANK: Row = {
    "query": "q",
    "ctxs": [
        {"id": "11", "text": "x", "label": 1},
        {"id": "7", "text": "y", "label": 3},
        {"id": "9", "text": "z", "label": 0},
    ],
}
KV: Row = {"context": '{"k": "v1"}', "question": "k", "answer": "v1", "demos": [["a", "b"], ["c", "d"], ["e", "f"]]}
NEEDLE: Row = {"context": "12 and 34", "query": "red-fox", "type_needle_v": "numbers", "answer": ["12", "34"]}
STORY: Row = {"context": "Story.", "input": "Who?", "answer": ["Bob"], "options": ["Ann", "Bob", "Cid", "Dan"]}
NARRATIVE: Row = {"context": "Story.", "question": "Who?", "answers": ["Ann"]}
BOOK: Row = {"context": "Book.", "answer": ["A war."], "keypoints": ["a", "b"]}
CASE: Row = {"sources": ["One.", "Two."], "summary/short": "A case.", "keypoints": ["a"]}
ASQA: Row = {
    "question": "Q",
    "docs": [{"title": "T", "text": "x"}],
    "qa_pairs": [{"short_answers": ["Ann", "A."]}, {"short_answers": ["Bob"]}],
}
QAMPARI: Row = {"question": "Q", "docs": [{"title": "T", "text": "x"}], "answers": [[f"name{i}"] for i in range(8)]}
LABELLED: Row = {"text": "new text", "label": "blue"}
ROWS = {
    "json_kv": KV,
    "msmarco_rerank": RANK,
    "narrativeqa": NARRATIVE,
    "infbench_qa": STORY,
    "infbench_choice": STORY,
    "infbench_sum": BOOK,
    "multi_lexsum": CASE,
    "alce_asqa": ASQA,
    "alce_qampari": QAMPARI,
    **dict.fromkeys(CATEGORIES["recall"][1:], NEEDLE),
    **dict.fromkeys(CATEGORIES["rag"], RAG),
    **dict.fromkeys(CATEGORIES["icl"], LABELLED),
}
RIGHT = {
    "msmarco_rerank": "ID7 > ID11 > ID9",
    "infbench_choice": "B",
    "alce_asqa": "Ann and Bob [1]",
    "alce_qampari": "name0 name1 name2 name3 name4",
    **dict.fromkeys(CATEGORIES["recall"][1:], "34, 12"),
}


def load(folder: Path, name: str, **options: int):
    if name in CATEGORIES["icl"]:
        texts = [{"text": f"{label} text {i}", "label": label} for label in ("blue", "red", "green") for i in range(4)]
        jsonl(folder, f"{name}.demos", *texts)
    [question] = HELMET.load(jsonl(folder, name, ROWS[name]), **{"n_tokens": 8192} | options)
    return question


@pytest.mark.parametrize("name", [n for n in SUBSETS if n not in ("narrativeqa", "infbench_sum", "multi_lexsum")])
def test_the_right_answer_scores_1_in_every_set_scored_by_rule(tmp_path: Path, name: str) -> None:
    if name == "infbench_qa":
        pytest.importorskip("rouge_score")
    question = load(tmp_path, name)
    assert HELMET.score(RIGHT.get(name, question.references[0]), question) == pytest.approx(1.0)
    assert HELMET.score("nothing", question) == 0.0


@pytest.mark.parametrize(
    ("name", "prediction", "value"),
    [
        ("nq", "I say: the ann", 1.0),
        ("popqa", "answer: A B", 1.0),
        ("ruler_niah_mv", "12", 0.5),
        ("json_kv", "Corresponding value: V1", 1.0),
        ("msmarco_rerank", "7", pytest.approx(3 / (3 + 1 / 1.584962500721156))),
        ("infbench_choice", "Answer: (B)", 1.0),
        ("infbench_choice", "It is B. Bob.", 1.0),
        ("infbench_choice", "Bob", 0.0),
        ("alce_asqa", "Only A. here", 0.0),
        ("alce_asqa", "Bob", 0.5),
        ("alce_qampari", "name1 and name7", 0.4),
    ],
)
def test_answers_by_hand(tmp_path: Path, name: str, prediction: str, value: float) -> None:
    assert HELMET.score(prediction, load(tmp_path, name)) == value


def test_labels_in_context_are_numbers_and_balanced(tmp_path: Path) -> None:
    question = load(tmp_path, "trec_fine")
    labels = Counter(line for line in question.context.split("\n") if line.startswith("label:"))
    assert sum(labels.values()) == 400 and max(labels.values()) - min(labels.values()) <= 1
    shown = [block for block in question.context.split("\n\n") if block.startswith("blue")]
    assert {block.split("label: ")[1] for block in shown} == {question.references[0]}
    assert HELMET.score(f"label: {question.references[0]}\ntext", question) == 1.0
    assert HELMET.score(f"maybe {question.references[0]}", question) == 0.0
    assert load(tmp_path, "trec_fine").context == question.context
    assert load(tmp_path, "trec_fine", seed=1).context != question.context


def test_balanced_rounds_use_every_text_before_one_repeats() -> None:
    drawn = balanced({"a": ["a1", "a2"], "b": ["b1", "b2", "b3"]}, 8, random.Random(0))
    assert [Counter(label for _, label in drawn[i : i + 2]) for i in (0, 2, 4, 6)] == [Counter("ab")] * 4
    assert set(text for text, label in drawn[:4] if label == "a") == {"a1", "a2"}
    assert len({text for text, label in drawn[:6] if label == "b"}) == 3


def test_examples_are_about_other_questions(tmp_path: Path) -> None:
    demos = [
        RAG,
        *(RAG | {"question": f"Other {i}?", "answers": [f"a{i}"]} for i in (1, 2)),
        RAG | {"question": "Other 1?"},
    ]
    jsonl(tmp_path, "nq.demos", *demos)
    question = load(tmp_path, "nq")
    assert question.before.count("Question:") == 2 and "Who?" not in question.before
    assert "Other 1?" in question.before and "Other 2?" in question.before
    assert load(tmp_path, "nq", shots=0).before.count("Question:") == 0
    with pytest.raises(UserError, match=r"nq.demos.jsonl: 2 examples about other questions, expected 3 or more"):
        load(tmp_path, "nq", shots=3)


def test_key_value_examples_come_with_the_row(tmp_path: Path) -> None:
    question = load(tmp_path, "json_kv")
    assert "Key: a\nCorresponding value: b" in question.after and "Key: e" not in question.after
    assert question.after.endswith("Key: k\nCorresponding value:")


def test_popular_subjects_are_left_out_of_popqa(tmp_path: Path) -> None:
    file = jsonl(tmp_path, "popqa", RAG | {"s_pop": 5000}, RAG | {"s_pop": 20})
    assert [q.source.rpartition(":")[2] for q in HELMET.load(file)] == ["2"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Ranking: ID3 > ID1", ["3", "1"]),
        ("[ID: 3] > [ID: 12]", ["3", "12"]),
        ("1. then 4 > 5 > 6", ["4", "5", "6"]),
        ("none", []),
        ("first 2 > 1\nlater 7", ["2", "1"]),
    ],
)
def test_rankings_are_the_longest_chain(text: str, expected: list[str]) -> None:
    assert ranking(text) == expected


def test_what_is_behind_the_prefix() -> None:
    assert parsed("I think.\nanswer: Answer: Ann\nBob") == "Ann"
    assert parsed("first\nsecond") == "first" and parsed("") == ""


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("nq", {"ctxs": []}, '"ctxs" is []'),
        ("nq", {"ctxs": [{"title": "T"}]}, 'ctxs[0]: no "text"'),
        ("msmarco_rerank", {"ctxs": [{"id": "1", "text": "x", "label": 0}]}, '"label" above 0'),
        ("msmarco_rerank", {"ctxs": [{"id": "1", "text": "x", "label": "high"}]}, 'ctxs[0]: "label"'),
        ("json_kv", {"answer": "v2"}, 'a part of "context"'),
        ("json_kv", {"demos": [["a"]]}, "a list of [key, value]"),
        ("ruler_niah_mv", {"answer": ["12", "99"]}, 'parts of "context"'),
        ("infbench_choice", {"answer": ["Eve"]}, 'one of four "options"'),
        ("infbench_sum", {"keypoints": []}, '"keypoints" is []'),
        ("alce_qampari", {"answers": ["x"]}, "a list of lists"),
        ("nlu", {}, "nlu.demos.jsonl: no such file"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, name: str, change: Row, word: str) -> None:
    refused(HELMET, jsonl(tmp_path, name, ROWS[name] | change), f"{name}.", word)


def test_labels_without_examples_and_odd_lengths_are_refused(tmp_path: Path) -> None:
    jsonl(tmp_path, "nlu.demos", {"text": "x", "label": "red"})
    refused(HELMET, jsonl(tmp_path, "nlu", LABELLED), "nlu.jsonl:1", "a label of nlu.demos.jsonl")
    refused(HELMET, tmp_path, "no prompts of 5000 tokens", n_tokens=5000)


def test_judged_sets_are_skipped_without_a_judge_and_graded_with_one(tmp_path: Path) -> None:
    class Generous:
        name = "generous"

        def __call__(self, prompt: str) -> str:
            return "Score: 3" if "reference answers" in prompt else "Score: 1"

    questions = [load(tmp_path, name) for name in ("narrativeqa", "infbench_sum", "multi_lexsum")]
    predictions = {question.id: "One sentence." for question in questions}
    without = grade(HELMET, questions, predictions)
    assert set(without.skipped) == {"narrativeqa", "infbench_sum", "multi_lexsum"} and not without.table
    table = grade(HELMET, questions, predictions, Generous()).table
    assert table["narrativeqa"] == 100.0 and table["summ"] == pytest.approx(100 * (2 / 3 + 1) / 2)
    assert table["infbench_sum"] == pytest.approx(100 * 2 / 3)


def test_categories_are_means_of_sets_and_cite_is_never_whole(tmp_path: Path) -> None:
    template = load(tmp_path, "nq")
    questions = [replace(template, subset=name) for name in SUBSETS]
    reported = table(HELMET, questions, [float(name in CATEGORIES["rag"]) for name in SUBSETS])
    assert reported["rag"] == 100.0 and reported["recall"] == 0.0 and "cite" not in reported
    assert "alce_asqa (correctness)" in reported
    assert "rag" not in HELMET.aggregate([Scored(q, "", 1.0) for q in questions if q.subset != "popqa"])
