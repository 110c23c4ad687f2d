from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ropewalk.tasks.benchmarks.longbio import GROUPS, LONGBIO, SUBSETS, with_shots
from tests.tasks.benchmarks.files import json_list, refused, table

BIOS = [
    "Below is the bio of Ann Bee. Ann Bee lives in Rome. The age of Ann Bee is 30. ",
    "Below is the bio of Cid Dee. Cid Dee lives in Oslo. The age of Cid Dee is 41. ",
    "Below is the bio of Eve Eff. Eve Eff lives in Lima. The age of Eve Eff is 35. ",
]
SPAN = [BIOS[1].index("Cid Dee lives"), BIOS[1].index(" The age")]


def item(answer: Any, *more: dict[str, Any], **change: Any) -> dict[str, Any]:
    first = {
        "Question": "Where does Cid Dee live?",
        "Question_prefix": "Cid Dee lives in",
        "Answer": answer,
        "Property": "city",
        "position_in_list": [1],
        "position_in_bios": [SPAN],
    }
    return {"context": BIOS, "questions": {"NLG": [first | change, *more]}}


EXAMPLE = {"Question": "Where does Ann Bee live?", "Question_prefix": "Ann Bee lives in", "Answer": "Rome"}
ANSWERS: dict[str, Any] = {
    "multi_standard": ["Rome", "Oslo"],
    "calculation": 11,
    "rank": ["Ann Bee", "Cid Dee"],
    "multihop": "Oslo",
    "twodiff": {"age_difference": 11, "ref_names": ["Ann Bee", "Cid Dee"]},
    "citation": ["Oslo"],
}


@pytest.mark.parametrize(
    ("name", "prediction", "value"),
    [
        ("standard", " Cid Dee lives in oslo.", 1.0),
        ("standard", "Rome\nQuestion: and Oslo?", 0.0),
        ("multi_standard", "Rome and Oslo", 1.0),
        ("multi_standard", "Oslo and Rome", 0.0),
        ("calculation", "30 and 41, so 11", 1.0),
        ("calculation", "11, from 30 and 41", 0.0),
        ("rank", "the order is ann bee, cid dee", 1.0),
        ("rank", "Ann Bee", 0.0),
        ("rank", "Cid Dee, Ann Bee", 0.0),
        ("rank", "Cid Dee, then Ann Bee; Cid Dee is older", 0.0),
        ("rank", "Cid Dee is 41, Ann Bee is 30. Therefore, Ann Bee, Cid Dee, as Cid Dee is older", 1.0),
        ("rank", "Cid Dee is 41, Ann Bee is 30, so Ann Bee, Cid Dee", 1.0),
        ("rank", "Therefore: Ann Bee, Cid Dee. So Cid Dee is older than Ann Bee.", 1.0),
        ("rank", "Ann Bee is 30, Cid Dee is 41. Therefore, the order is Cid Dee, Ann Bee", 0.0),
        ("multihop", "Oslo", 1.0),
        ("twodiff", "Cid Dee and Ann Bee", 1.0),
        ("twodiff", "Cid Dee and Eve Eff", 0.0),
        ("twodiff", "Cid Dee, Ann Bee, Eve Eff", 0.0),
        ("citation", "Oslo [1]", 1.0),
        ("citation", "Oslo [2]", 0.0),
        ("citation", "Rome [1]", 0.0),
    ],
)
def test_answers_by_hand(tmp_path: Path, name: str, prediction: str, value: float) -> None:
    [question] = LONGBIO.load(json_list(tmp_path, name, [item(ANSWERS.get(name, "Oslo"))]))
    assert LONGBIO.score(prediction, question) == value
    assert not question.shorten and question.after.endswith("Based on the context,")


