from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ropewalk.common.errors import UserError
from ropewalk.texts.rows import Row, only_file, read, tables
from tests.tasks.benchmarks.files import json_list, jsonl


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [{"a": "one\u2028line", "n": 1}, {"a": "] } two", "n": 2}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    files = [
        jsonl(tmp_path, "x", *rows),
        json_list(tmp_path, "x", rows),
        json_list(tmp_path, "y", {"version": [1], "data": rows}),
        tmp_path / "x.parquet",
    ]
    for file in files:
        assert [dict(record.values) for record in read(file)] == rows


def test_rows_know_their_line(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    assert [r.where for r in read(tmp_path / "x.jsonl")] == [f"{tmp_path}/x.jsonl:{n}" for n in (1, 3)]
    file = json_list(tmp_path, "x", [{"a": "x\ny"}, {"a": {"b": [1]}}])
    lines = file.read_text().split("\n")
    for record in read(file):
        assert lines[int(record.where.rpartition(":")[2]) - 1].strip() == "{"
    assert [r.where.rpartition(":")[2] for r in read(file)] == ["2", "5"]
    assert list(read(json_list(tmp_path, "empty", []))) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.jsonl", b'{"a": 1}\n[2]', "x.jsonl:2: a row is an object, not list"),
        ("x.jsonl", b'{"a": 1}\n{"a": ', "x.jsonl:2: not JSON"),
        ("x.jsonl", '{"a": "ok"}\n{"a": "ö"}'.encode("latin-1"), "x.jsonl:2: byte 0xf6 is not UTF-8"),
        ("x.json", b'[{"a": 1},\n {"a": }]', "x.json:2: not JSON"),
        ("x.json", b'{"a": 1}', 'x.json: neither a list nor an object with a list under "data"'),
        ("x.json", b'[{"a": 1},\n\n 5]', "x.json:3: a row is an object, not int"),
        ("x.json", b'[{"a":\n 1}\n{"a": 2}]', "x.json:2: not JSON (no comma"),
        ("x.json", b'[{"a": 1},\n{"a": 2}', "x.json:2: not JSON (no comma"),
        ("x.json", b'[{"a": 1}]\n[{"a": 2}]', "x.json:1: not JSON (there is more"),
        ("x.json", b'{"data": [{"a": 1}, 3]}', "x.json:data[1]: a row is an object, not int"),
        ("x.json", b'{"data": [\n', "x.json: not JSON"),
        ("x.json", b"", "x.json: not JSON"),
        ("x.parquet", b"PAR1 no", "x.parquet: not a parquet file"),
        ("x.csv", b"a,b", "x.csv: cannot read .csv"),
    ],
)
def test_bad_files_are_refused_with_their_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read(tmp_path / name))
    assert message in caught.value.message


def test_bad_rows_can_be_left_out(tmp_path: Path) -> None:
    lines = tmp_path / "x.jsonl"
    lines.write_bytes(b'{"a": 1}\n[2]\n{"a": \n{"a": "\xf6"}\n{"a": "\\ud800"}\n{"a": ' + b"[" * 100_000 + b"}\n"
                      b'{"a": ' + b"1" * 5000 + b'}\n{"a": 7}\n')  # fmt: skip
    bad: list[UserError] = []
    assert [row.values["a"] for row in read(lines, left_out=bad)] == [1, 7]
    assert [error.message.split(": ")[0].rpartition(":")[2] for error in bad] == ["2", "3", "4", "5", "6", "7"]
    listed = tmp_path / "x.json"
    listed.write_text('[{"a": 1}, 2, {"a": 3}, {"a": }]')
    bad = []
    assert [row.where.rpartition(":")[2] for row in read(listed, left_out=bad)] == ["1", "1#3"]
    assert len(bad) == 2 and "the rest is not read" in bad[1].message


def test_a_file_that_cannot_be_read_can_be_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    jsonl(tmp_path, "x", {"a": 1})
    (tmp_path / "x.json").write_text("{")

    def closed(path: Path) -> None:
        raise UserError(f"{path} cannot be read: Permission denied", "Give a file that you may read.")

    for name, words in (("x.parquet", "not a parquet file"), ("x.json", "not JSON"), ("x.jsonl", "Permission denied")):
        if name == "x.jsonl":
            monkeypatch.setattr("ropewalk.texts.rows.open_file", closed)
        with pytest.raises(UserError, match=words):
            list(read(tmp_path / name))
        left_out: list[UserError] = []
        assert not list(read(tmp_path / name, left_out=left_out))
        assert [words in one.message for one in left_out] == [True]


def test_a_damaged_part_of_a_parquet_file_is_named_by_its_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file, texts = tmp_path / "x.parquet", [f"text number {i}" for i in range(300)]
    parquet.write_table(pyarrow.table({"a": texts}), file, row_group_size=100, use_dictionary=False, compression="zstd")
    place = parquet.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(file.read_bytes())
    data[place + 40 : place + 140] = bytes(100)
    file.write_bytes(data)
    left_out: list[UserError] = []
    assert [row.values["a"] for row in read(file, left_out=left_out)] == [*texts[:100], *texts[200:]]
    assert len(left_out) == 1 and f"{file}:101: rows 101 to 200 cannot be read" in left_out[0].message
    with pytest.raises(UserError, match="rows 101 to 200 cannot be read"):
        list(read(file))


