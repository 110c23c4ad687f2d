from __future__ import annotations

import copy
from pathlib import Path

import pytest

from ropewalk.tasks.benchmarks.infinitebench import INFINITEBENCH, SUBSETS, read
from ropewalk.tasks.benchmarks.question import Subset
from ropewalk.texts import rows
from ropewalk.texts.pieces import TokenUnits
from tests.tasks.benchmarks.files import Row, jsonl, refused, table

OPTIONS = ["Ann", "Bob", "Cid", "Dan"]
ROW: Row = {"id": 3, "context": "the key is 71432, and more", "input": "What?", "answer": ["71432"], "options": []}
ROWS: dict[str, Row] = {
    "passkey": {},
    "number_string": {},
    "kv_retrieval": {"context": '{"a": "x-1"}', "answer": "x-1"},
    "longbook_sum_eng": {"answer": ["A man.\nA war."], "input": ""},
    "longbook_choice_eng": {"answer": ["Bob"], "options": OPTIONS},
    "longbook_qa_eng": {"answer": ["the man", "he"]},
    "longbook_qa_chn": {"answer": ["张三"]},
    "longdialogue_qa_eng": {"answer": ["ACE VENTURA"], "input": ""},
    "math_find": {"answer": 4},
    "math_calc": {"answer": [1, 2, 3, 4], "input": ""},
    "code_run": {"answer": [-7]},
    "code_debug": {"answer": ["Cid", "C"], "options": OPTIONS, "input": ""},
}
RIGHT = {
    "kv_retrieval": ' "x-1".',
    "longbook_choice_eng": "B",
    "longdialogue_qa_eng": "Ace Ventura, I think",
    "math_find": "4.",
    "math_calc": "1, 2, 3, 4",
    "code_run": "The value is -7.",
    "code_debug": "C. Cid",
}


def load(name: str):
    (question,) = read(rows.Row(ROW | ROWS[name], "f:1"), name)
    return question


@pytest.mark.parametrize("name", SUBSETS)
def test_the_right_answer_scores_1_in_every_task(name: str) -> None:
    if name == "longbook_sum_eng":
        pytest.importorskip("rouge_score")
    asked = load(name)
    assert INFINITEBENCH.score(RIGHT.get(name, asked.references[0]), asked) == pytest.approx(1.0)
    assert INFINITEBENCH.score("", asked) == 0.0


@pytest.mark.parametrize(
    ("name", "prediction", "value"),
    [
        ("passkey", "71432, not 5", 1.0),
        ("passkey", "5, not 71432", 0.0),
        ("kv_retrieval", "ax-1b", 0.0),
        ("math_calc", "1 2 9 4", 0.5),
        ("math_calc", "2 3 4", 0.0),
        ("math_calc", "[1,2,300]", 0.5),
        ("math_calc", "1, 2, 3, 4, 5", 1.0),
        ("math_find", "3.5 or 4", 0.0),
        ("code_run", "7", 0.0),
        ("code_run", "-7 is the value", 0.0),
        ("longbook_choice_eng", "Because of Bob", 1.0),
        ("longbook_choice_eng", "Bob and Cid", 0.0),
        ("longbook_choice_eng", "AB", 0.0),
        ("longbook_choice_eng", "The answer is: B", 1.0),
        ("longbook_choice_eng", "The correct option is B", 1.0),
        ("longbook_choice_eng", "Option B", 1.0),
        ("longbook_choice_eng", "It's B.", 1.0),
        ("longbook_choice_eng", "It's C. Bob is not it", 0.0),
        ("code_debug", "The function with an error is:\n\nC. Cid\n\nHere ...\n\nThe answer is:\n\nC. Cid", 1.0),
        ("code_run", "The return value is: **-7**.", 1.0),
        ("longdialogue_qa_eng", "Venturas Ace", 0.0),
        ("longbook_qa_eng", "man", 1.0),
        ("longbook_qa_chn", "张三丰", 0.8),
    ],
)
def test_answers_by_hand(name: str, prediction: str, value: float) -> None:
    assert INFINITEBENCH.score(prediction, load(name)) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "change", "word"),
    [
        ("passkey", {"answer": ["9"]}, 'a part of "context"'),
        ("passkey", {"answer": []}, '"answer" is []'),
        ("longbook_choice_eng", {"answer": ["Eve"], "options": OPTIONS}, 'one of "options"'),
        ("longbook_choice_eng", {"answer": ["Ann"], "options": OPTIONS[:3]}, "four strings"),
        ("math_find", {"answer": "four"}, "a number"),
        ("longbook_qa_eng", {"input": ""}, '"input"'),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, name: str, change: Row, word: str) -> None:
    refused(INFINITEBENCH, jsonl(tmp_path, name, ROW | change), f"{name}.jsonl:1", word)


@pytest.mark.parametrize("answer", [[1, 2, 3, 4], [[1, 2, 3, 4]], "[1, 2, 3, 4]", ["[1, 2, 3, 4]"]])
def test_results_of_a_calculation_may_be_nested_or_written_out(answer) -> None:
    (asked,) = read(rows.Row(ROW | {"answer": answer, "input": ""}, "f:1"), "math_calc")
    assert INFINITEBENCH.score("1, 2, 9, 4", asked) == 0.5 and INFINITEBENCH.score("1, 2, 3, 4", asked) == 1.0


@pytest.mark.parametrize("name", SUBSETS)
def test_there_is_room_for_a_sentence_in_every_task(name: str) -> None:
    asked = load(name)
    assert min(asked.room(chat=False), asked.room(chat=True)) >= 24 and asked.room(True) >= asked.room(False)


def test_an_answer_in_a_sentence_behind_a_chat_template_is_right(any_tokenizer) -> None:
    any_tokenizer = copy.deepcopy(any_tokenizer)
    any_tokenizer.chat_template = "{% for m in messages %}[user]{{ m.content }}[/user]{% endfor %}"
    asked = load("passkey")
    subset = Subset(INFINITEBENCH, "passkey", (asked,), INFINITEBENCH.score)
    sample = subset.prompted(asked, 4096, TokenUnits(any_tokenizer))
    said = any_tokenizer("The pass key is 71432.", add_special_tokens=False).input_ids[: sample.room]
    assert INFINITEBENCH.score(any_tokenizer.decode(said), asked) == 1.0


def test_the_average_needs_all_twelve(tmp_path: Path) -> None:
    for name in SUBSETS:
        jsonl(tmp_path, name, ROW | ROWS[name])
    questions = INFINITEBENCH.load(tmp_path)
    assert table(INFINITEBENCH, questions, [1.0] * 6 + [0.0] * 6)["average"] == 50.0
    assert "average" not in table(INFINITEBENCH, questions[1:], [1.0] * 11)
