from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.tasks.benchmarks import longbench
from ropewalk.tasks.benchmarks.longbench import LONGBENCH, LONGBENCH_E, LONGBENCH_V2, SUBSETS, with_prompts
from ropewalk.tasks.benchmarks.question import Scored
from tests.tasks.benchmarks.files import Row, json_list, jsonl, refused, table

ROW: Row = {
    "_id": "7",
    "input": "Who {x}?",
    "context": "Ann did {context}.",
    "answers": ["Ann", "Ann B."],
    "length": 3,
    "dataset": "hotpotqa",
    "language": "en",
    "all_classes": None,
}
SPECIAL: dict[str, Row] = {
    "trec": {"answers": ["City"], "all_classes": ["City", "Person"]},
    "lsht": {"answers": ["体育"], "all_classes": ["体育", "财经"]},
    "passage_count": {"answers": ["3"]},
    "passage_retrieval_en": {"context": "Paragraph 1: a\nParagraph 12: b", "answers": ["Paragraph 12"]},
    "passage_retrieval_zh": {"context": "段落1：甲\n段落2：乙", "answers": ["段落2"]},
}
V2: Row = {
    "_id": "a",
    "domain": "Single-Document QA",
    "sub_domain": "Law",
    "difficulty": "easy",
    "length": "short",
    "question": "Which?",
    "choice_A": "one",
    "choice_B": "two",
    "choice_C": "three",
    "choice_D": "four",
    "answer": "C",
    "context": "Three it is.",
}


def test_questions_are_read_and_asked_with_their_texts_untouched(tmp_path: Path) -> None:
    [question] = LONGBENCH.load(jsonl(tmp_path, "hotpotqa", ROW))
    assert question.id == "hotpotqa/7" and question.references == ("Ann", "Ann B.") and question.max_new_tokens == 32
    assert question.source.endswith("hotpotqa.jsonl:1") and question.chat
    assert "Who {x}?" in question.after and question.context == "Ann did {context}."


@pytest.mark.parametrize("name", SUBSETS)
def test_the_right_answer_scores_1_in_every_subset(tmp_path: Path, name: str) -> None:
    if SUBSETS[name].metric.endswith("_zh"):
        pytest.importorskip("jieba")
    [question] = LONGBENCH.load(jsonl(tmp_path, name, ROW | SPECIAL.get(name, {})))
    assert LONGBENCH.score(question.references[0], question) == pytest.approx(1.0)
    assert LONGBENCH.score("", question) == 0.0


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("hotpotqa", {"answers": []}, ['"answers" is []', "one or more strings"]),
        ("hotpotqa", {"answers": ["a", ""]}, ["\"answers\" is ['a', '']"]),
        ("hotpotqa", {"context": " "}, ["\"context\" is ' '", "a string that is not empty"]),
        ("hotpotqa", {"input": ""}, ["\"input\" is ''"]),
        ("hotpotqa", {"length": "3"}, ["\"length\" is '3'", "a whole number"]),
        ("trec", {"all_classes": None}, ['"all_classes" is None']),
        ("trec", {"answers": ["Place"]}, ['names out of "all_classes"']),
        ("passage_count", {"answers": ["three"]}, ["whole numbers as strings"]),
        ("passage_retrieval_en", {"answers": ["Paragraph 2"]}, ['with N in "context"']),
        ("passage_retrieval_en", {"answers": ["12"]}, ['"Paragraph N"']),
    ],
)
def test_bad_rows_are_refused_with_line_key_and_value(tmp_path: Path, name: str, change: Row, words: list[str]) -> None:
    good = ROW | SPECIAL.get(name, {})
    refused(LONGBENCH, jsonl(tmp_path, name, good, good | change), f"{name}.jsonl:2", *words)


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    row = {key: value for key, value in ROW.items() if key != "answers"}
    refused(LONGBENCH, jsonl(tmp_path, "qasper", row), 'qasper.jsonl:1: no "answers"')


def test_summaries_need_no_question(tmp_path: Path) -> None:
    [question] = LONGBENCH.load(jsonl(tmp_path, "gov_report", ROW | {"input": ""}))
    assert question.question == "" and question.max_new_tokens == 512


@pytest.mark.parametrize("name", ["lcc", "repobench-p", "gov_report", "passage_count"])
def test_code_and_summaries_have_no_question(tmp_path: Path, name: str) -> None:
    for blank in ("", None):
        [question] = LONGBENCH.load(jsonl(tmp_path, name, ROW | SPECIAL.get(name, {}) | {"input": blank}))
        assert question.question == ""


def test_copies_of_the_hub_say_question_for_input(tmp_path: Path) -> None:
    copied = {"question": ROW["input"], **{key: ROW[key] for key in ("context", "answers", "all_classes")}}
    first, second = LONGBENCH.load(jsonl(tmp_path, "hotpotqa", copied, copied))
    assert "Who {x}?" in first.after and (first.id, second.id) == ("hotpotqa/1", "hotpotqa/2")
    assert first.facts["length"] == 3
    refused(LONGBENCH, jsonl(tmp_path, "hotpotqa", copied | {"question": ""}), "\"question\" is ''")


