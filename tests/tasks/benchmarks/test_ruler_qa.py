from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from ropewalk.tasks.benchmarks.ruler_qa import RULER_QA, read_hotpotqa, read_squad
from tests.tasks.benchmarks.files import json_list, refused, table


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
    collection = read_squad(json_list(tmp_path, "squad", SQUAD))
    [item] = collection.questions
    assert len(collection.documents) == 32
    assert item.answers == ("Rome",) and item.gold == ("Ann is in Rome.",) and item.related == ("Bob is in Oslo.",)
    assert item.question == "About Rome?"


def test_hotpotqa_gives_all_its_documents(tmp_path: Path) -> None:
    collection = read_hotpotqa(json_list(tmp_path, "hotpot", HOTPOT))
    first = collection.questions[0]
    assert len(collection.documents) == 3
    assert first.gold == ("Ann\nAnn is in Rome. Yes.", "Bob\nBob is in Oslo.")


def test_documents_fill_the_room_with_the_article_first(tmp_path: Path) -> None:
    json_list(tmp_path, "qa_2", HOTPOT)
    with_article = RULER_QA.load(json_list(tmp_path, "qa_1", SQUAD), room=8)
    assert with_article[0].facts["documents"] == 2 and "Oslo" in with_article[0].context
    squad, *hotpot = RULER_QA.load(tmp_path, room=14)
    texts = [d.split("\n", 1)[1] for d in squad.context.split("\n\n")]
    assert sum(len(text.split()) for text in texts) <= 14 and len(set(texts)) == len(texts)
    assert "Ann is in Rome." in texts and squad.context.count("Document ") == squad.facts["documents"]
    assert {q.id for q in hotpot} == {"qa_2/h1", "qa_2/h2"}
    assert RULER_QA.load(tmp_path, room=14) == [squad, *hotpot]


def test_every_question_has_its_own_order(tmp_path: Path) -> None:
    data = copy.deepcopy(SQUAD)
    data["data"][0]["paragraphs"][0] = _paragraph("Ann is in Rome.", *((f"q{i}", "Rome") for i in range(12)))
    questions = RULER_QA.load(json_list(tmp_path, "qa_1", data), room=1000)
    assert all(q.facts["documents"] == 32 for q in questions)
    assert (
        len({q.context.split("\n\n").index(next(d for d in q.context.split("\n\n") if "Ann" in d)) for q in questions})
        > 3
    )


def test_any_answer_scores(tmp_path: Path) -> None:
    [question] = RULER_QA.load(json_list(tmp_path, "qa_1", SQUAD))
    assert RULER_QA.score("It is rome, I think", question) == 1.0 and RULER_QA.score("Oslo", question) == 0.0
    assert table(RULER_QA, [question], [1.0]) == {"qa_1": 100.0}


def test_bad_files_are_refused(tmp_path: Path) -> None:
    moved = copy.deepcopy(SQUAD)
    moved["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 3
    refused(RULER_QA, json_list(tmp_path, "qa_1", moved), "qa_1.json:", "qas[0]: answers[0]", "where 'Rome' stands")
    for change, word in (
        ({"supporting_facts": [["Eve", 0]]}, 'titles of "context"'),
        ({"context": [["Ann", "text"]]}, "[title, [sentence, ...]]"),
        ({"answer": ""}, '"answer"'),
    ):
        refused(RULER_QA, json_list(tmp_path, "qa_2", [HOTPOT[0] | change]), "qa_2.json:2", word)


def test_no_room_and_no_file_are_said(tmp_path: Path) -> None:
    file = json_list(tmp_path, "qa_1", SQUAD)
    refused(RULER_QA, file, "the documents of q1 are 4 long, there is room for 3", room=3)
    refused(RULER_QA, tmp_path, "no file for the task 'qa_2'", subsets=["qa_2"])
    refused(RULER_QA, json_list(tmp_path, "squad", SQUAD), "neither qa_1.json nor qa_2.json")


def test_documents_fill_the_length_in_tokens_and_none_is_cut(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    paragraphs = []
    for i in range(60):
        text = f"Town {i} has a mayor. The mayor of town {i} is Ann {i}. The market of town {i} is held every week."
        answer = {"text": f"Ann {i}", "answer_start": text.index(f"Ann {i}")}
        qa = {"id": str(i), "question": f"Who is the mayor of town {i}?", "answers": [answer]}
        paragraphs.append({"context": text, "qas": [qa]})
    (tmp_path / "qa_1.json").write_text(json.dumps({"data": [{"title": "Towns", "paragraphs": paragraphs}]}))

    def count(text: str) -> int:
        return len(tokenizer(text).input_ids)

    few, many = (RULER_QA.load(tmp_path, **RULER_QA.sized(n, count)) for n in (1000, 3000))
    assert sum(len(one.context) for one in many) > 2 * sum(len(one.context) for one in few)
    for question in few:
        ids = question.prompt(tokenizer, 1000)
        assert len(ids) + question.max_new_tokens <= 1000
        assert question.context in tokenizer.decode(ids)
