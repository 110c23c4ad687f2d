from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.tasks.benchmarks import m4le_build
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


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = random.Random(1)
    words = "red green tea sky cat river stone lamp".split()

    def sentence() -> str:
        return " ".join(rng.choices(words, k=rng.randint(4, 12))) + "."

    rows = [
        {"text": f"T{i} {sentence()} {sentence()}", "label": rng.choice(["sport", "law", "art"])} for i in range(150)
    ]
    return jsonl(tmp_path_factory.mktemp("short"), "short", *rows)


@pytest.fixture(scope="module")
def built(short: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    m4le_build.build(short, out, buckets=(200, 600), n=8, seed=3)
    return out


def test_built_files_are_read_back_and_every_length_is_in_its_bucket(built: Path) -> None:
    questions = M4LE.load(built)
    assert len(questions) == 5 * 2 * 8
    for file in built.glob("*.jsonl"):
        for row in map(json.loads, file.read_text().splitlines()):
            text = f"{row['instruction']}\n{row['input']} {row['answers'][0]}"
            assert row["total_length"] == len(text.split())
            assert {200: 0, 600: 200}[row["length_bucket"]] < row["total_length"] <= row["length_bucket"]


def test_the_same_seed_builds_the_same_file_and_another_one_does_not(short: Path, built: Path, tmp_path: Path) -> None:
    again = m4le_build.build(short, tmp_path / "a", buckets=(200, 600), n=8, seed=3)
    other = m4le_build.build(short, tmp_path / "b", buckets=(200, 600), n=8, seed=4)
    for same, different in zip(again, other, strict=True):
        assert same.read_text() == (built / same.name).read_text() != different.read_text()


def test_a_solver_by_rules_gets_every_built_answer(short: Path, built: Path) -> None:
    """It knows only the short file and the prompt."""
    known = {}
    for row in map(json.loads, short.read_text().splitlines()):
        known[row["text"]] = row["label"]
    places = set()
    for question in M4LE.load(built):
        text = question.context + question.after
        body, asked = text.rsplit("\n\n", 1)
        texts = dict(re.findall(r"\[([0-9A-F]{6})\] (.*?)(?=\n\n\[|$)", body, re.S))
        quoted = re.search(r'"(\w+)"', asked)
        if question.subset == "built_explicit-single":
            key = re.search(r"[0-9A-F]{6}", asked)[0]
            places.add(list(texts).index(key))
            answer = known[texts[key]]
        elif question.subset == "built_semantic-single":
            first = asked.split("continues this one? ")[1].split("\nId:")[0]
            [answer] = [key for key, second in texts.items() if f"{first} {second}" in known]
        elif question.subset == "built_global":
            [answer] = {known[t] for t in texts.values()}
        else:
            members = [key for key, t in texts.items() if known[t] == quoted[1]]
            assert len(members) > 1
            answer = ", ".join(members) if "multiple" in question.subset and "ids" in asked else str(len(members))
        assert M4LE.score(answer, question) == 1.0, question.id
    assert places >= {0, 4}


def test_places_go_round_every_fifth_or_tenth() -> None:
    assert [m4le_build.place_of(i, 12) for i in range(5)] == [0, 4, 9, 0, 4]
    assert [m4le_build.place_of(i, 200) for i in range(3)] == [0, 9, 19]
    assert m4le_build.place_of(7, 3) == 0


def test_too_few_texts_or_labels_are_refused(short: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"150 texts make no explicit-single instance longer than 9000 and at most 90000"
    ):
        m4le_build.build(short, tmp_path, buckets=(9000, 90_000), n=1)
    one = jsonl(tmp_path, "one", {"text": "A b.", "label": "x"})
    with pytest.raises(UserError, match=r"1 label\(s\)"):
        m4le_build.build(one, tmp_path)
    bad = jsonl(tmp_path, "bad", {"text": "A b.", "label": "x"}, {"text": "A b.", "label": ""})
    with pytest.raises(UserError, match=r'bad.jsonl:2: "label" is'):
        m4le_build.build(bad, tmp_path)


def test_every_published_task_has_an_ability() -> None:
    published = [name for name in SUBSETS if not name.startswith("built_")]
    assert len(published) == 39 and len({SUBSETS[name].ability for name in published}) == 5
