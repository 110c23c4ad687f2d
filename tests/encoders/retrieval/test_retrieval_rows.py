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
    place.mkdir(parents=True)
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


@pytest.mark.parametrize("layout", ["{}.parquet", "{}-00000-of-00001.parquet", "{}/0000.parquet", "{}/{}.jsonl"])
def test_every_layout_of_the_published_set_gives_the_same(layout: str, tmp_path: Path) -> None:
    """As it was uploaded, as a hub made parquet of it, and as the datasets library keeps parquet."""
    datasets = pytest.importorskip("datasets")
    expected = retrieval(write(tmp_path / "uploaded" / "qmsum", LONG_EMBED), letters)
    for name, some in LONG_EMBED.items():
        file = tmp_path / "other" / "qmsum" / layout.format(name, name)
        file.parent.mkdir(parents=True, exist_ok=True)
        made = datasets.Dataset.from_list(some)
        made.to_json(file) if file.suffix == ".jsonl" else made.to_parquet(file)
    assert vars(retrieval(tmp_path / "other" / "qmsum", letters)) == vars(expected)


def test_parts_of_a_file_are_read_one_behind_the_other(tmp_path: Path) -> None:
    place = write(tmp_path / "set", {name: some for name, some in LONG_EMBED.items() if name != "corpus"})
    (place / "corpus").mkdir()
    for i, row in enumerate(LONG_EMBED["corpus"]):
        (place / "corpus" / f"{i:04d}.jsonl").write_text(json.dumps(row))
    assert retrieval(place, letters).documents == [letters("a rope"), letters("a knot")]


def beir_as_published(place: Path, judgements: dict[str, str]) -> Path:
    """Questions of all splits in one file, and a table of judgements for each split."""
    place = write(place, {name: some for name, some in BEIR.items() if name != "qrels"})
    (place / "qrels").mkdir()
    for split, lines in judgements.items():
        (place / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + lines)
    return place


def test_a_table_of_judgements_has_the_questions_of_its_split(tmp_path: Path) -> None:
    found = retrieval(beir_as_published(tmp_path / "one", {"test": "2\td1\t0\r\n2\td2\t1\r\n"}), letters)
    assert found.questions == ["which knot"] and found.answers == [{1}] and len(found.documents) == 2
    both = {"test": "1\td1\t1\n2\td2\t2\n2\td1\t0\n"}
    expected = vars(retrieval(write(tmp_path / "lines" / "beir", BEIR), letters))
    assert vars(retrieval(beir_as_published(tmp_path / "table" / "beir", both), letters)) == expected


@pytest.mark.parametrize(("lines", "said"), [
    ("2\td2\n", "test.tsv:2: 2 columns, expected 3: query-id, corpus-id, score"),
    ("2\td2\tnan\n", "test.tsv:2.*expected a number"),
    ("", "test.tsv has no rows"),
    ("2\td1\t0\n", "1 questions have no text in qrels: 2"),
    ("2\td2\t1\n3\td2\t1\n", "test.tsv:3: '3' is in no row of queries"),
])  # fmt: skip
def test_what_is_wrong_in_a_table_is_named(lines: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        retrieval(beir_as_published(tmp_path / "set", {"test": lines}), letters)


@pytest.mark.parametrize("files", [
    ("test.tsv", "train.tsv"), ("test.jsonl", "train.jsonl"), ("dl19.tsv", "dl20.tsv"),
    ("test-00000-of-00001.parquet", "train-00000-of-00001.parquet"),
])  # fmt: skip
def test_splits_are_not_joined(files: tuple[str, str], tmp_path: Path) -> None:
    place = write(tmp_path / "set", {name: some for name, some in BEIR.items() if name != "qrels"})
    (place / "qrels").mkdir()
    for name in files:
        (place / "qrels" / name).touch()
    with pytest.raises(UserError, match=f"2 splits of qrels: qrels/{files[0]}, qrels/{files[1]}") as refused:
        retrieval(place, letters)
    assert f"such as qrels/{files[0]}" in str(refused.value)


def test_what_could_be_read_in_two_ways_is_refused(tmp_path: Path) -> None:
    place = write(tmp_path / "set", LONG_EMBED)
    (place / "corpus.json").write_text("[]")
    with pytest.raises(UserError, match=r"holds corpus as corpus\.jsonl and corpus\.json, expected one"):
        retrieval(place, letters)


@pytest.mark.parametrize(("name", "row", "said"), [
    ("corpus", {"id": "d1", "content": "a rope"}, "corpus.jsonl:1: the columns are id, content, expected 'doc_id'"),
    ("queries", {"query": "which"}, r"queries.jsonl:1: the columns are query, expected 'qid' \(LongEmbed\) or '_id'"),
    ("qrels", {"qid": "q1", "answer": "d1"}, "qrels.jsonl:1: the columns are qid, answer, expected 'doc_id'"),
    ("corpus", {}, "corpus.jsonl:1: the columns are none"),
    ("corpus", {"doc_id": "d1", "text": 7}, 'corpus.jsonl:1: "text" is 7, expected a string'),
])  # fmt: skip
def test_other_columns_are_told_with_those_that_are_read(
    name: str, row: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said):
        retrieval(write(tmp_path / "set", {**LONG_EMBED, name: [row]}), letters)


def test_texts_of_several_lengths_are_several_sets(tmp_path: Path) -> None:
    """The synthetic tasks, as they are published."""
    one = {name: [row | {"context_length": 256} for row in some] for name, some in LONG_EMBED.items()}
    assert retrieval(write(tmp_path / "one", one), letters).answers == [{0}, {1}]
    one["corpus"][1]["context_length"] = 512
    with pytest.raises(UserError, match="context_length is 256 and 512 in one file, expected texts of one length"):
        retrieval(write(tmp_path / "two", one), letters)


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