def test_official_prompts_can_be_given(tmp_path: Path) -> None:
    file = json_list(tmp_path, "dataset2prompt", {"hotpotqa": "Passages: {context}\nQ: {input}\nA:"})
    [question] = with_prompts(LONGBENCH, file).load(jsonl(tmp_path, "hotpotqa", ROW))
    text = question.before + question.context + question.after
    assert text == "Passages: Ann did {context}.\nQ: Who {x}?\nA:"
    for prompts, words in (
        ({"hotpotqa": "{context} {question}"}, ["hotpotqa", "only {input}"]),
        ({"hotpotqa": "{input}"}, ["{context} once"]),
        (tmp_path / "absent.json", ["absent.json: no JSON file of prompts"]),
        (json_list(tmp_path, "list", ["a"]), ["list.json: prompts are an object"]),
    ):
        with pytest.raises(UserError) as caught:
            with_prompts(LONGBENCH, prompts)
        assert all(word in str(caught.value) for word in words)


def test_the_first_line_counts_where_examples_are_continued(tmp_path: Path) -> None:
    [question] = LONGBENCH.load(jsonl(tmp_path, "triviaqa", ROW))
    assert LONGBENCH.score("\n\nAnn\nPassage: more", question) == 1.0
    [question] = LONGBENCH.load(jsonl(tmp_path, "hotpotqa", ROW))
    assert LONGBENCH.score("Ann\nmore text", question) == pytest.approx(0.5)


def test_published_averages_come_out_of_published_categories(tmp_path: Path) -> None:
    published = {  # GPT-3.5-Turbo-16k in the project's tables
        "en: single-document QA": 39.8, "en: multi-document QA": 38.7, "en: summarisation": 26.5,
        "en: few-shot": 67.1, "code": 54.1, "en: synthetic": 37.8,
        "zh: single-document QA": 61.2, "zh: multi-document QA": 28.7, "zh: summarisation": 16.0,
        "zh: few-shot": 29.2, "zh: synthetic": 77.5,
    }  # fmt: skip
    questions, values = [], []
    for category, value in published.items():
        for name in longbench.AVERAGES[category]:
            questions += LONGBENCH.load(jsonl(tmp_path, name, ROW | SPECIAL.get(name, {})))
            values.append(value / 100)
    reported = table(LONGBENCH, questions, values)
    assert reported["en"] == pytest.approx(44.0, abs=0.05) and reported["zh"] == pytest.approx(44.5, abs=0.06)
    partial = table(LONGBENCH, questions[1:], values[1:])
    assert "en" not in partial and "zh" in partial


def test_extended_version_reports_lengths(tmp_path: Path) -> None:
    rows = [ROW | {"_id": str(n), "length": n} for n in (3999, 4000, 7999, 8000)]
    questions = LONGBENCH_E.load(jsonl(tmp_path, "hotpotqa_e", *rows).parent)
    reported = table(LONGBENCH_E, questions, [1.0, 0.5, 0.0, 0.25])
    assert reported == {"hotpotqa: 0-4k": 100.0, "hotpotqa: 4-8k": 25.0, "hotpotqa: 8k+": 25.0}
    with pytest.raises(UserError, match="no subset 'narrativeqa'"):
        LONGBENCH_E.load(tmp_path, ["narrativeqa"])


@pytest.mark.parametrize(
    ("prediction", "value"),
    [
        ("The correct answer is (C).", 1.0),
        ("**The correct answer is C**", 1.0),
        ("The correct answer is B, no: The correct answer is (C)", 1.0),
        ("C", 0.0),
        ("The correct answer is (A)", 0.0),
    ],
)
def test_v2_wants_the_sentence(tmp_path: Path, prediction: str, value: float) -> None:
    [question] = LONGBENCH_V2.load(json_list(tmp_path, "data", [V2]))
    assert LONGBENCH_V2.score(prediction, question) == value


def test_v2_reports_difficulty_length_and_domain(tmp_path: Path) -> None:
    other = V2 | {"_id": "b", "difficulty": "hard", "length": "long", "domain": "Code"}
    questions = LONGBENCH_V2.load(json_list(tmp_path, "data", [V2, other]))
    assert "(C) three" in questions[0].after
    reported = LONGBENCH_V2.aggregate([Scored(questions[0], "", 1.0), Scored(questions[1], "", 0.0)])
    assert reported == {
        "overall": 50.0, "easy": 100.0, "hard": 0.0, "short": 100.0, "long": 0.0, V2["domain"]: 100.0, "Code": 0.0,
    }  # fmt: skip
    assert [q.id for q in LONGBENCH_V2.load(tmp_path / "data.json", ["Code"])] == ["Code/b"]
    refused(LONGBENCH_V2, tmp_path / "data.json", "no subset 'Cod'", subsets=["Cod"])


@pytest.mark.parametrize(
    ("change", "word"),
    [({"answer": "E"}, "one of A, B, C, D"), ({"choice_D": ""}, '"choice_D"'), ({"length": 5}, "one of short")],
)
def test_v2_refuses_bad_rows(tmp_path: Path, change: Row, word: str) -> None:
    refused(LONGBENCH_V2, json_list(tmp_path, "data", [V2 | change]), "data.json:2", word)
