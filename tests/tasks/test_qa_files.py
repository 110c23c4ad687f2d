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


def test_the_layout_of_the_hub_says_the_same(tmp_path: Path) -> None:
    hub = [
        row
        | {
            "context": dict(zip(("title", "sentences"), map(list, zip(*row["context"], strict=True)), strict=True)),
            "supporting_facts": {"title": [row["supporting_facts"][0][0]], "sent_id": [0]},
        }
        for row in HOTPOT
    ]
    assert read_hotpotqa(json_list(tmp_path, "hub", hub)) == read_hotpotqa(json_list(tmp_path, "own", HOTPOT))
    bad: list[UserError] = []
    hub[0]["context"] = {"title": ["Ann"], "sentences": []}
    assert len(read_hotpotqa(json_list(tmp_path, "hub", hub), bad)) == 1 and '"context" is' in bad[0].message
    squad = [
        {"id": str(i), "title": "T", "context": text, "question": " About Rome? ", "answers": answers}
        for i, (text, answers) in enumerate(
            [
                ("Ann is in Rome.", {"text": ["Rome", "Rome"], "answer_start": [10, 10]}),
                ("Bob is in Oslo.", {"text": [], "answer_start": []}),
            ]
        )
    ]
    assert read_squad(json_list(tmp_path, "hub", squad)) == read_squad(json_list(tmp_path, "own", SQUAD))


def test_bad_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    json_list(tmp_path, "qa_2", [*HOTPOT, HOTPOT[0] | {"answer": ""}])
    bad: list[tuple[str, str]] = []
    assert len(material(tmp_path, bad)["hotpotqa"]) == 2
    [(task, why)] = bad
    assert task == "qa_2" and why.startswith("1 of 3 rows or questions left out") and "qa_2.json:" in why


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
