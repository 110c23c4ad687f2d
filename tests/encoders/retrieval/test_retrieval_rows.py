"""Retrieval sets from files, in two spellings of their keys; what is wrong in one is named by file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ropewalk.common.errors import UserError
from ropewalk.encoders.retrieval.retrieval_rows import retrieval

LONG_EMBED = {
    "corpus": [{"doc_id": "d1", "text": "a rope"}, {"doc_id": "d2", "text": "a knot"}],
    "queries": [{"qid": "q1", "text": "which rope"}, {"qid": "q2", "text": "which knot"}],
    "qrels": [{"qid": "q1", "doc_id": "d1"}, {"qid": "q2", "doc_id": "d2"}],
}
BEIR = {
    "corpus": [{"_id": "d1", "title": "", "text": "a rope"}, {"_id": "d2", "title": "The", "text": "knot"}],
    "queries": [{"_id": 1, "text": "which rope"}, {"_id": 2, "text": "which knot"}],
    "qrels": [{"query-id": 1, "corpus-id": "d1", "score": 1}, {"query-id": 2, "corpus-id": "d2", "score": 2},
              {"query-id": 2, "corpus-id": "d1", "score": 0}],
}  # fmt: skip


def write(place: Path, content: dict[str, list[dict[str, Any]]]) -> Path:
    place.mkdir()
    for name, some in content.items():
        (place / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    return place


def letters(text: str) -> list[int]:
    return [ord(one) for one in text if one != "\u200b"]


def test_both_spellings(tmp_path: Path) -> None:
    found = retrieval(write(tmp_path / "narrativeqa", LONG_EMBED), letters)
    assert found.task == "rows/narrativeqa" and found.answers == [{0}, {1}] and found.documents[1] == letters("a knot")
    found = retrieval(write(tmp_path / "beir", BEIR), letters)
    assert found.questions == ["which rope", "which knot"] and found.answers == [{0}, {1}]
    assert found.documents[1] == letters("The knot")


@pytest.mark.parametrize(("name", "row", "said"), [
    ("corpus", {"doc_id": "d1", "text": "again"}, "corpus.jsonl:3.*expected an id that no row before it has"),
    ("corpus", {"doc_id": "d3"}, 'corpus.jsonl:3: no "text"'),
    ("queries", {"qid": "", "text": "x"}, "queries.jsonl:3"),
    ("queries", {"qid": "q3", "text": "x"}, "1 questions have no text in qrels: q3"),
    ("qrels", {"qid": "q9", "doc_id": "d1"}, "'q9' is in no row of queries"),
    ("qrels", {"qid": "q1", "doc_id": "d9"}, "'d9' is in no row of corpus"),
    ("queries", {"qid": "q1", "text": "again"}, "queries.jsonl:3.*expected an id that no row before it has"),
    ("qrels", {"qid": "q1", "doc_id": "d2", "score": "high"}, "qrels.jsonl:3.*expected a number"),
    ("corpus", {"doc_id": "d3", "text": "\u200b"}, "expected a text that has a token"),
])  # fmt: skip
def test_what_is_wrong_is_named(name: str, row: dict[str, Any], said: str, tmp_path: Path) -> None:
    content = {**LONG_EMBED, name: [*LONG_EMBED[name], row]}
    with pytest.raises(UserError, match=said):
        retrieval(write(tmp_path / "set", content), letters)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no queries"):
        retrieval(write(tmp_path / "set", {"corpus": LONG_EMBED["corpus"]}), letters)
    with pytest.raises(UserError, match="is no folder"):
        retrieval(tmp_path / "nowhere", letters)


@pytest.mark.parametrize("score", [-1, 0, "0", "0.0", 0.0])
def test_only_a_grade_above_nought_is_an_answer(score: Any, tmp_path: Path) -> None:
    judged = [*BEIR["qrels"][:2], {"query-id": 1, "corpus-id": "d2", "score": score}]
    assert retrieval(write(tmp_path / "set", {**BEIR, "qrels": judged}), letters).answers == [{0}, {1}]


@pytest.mark.parametrize("empty", ["corpus", "queries"])
def test_an_empty_file_is_named(empty: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{empty}.jsonl has no rows"):
        retrieval(write(tmp_path / "set", {**LONG_EMBED, empty: []}), letters)


def test_a_title_alone_is_a_text(tmp_path: Path) -> None:
    corpus = [{"_id": "d1", "title": "a rope", "text": ""}, BEIR["corpus"][1]]
    assert retrieval(write(tmp_path / "set", {**BEIR, "corpus": corpus}), letters).documents[0] == letters("a rope")
