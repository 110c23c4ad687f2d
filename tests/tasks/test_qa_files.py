from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from ropewalk.common.errors import UserError
from ropewalk.tasks.ruler.qa_files import material, read_hotpotqa, read_squad
from tests.tasks.benchmarks.files import json_list


def _paragraph(text: str, *qas: tuple[str, str]) -> dict[str, Any]:
    return {
        "context": text,
        "qas": [
            {
                "id": name,
                "question": f" About {answer}? ",
                "answers": [{"text": answer, "answer_start": text.index(answer)}] * 2,
            }
            for name, answer in qas
        ],
    }


SQUAD = {
    "version": "v2.0",
    "data": [
        {"title": "T", "paragraphs": [_paragraph("Ann is in Rome.", ("q1", "Rome")), _paragraph("Bob is in Oslo.")]},
        {"title": "U", "paragraphs": [_paragraph(f"Filler number {i} stands here.") for i in range(30)]},
    ],
}  # fmt: skip
SQUAD["data"][0]["paragraphs"][1]["qas"] = [{"id": "q2", "question": "?", "answers": [], "is_impossible": True}]
HOTPOT = [
    {
        "_id": "h1",
        "question": "Where?",
        "answer": "Rome",
        "supporting_facts": [["Ann", 0]],
        "context": [["Ann", ["Ann is in Rome.", " Yes."]], ["Bob", ["Bob is in Oslo."]]],
    },
    {
        "_id": "h2",
        "question": "Who?",
        "answer": "Cid",
        "supporting_facts": [["Cid", 0]],
        "context": [["Cid", ["Cid did."]], ["Ann", ["Ann is in Rome.", " Yes."]]],
    },
]


def test_squad_gives_answerable_questions_with_their_paragraph_and_article(tmp_path: Path) -> None:
    [item] = read_squad(json_list(tmp_path, "squad", SQUAD))
    assert item.answers == ("Rome",) and item.documents == ("Ann is in Rome.",)
    assert item.distractors == ("Bob is in Oslo.",) and item.question == "About Rome?"


def test_hotpotqa_gives_all_its_documents(tmp_path: Path) -> None:
    first, second = read_hotpotqa(json_list(tmp_path, "hotpot", HOTPOT))
    assert first.documents == ("Ann\nAnn is in Rome. Yes.", "Bob\nBob is in Oslo.") and second.answers == ("Cid",)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"supporting_facts": [["Eve", 0]]}, 'titles of "context"'),
        ({"context": [["Ann", "text"]]}, "[title, [sentence, ...]]"),
        ({"answer": ""}, '"answer"'),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, change: dict[str, Any], word: str) -> None:
    json_list(tmp_path, "qa_2", [HOTPOT[0] | change])
    with pytest.raises(UserError) as caught:
        material(tmp_path)
    assert "qa_2.json:2" in caught.value.message and word in caught.value.message


def test_an_answer_stands_where_the_file_says(tmp_path: Path) -> None:
    moved = copy.deepcopy(SQUAD)
    moved["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 3
    json_list(tmp_path, "qa_1", moved)
    with pytest.raises(UserError, match=r"qas\[0\]: answers\[0\].*where 'Rome' stands"):
        material(tmp_path)


def test_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither qa_1"):
        material(tmp_path)
