"""Questions about tables of files: answered here once more from the file itself; what is no table is refused."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

import ropewalk
from ropewalk.common.errors import UserError
from ropewalk.data.arranged import Arranged
from ropewalk.data.synthesis import file_tables
from ropewalk.data.synthesis.file_tables import asked_of_files, tables_of
from ropewalk.data.synthesis.tables import FORMS, Table, value_of
from tests.data.synthesis.written import TOKENIZER, content, text_of

LENGTH, ROWS = 4096, 24


def lines_of(count: int, seed: int) -> list[list[object]]:
    """Stations with what is hard to write: commas, quotes, other letters, figures that are no numbers."""
    rng = np.random.default_rng(seed)
    return [
        [f'Station {seed}{i:03}, "Nord"', ["Zürich", "Köln", "Łódź"][i % 3], f"00{i:03}",
         int(rng.integers(10**4, 10**6)), -int(rng.integers(10**4, 10**6)), f"{rng.random():.6f}", "x" * 80]
        for i in range(count)
    ]  # fmt: skip


COLUMNS = ["station", "town {1}", "code", "load", "depth", "share", "remark"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, separator, seed in (("one.csv", ",", 1), ("two.tsv", "\t", 2)):
        with (folder / name).open("w", encoding="utf-8-sig", newline="") as file:
            csv.writer(file, delimiter=separator).writerows([COLUMNS, *lines_of(90, seed)])
    (folder / "notes.txt").write_text("no table")
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    columns = dict(zip(COLUMNS, map(list, zip(*lines_of(12, 3), strict=True)), strict=True))
    columns["share"] = [float(one) for one in columns["share"]]
    parquet.write_table(pyarrow.table(columns), folder / "three.parquet")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("texts") / "rows"
    (place.parent / "a.txt").write_text(" ".join(f"rope{i % 97} walk{i % 89}" for i in range(9000)))
    ropewalk.pack_data(place.parent / "a.txt", out=place, length=LENGTH, tokenizer="demo")
    return place


def rows(texts: Path, tables: Path, out: Path, **more) -> Arranged:
    said = {"length": LENGTH, "tokenizer": "demo", "rows": ROWS, "draws": 40 * ROWS, "tables": tables} | more
    ropewalk.synth_data("tables", texts, out=out, **said)
    return Arranged.open(out)


def solved(question: str, table: Table, lines: dict[str, list[object]]) -> str:
    """The answer by a reader of the file, who takes those of its lines that the table shows."""
    at = {name: i for i, name in enumerate(COLUMNS)}
    shown = [line for line in lines.values()
             if tuple(value_of(line[at[name]]) for name in table.columns) in table.rows]  # fmt: skip
    assert len(shown) == len(table.rows)
    if found := re.search(r"What is the (.+) where the (.+?) is (.+)\?", question):
        (line,) = [line for line in shown if str(value_of(line[at[found[2]]])) == found[3]]
        return str(value_of(line[at[found[1]]]))
    if found := re.search(r"Which (.+) has the largest (.+)\?", question):
        return str(value_of(max(shown, key=lambda line: line[at[found[2]]])[at[found[1]]]))
    if found := re.search(r"the largest (.+) less the smallest", question):
        every = [line[at[found[1]]] for line in shown]
        return str(max(every) - min(every))
    found = re.search(r"the sum of (.+) over all rows whose (.+) is (.+)\?", question)
    return str(sum(line[at[found[1]]] for line in shown if str(value_of(line[at[found[2]]])) == found[3]))


def test_every_answer_is_that_of_the_file_and_stands_nowhere_else(folder, texts, tmp_path) -> None:
    made, kinds, files = rows(texts, folder, tmp_path / "out"), set(), set()
    known = {"one.csv": lines_of(90, 1), "two.tsv": lines_of(90, 2), "three.parquet": lines_of(12, 3)}
    for lines in known["three.parquet"]:
        lines[5] = float(lines[5])
    for row in range(ROWS):
        ids, told = made.row(row)[0], made.provenance[row]
        assert len(ids) <= LENGTH
        (where,) = told.evidence
        stands = TOKENIZER.decode(ids[where["at"] : where["at"] + where["stop"]].tolist())
        text, answer = TOKENIZER.decode(ids.tolist()), text_of(made, row, True).strip()
        assert stands == where["document"] and text.count(stands) == 1
        file = told.support.rpartition(", of ")[2]
        question = text.rpartition("Question: ")[2].partition("\nAnswer:")[0]
        table = Table.read(stands)
        assert f"table {table.title}:" in question and "remark" not in table.columns
        lines = {str(line[0]): line for line in known[file]}
        assert answer == solved(question, table, lines)
        rest = text_of(made, row, False).replace(stands, "")
        assert not re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", rest)
        kinds.add(told.kind)
        files.add(file)
    assert kinds == {"lookup", "largest", "difference", "sum"} and files == set(known)


def test_the_seed_decides_and_tables_are_said(folder, texts, tmp_path) -> None:
    one, other, third = (tmp_path / name for name in "abc")
    made = rows(texts, folder / "one.csv", one, rows=3)
    rows(texts, folder / "one.csv", other, rows=3)
    rows(texts, folder / "one.csv", third, rows=3, seed=1)
    assert content(one) == content(other) and content(one)["pieces.npy"] != content(third)["pieces.npy"]
    assert made.about.options["tables"] == str(folder / "one.csv")
    assert all(told.support.endswith(", of one.csv") for told in made.provenance)


def test_parts_of_a_file_share_no_row_and_are_read_back_in_every_form(folder) -> None:
    files = tables_of(folder)
    assert [one.name for one in files] == ["one.csv", "three.parquet", "two.tsv"]
    assert [len(one.rows) for one in files] == [90, 12, 90] and "remark" not in files[0].columns
    for seed in range(40):
        asked = asked_of_files(np.random.default_rng(seed), files)
        parts = [asked.needed[0], *asked.others]
        assert len(parts) == 3 and all(Table.read(one.written(form)) == one for one in parts for form in FORMS)
        alike = [row for one in parts if one.columns == parts[0].columns for row in one.rows]
        if asked.needed[0].columns[0] == "station":
            assert len(set(alike)) == len(alike)


def test_what_a_cell_is() -> None:
    said = {"7": 7, "-12": -12, "0": 0, "007": "007", "-0": "-0", "+3": "+3", "3.0": "3.0", "²": "²", " a ": "a"}
    assert {cell: value_of(cell) for cell in said} == said and value_of("1" * 16) == "1" * 16


@pytest.mark.parametrize(("name", "data", "words"), [
    ("a.csv", b"who;what\n1;2\n3;4\n5;6\n", "the columns are ['who;what'], expected two at least"),
    ("a.csv", b"who,Who\n1,2\n3,4\n5,6\n", "with a name of its own"),
    ("a.csv", b"who,\n1,2\n3,4\n5,6\n", "with a name of its own"),
    ("a.csv", b'who,wh""at\n1,2\n3,4\n5,6\n', "without quotes"),
    ("a.csv", b"who,what\n1,2\n3\n5,6\n", "a.csv:3: 1 cells, expected 2: who, what"),
    ("a.csv", b'who,what\n1,2\n3,"4"x\n5,6\n', "a.csv:3: "),
    ("a.csv", b"who,what\n1,2\n3,\xff\n5,6\n", "a.csv:3: byte 0xff is not UTF-8"),
    ("a.csv", b"who,what\n1,2\n", "1 rows, expected 3 at least"),
    ("a.csv", b"", "the columns are [], expected two at least"),
    ("a.tsv", b"who\twhat\n" + b"1\t%b\n" % (b"x" * 99) * 3, "1 columns whose cells have 60 signs at most"),
    ("a.parquet", b"who", "not a parquet file"),
    ("a.txt", b"who,what\n", "no .csv, .tsv, .parquet file"),
])  # fmt: skip
def test_what_is_no_table_is_refused_before_anything_is_made(name, data, words, texts, tmp_path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match=re.escape(words)) as error:
        rows(texts, tmp_path / name, tmp_path / "out")
    assert str(tmp_path / name) in error.value.message and not list(tmp_path.glob("out*"))


def test_nothing_but_the_kind_that_reads_tables_takes_them(texts, tmp_path, monkeypatch) -> None:
    with pytest.raises(UserError, match="--tables changes nothing in chunks"):
        ropewalk.synth_data("chunks", texts, out=tmp_path / "out", length=LENGTH, tokenizer="demo", tables=tmp_path)
    (tmp_path / "empty").mkdir()
    for place, words in ((tmp_path / "none", "no such file or folder"), (tmp_path / "empty", r"no \.csv")):
        with pytest.raises(UserError, match=words):
            tables_of(place)
    monkeypatch.setattr(file_tables, "MOST", 3)
    (tmp_path / "a.csv").write_text("a,b\n" + "1,2\n" * 4)
    with pytest.raises(UserError, match="more than 3 rows"):
        tables_of(tmp_path / "a.csv")


def test_cells_that_no_form_holds_are_counted_and_rows_without_names_too(texts, tmp_path) -> None:
    lines = [f'"a|{i}","b\n{i}",{i}{i}' for i in range(30)]
    (tmp_path / "a.csv").write_text("who,what,number\n" + "\n".join(lines))
    made = rows(texts, tmp_path / "a.csv", tmp_path / "some", rows=3)
    assert made.about.told["dropped: a table is not read back"] > 0
    for row in range(3):  # JSON alone holds a bar, and the end of a line
        assert '{"' in made.provenance[row].evidence[0]["document"]
    (tmp_path / "b.csv").write_text("who,what\n" + "same,other\n" * 9)
    with pytest.raises(UserError, match="no column names its rows"):
        rows(texts, tmp_path / "b.csv", tmp_path / "out")