def test_files_of_hub_sets_are_found_as_they_lie(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for name in ("one-00000-of-00001", "two/test-00000-of-00001", "two/train-00000-of-00001", ".cache/three"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist([{"a": name}]), tmp_path / f"{name}.parquet")
    found = {name: [r.text("a") for r in rows] for name, rows in tables(tmp_path, ("one", "two", "three"))}
    assert found == {"one": ["one-00000-of-00001"], "two": ["two/test-00000-of-00001"]}


def test_the_only_file_of_a_folder(tmp_path: Path) -> None:
    file = jsonl(tmp_path, "x", {"a": 1})
    (tmp_path / "README.md").write_text("about it")
    assert only_file(tmp_path) == file == only_file(file)
    jsonl(tmp_path, "y", {"a": 1})
    with pytest.raises(UserError, match="has 2 data files, expected one"):
        only_file(tmp_path)


def test_json_lines_are_read_whatever_their_file_is_called(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('{"a": 1}\n{"a": 2}\n')
    assert [(row.values["a"], row.where.rpartition(":")[2]) for row in read(tmp_path / "x.json")] == [
        (1, "1"),
        (2, "2"),
    ]


@pytest.mark.parametrize(
    ("getter", "value", "expected"),
    [
        ("text", None, "a string that is not empty"),
        ("text", " ", "a string that is not empty"),
        ("text", 5, "a string that is not empty"),
        ("texts", [], "a list of one or more strings"),
        ("texts", ["a", ""], "a list of one or more strings"),
        ("texts", "a", "a list of one or more strings"),
        ("answers", [True], "a string or a number"),
        ("answers", [], "a string or a number"),
        ("answers", "", "a string or a number"),
        ("integer", 1.5, "a whole number"),
        ("integer", True, "a whole number"),
        ("row", [], "an object"),
        ("rows", [{}, 1], "a list of one or more objects"),
    ],
)
def test_wrong_values_are_named_with_key_and_expectation(getter: str, value: Any, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        getattr(Row({"key": value}, "file:7"), getter)("key")
    assert caught.value.message.startswith(f'file:7: "key" is {value!r}, expected {expected}')
    with pytest.raises(UserError, match='file:7: no "other", expected'):
        getattr(Row({"key": value}, "file:7"), getter)("other")


def test_right_values_come_back() -> None:
    record = Row({"t": "a", "e": "", "l": ["a", "b"], "n": 3, "m": [1, "x"], "o": {"p": [{"q": ""}]}}, "f:1")
    assert record.text("t") == "a" and record.text("e", empty=True) == "" and record.texts("l") == ("a", "b")
    assert record.answers("m") == ("1", "x") and record.answers("n") == ("3",)
    assert record.one_of("t", ("a", "b")) == "a"
    with pytest.raises(UserError, match=r'f:1: o: p\[0\]: "q" is \'\''):
        record.row("o").rows("p")[0].text("q")
    with pytest.raises(UserError, match="expected one of x, y"):
        record.one_of("t", ("x", "y"))


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(UserError) as caught:
        Row({"key": ["x" * 1000]}, "f:1").text("key")
    assert len(caught.value.message) < 150


def test_subsets_are_files_of_a_folder_or_one_file(tmp_path: Path) -> None:
    for name in ("one_e", "two_e", "two"):
        jsonl(tmp_path, name, {"a": name})
    found = {name: [r.text("a") for r in rows] for name, rows in tables(tmp_path, ("one", "two", "three"), ending="_e")}
    assert found == {"one": ["one_e"], "two": ["two_e"]}
    assert [name for name, _ in tables(tmp_path / "two.jsonl", ("one", "two"))] == ["two"]
    with pytest.raises(UserError, match="no file for the subset 'three'"):
        list(tables(tmp_path, ("one", "three"), ["three"]))
    with pytest.raises(UserError, match="no subset 'thre'; did you mean 'three'"):
        list(tables(tmp_path, ("one", "three"), ["thre"]))
    with pytest.raises(UserError, match="no file is named after a subset"):
        list(tables(tmp_path, ("four",)))
    with pytest.raises(UserError, match="no such file or folder"):
        list(tables(tmp_path / "absent", ("four",)))


def test_hub_sets_are_read_through_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, config: str | None, split: str) -> list[dict[str, str]]:
        asked.append((name, config, split))
        if config == "script":
            raise RuntimeError("Dataset scripts are no longer supported\nmore")
        return [{"a": "x"}]

    module = ModuleType("datasets")
    module.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", module)
    [(name, rows)] = list(tables("owner/set", ("one", "two"), ["two"], ending="_e"))
    assert name == "two" and [(r.where, r.text("a")) for r in rows] == [("owner/set/two_e:1", "x")]
    assert asked == [("owner/set", "two_e", "test")]
    with pytest.raises(UserError, match="Dataset scripts are no longer supported") as caught:
        list(read("owner/set", "script"))
    assert "Download its files" in caught.value.mend
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"-m pip install .*datasets"):
        list(read("owner/set"))


def test_a_path_that_does_not_exist_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match="no such file"):
        read("data/x.jsonl")
