from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.tasks.benchmarks.m4le import M4LE, SUBSETS, bleu
from ropewalk.tasks.benchmarks.question import Scored
from tests.tasks.benchmarks.files import Row, jsonl, refused, table

ROW: Row = {"instruction": "Do it.", "input": "long " * 300 + "\nQuestion?", "answers": ["Ann"], "length_bucket": 1000}


def load(folder: Path, name: str, **change: object):
    [question] = M4LE.load(jsonl(folder, name, ROW | change))
    return question


def test_the_prompt_is_instruction_and_input(tmp_path: Path) -> None:
    question = load(tmp_path, "nq-open")
    assert question.before + question.context + question.after == f"{ROW['instruction']}\n{ROW['input']}"
    assert question.after.endswith("Question?") and len(question.after) == 500


@pytest.mark.parametrize(
    ("name", "answer", "prediction", "value"),
    [
        ("nq-open", "Ann", "It is ann, I think", 1.0),
        ("nq-open", "Ann", "Bob. Ann", 0.0),
        ("nq-open", "U.S.", "the U.S. army", 1.0),
        ("nq-open", "U.S.", "none\nU.S.", 0.0),
        ("wikitext-103", "37B155.", "37b155. More", 1.0),
        ("wikitext-103", "37B155", "C29BD6 or 37B155", 0.0),
        ("mnds-news_explicit-single", "sport", "Sport", 1.0),
        ("mnds-news_explicit-single", "sport", "Sport.", 0.0),
        ("mnds-news_explicit-single", "sport.", "sport", 0.0),
        ("thucnews_explicit-single", "体育", "体育。", 0.0),
        ("marc", "A1, B2,C3.", "B2, X9. A1", 2 * 1 / 5),
        ("marc", "A1,B2", "B2,,A1,", 1.0),
        ("marc", "A1", "", 0.0),
        ("online-shopping", "A1，B2", "A1，B2。C3", 1.0),
        ("mnds-news_semantic-multiple", "3. Because", "3.", 1.0),
        ("bigpatent_global_cls", "7", "7: physics", 1.0),
        ("cnnnews", "a b c d", "a c x y z\nb d", 0.5),
    ],
)
def test_answers_by_hand(tmp_path: Path, name: str, answer: str, prediction: str, value: float) -> None:
    assert M4LE.score(prediction, load(tmp_path, name, answers=[answer])) == pytest.approx(value)


def test_quoted_chinese_summaries_are_unquoted(tmp_path: Path) -> None:
    pytest.importorskip("jieba")
    question = load(tmp_path, "news2016", answers=["北京天安门"])
    assert M4LE.score('摘要："北京天安门"好', question) == pytest.approx(1.0)


def test_files_named_as_in_the_official_evaluation_are_found(tmp_path: Path) -> None:
    for name in ("mnds-news_explicit-single_cls+ret", "drcd_semantic-single_qa", "thucnews_semantic-multiple_cls+cnt"):
        jsonl(tmp_path, name, ROW)
    found = {q.subset for q in M4LE.load(tmp_path)}
    assert found == {"mnds-news_explicit-single", "drcd_semantic-single", "thucnews_semantic-multiple"}


def test_bleu_is_taken_over_the_whole_bucket(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    rows = [ROW | {"answers": [text]} for text in ("the cat sat on the mat", "a dog ran far away today")]
    questions = M4LE.load(jsonl(tmp_path, "tedtalks-zh2en", *rows))
    answers = ["the cat sat on the mat", "a dog ran home again today"]
    reported = M4LE.aggregate([Scored(q, a, 0.0) for q, a in zip(questions, answers, strict=True)])
    precisions = [10 / 12, 7 / 10, 5 / 8, 3 / 6]
    expected = 100 * (precisions[0] * precisions[1] * precisions[2] * precisions[3]) ** 0.25
    assert reported["tedtalks-zh2en: 1000"] == pytest.approx(expected)
    assert bleu(["我爱北京"], [["我爱北京"]], zh=True) == pytest.approx(1.0)


def test_abilities_are_reported_by_bucket(tmp_path: Path) -> None:
    questions = [load(tmp_path, "nq-open"), load(tmp_path, "duorc"), load(tmp_path, "duorc", length_bucket=2000)]
    assert table(M4LE, questions, [1.0, 0.5, 0.0]) == {
        "nq-open: 1000": 100.0,
        "duorc: 1000": 50.0,
        "duorc: 2000": 0.0,
        "semantic single: 1000": 75.0,
        "semantic single: 2000": 0.0,
    }


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"answers": []}, '"answers"'),
        ({"answers": ["."]}, "before the end mark"),
        ({"length_bucket": "1k"}, "whole number"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, change: Row, word: str) -> None:
    refused(M4LE, jsonl(tmp_path, "marc", ROW, ROW | change), "marc.jsonl:2", word)


def test_every_published_task_has_an_ability() -> None:
    assert len(SUBSETS) == 39 and len({subset.ability for subset in SUBSETS.values()}) == 5