def test_a_ranking_may_be_one_string_and_several_answers_are_all_wanted(tmp_path: Path) -> None:
    [question] = LONGBIO.load(json_list(tmp_path, "rank", [item("Ann Bee, Cid Dee")]))
    assert [LONGBIO.score(said, question) for said in ("Ann Bee, Cid Dee", "Cid Dee, Ann Bee", "Ann Bee")] == [1, 0, 0]
    [question] = LONGBIO.load(json_list(tmp_path, "standard", [item(["Rome", "Oslo"])]))
    assert [LONGBIO.score(said, question) for said in ("Rome, Oslo", "Oslo, Rome", "Oslo")] == [1, 0, 0]


def test_files_are_found_under_their_published_names(tmp_path: Path) -> None:
    folder = tmp_path / "Qwen2.5-7B_8k_1_retrieval_density_1.0_position_0_100"
    folder.mkdir()
    json_list(folder, "data_standard", [item("Oslo")])
    json_list(folder, "data_rank", [item(["Ann Bee", "Cid Dee"])])
    for source in (tmp_path, folder):
        assert [q.subset for q in LONGBIO.load(source)] == ["standard", "rank"]
    assert [q.subset for q in LONGBIO.load(folder / "data_rank.json")] == ["rank"]


def test_rows_on_one_line_have_ids_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "standard.json"
    file.write_text(json.dumps([item("Oslo")] * 3))
    questions = LONGBIO.load(file)
    assert len({q.id for q in questions}) == 3 and len({q.source for q in questions}) == 3


def test_citations_number_the_biographies(tmp_path: Path) -> None:
    [question] = LONGBIO.load(json_list(tmp_path, "citation", [item(["Oslo"])]))
    assert question.context.split("\n")[1].startswith("Bio [1]: Below is the bio of Cid Dee.")


def test_refusals_count_only_where_the_answer_was_known(tmp_path: Path) -> None:
    kept, removed = LONGBIO.load(json_list(tmp_path, "idk", [item("Oslo")]))
    assert kept.context == "".join(BIOS) and "Oslo" in kept.context and "Oslo" not in removed.context
    assert len(kept.context) - len(removed.context) == SPAN[1] - SPAN[0]
    assert LONGBIO.score("That is not stated.", removed) == 1.0 and LONGBIO.score("Oslo", removed) == 0.0
    assert table(LONGBIO, [kept, removed], [1.0, 1.0]) == {"idk": 100.0}
    assert table(LONGBIO, [kept, removed], [0.0, 1.0]) == {"idk": 0.0}


def test_further_questions_become_examples(tmp_path: Path) -> None:
    file = json_list(tmp_path, "standard", [item("Oslo", EXAMPLE | {"Rationale": "Ann says so."})])
    [question] = with_shots(1).load(file)
    assert "Question: Where does Ann Bee live?\nAnswer: Based on the context, Ann says so. Therefore, Ann Bee" in (
        question.after
    )
    refused(with_shots(2), file, "3 questions for 2 examples")


def test_groups_are_means_of_their_tasks(tmp_path: Path) -> None:
    [question] = LONGBIO.load(json_list(tmp_path, "standard", [item("Oslo")]))
    questions = [replace(question, id=name, subset=name) for name in SUBSETS]
    reported = table(LONGBIO, questions, [float(name in ("rank", "multihop", "idk")) for name in SUBSETS])
    assert [reported[group] for group in GROUPS] == [0.0, 50.0, 50.0]


@pytest.mark.parametrize(
    ("name", "row", "word"),
    [
        ("standard", item("Paris"), "answers that a biography has"),
        ("standard", item(None), '"Answer" is None'),
        ("standard", item("Oslo") | {"context": []}, '"context" is []'),
        ("twodiff", item({"ref_names": []}), 'no "age_difference"'),
        ("twodiff", item({"age_difference": 3}) | {"context": ["Nobody."]}, "The age of NAME"),
        ("citation", item(["Oslo"], position_in_list=[3]), "numbers from 0 to 2"),
        ("idk", item("Oslo", position_in_bios=[[5, 999]]), "[start, end] within the biography"),
        ("idk", item("Oslo", position_in_bios=None), "a list of 1 times [start, end]"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, name: str, row: dict[str, Any], word: str) -> None:
    refused(LONGBIO, json_list(tmp_path, name, [row]), f"{name}.json:2", word)
