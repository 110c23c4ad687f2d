from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.common.errors import UserError
from ropewalk.texts.documents import load, passed_over, stream, tokenise
from ropewalk.texts.pieces import TokenUnits
from tests.tokenizers import byte_level


def test_what_python_ships() -> None:
    assert len(load("stdlib")) > 10 and all(len(text) > 10_000 for text in load("stdlib").values())
    assert "lambda" in load("topics")["topics"]


def test_files_of_every_kind(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "a.txt").write_bytes("\ufeffbyte order mark".encode())
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.md").write_text("# prose")
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"text": "one\u2028line", "id": 1}) + "\n\n" + json.dumps({"text": "two"})
    )
    parquet.write_table(pyarrow.table({"text": ["three", "four"], "id": [1, 2]}), tmp_path / "d.parquet")
    (tmp_path / "ignored.bin").write_bytes(b"\xff")
    found = {str(Path(name).relative_to(tmp_path)): text for name, text in load(tmp_path).items()}
    assert found == {
        "a.txt": "byte order mark",
        "c.jsonl:1": "one\u2028line",
        "c.jsonl:3": "two",
        "d.parquet:1": "three",
        "d.parquet:2": "four",
        "deep/b.md": "# prose",
    }
    assert list(load(tmp_path / "a.txt").values()) == ["byte order mark"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", b" \n", "empty.txt: empty text"),
        ("latin.txt", "gut\nschön".encode("latin-1"), "latin.txt:2: byte 0xf6 is not UTF-8"),
        ("x.pdf", b"%PDF", "x.pdf: cannot read .pdf"),
        ("x.jsonl", b'{"text": "good"}\n{"content": "bad"}', 'x.jsonl:2: no "text", expected a string'),
        ("y.jsonl", b'["text"]', "y.jsonl:1: a row is an object, not list"),
        ("w.jsonl", b'{"text": 5}', 'w.jsonl:1: "text" is 5, expected a string'),
        ("z.jsonl", b'{"text": "good"}\n{"text": ', "z.jsonl:2: not JSON"),
        ("v.jsonl", b'{"text": "good"}\n\n{"text": ""}', "v.jsonl:3: empty text"),
        ("u.parquet", b"PAR1 but not really", "u.parquet: not a parquet file"),
    ],
)
def test_refusals_name_the_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(tmp_path / name)
    assert message in caught.value.message


def test_nothing_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "absent.txt")
    for reader in (load, stream):
        with pytest.raises(UserError, match=r"\(nothing\): no such file"):
            dict(reader(""))
    with pytest.raises(UserError, match="in this folder"):
        load(tmp_path)


def test_a_folder_that_is_closed_to_us_stops_the_work_or_is_left_out(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "closed").mkdir()
    for name in ("a.txt", "closed/b.txt", "d.txt"):
        (tmp_path / name).write_text(name)
    real = os.scandir

    def scandir(place):
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", str(place))
        return real(place)

    monkeypatch.setattr(os, "scandir", scandir)
    for reader in (load, stream):
        with pytest.raises(UserError, match="closed cannot be read: Permission denied") as told:
            dict(reader(tmp_path))
        assert told.value.mend
    left_out: list[UserError] = []
    assert [text for _, text in stream(tmp_path, left_out)] == ["a.txt", "d.txt"]
    assert len(left_out) == 1 and f"{tmp_path / 'closed'} cannot be read" in left_out[0].message
    with pytest.raises(UserError, match="closed cannot be read: Permission denied"):
        dict(stream(tmp_path / "closed"))
    assert passed_over(tmp_path) == ""


def test_pieces_of_a_set_that_are_not_there_are_told(tmp_path: Path) -> None:
    for number in (0, 1, 3):
        (tmp_path / f"train-{number:05d}-of-00005.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "test-00000-of-00001.jsonl").write_text('{"text": "b"}\n')
    assert passed_over(tmp_path) == "2 of 5 pieces of train-*-of-00005.jsonl are not there"
    assert len(load(tmp_path)) == 4


def test_links_are_followed_once_and_what_is_not_read_is_named(tmp_path: Path) -> None:
    texts, other = tmp_path / "w" / "texts", tmp_path / "other" / "sub"
    for folder in (texts / "c", other):
        folder.mkdir(parents=True)
    (texts / "c" / "a.txt").write_text("own")
    (other / "b.txt").write_text("linked")
    (texts / "sub").symlink_to("../../other/sub")
    (texts / "again").symlink_to("c")
    (texts / "d.txt").symlink_to("c/a.txt")
    (texts / "c" / "loop").symlink_to("..")
    (other / "around").symlink_to("..")
    (texts / "up").symlink_to("..")
    (texts / "gone").symlink_to("nowhere")
    (texts / "self").symlink_to("self")
    os.mkfifo(texts / "pipe")
    assert (
        {str(Path(name).relative_to(texts)): text for name, text in stream(texts)}
        == {
            "again/a.txt": "own",
            "sub/b.txt": "linked",
        }
        == {str(Path(name).relative_to(texts)): text for name, text in load(texts).items()}
    )
    assert passed_over(texts) == (
        "1 file of other kinds (without ending 1); read by another name: again/loop, c, d.txt; "
        "a link to a folder around it: sub/around, up; a link that leads nowhere: gone, self"
    )
    for name in ("gone.txt", "self.txt", "pipe.txt"):
        path = texts / name
        os.mkfifo(path) if name == "pipe.txt" else path.symlink_to({"gone": "nowhere", "self": name}[path.stem])
        with pytest.raises(UserError, match=name):
            dict(stream(texts))
        left_out: list[UserError] = []
        assert len(dict(stream(texts, left_out))) == 2 and name in left_out[0].message
        path.unlink()


def test_files_of_a_folder_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b/z.txt", "b/a/y.txt", "b.txt", "a.txt", "b-c.txt", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert [Path(name) for name, _ in stream(tmp_path)] == sorted(tmp_path.rglob("*.txt"))


def test_parquet_column_and_package_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"body": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r'a.parquet:1: no "text", expected a string'):
        load(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["x", None]}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r'a.parquet:2: "text" is None, expected a string'):
        load(tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"-m pip install .*pyarrow"):
        load(tmp_path / "a.parquet")


def test_short_documents_are_left_out_and_never_joined(tokenizer: PreTrainedTokenizerFast) -> None:
    texts = {"short": "ab", "exact": "zzzz", "long": "zzzzzzzz"}
    kept = tokenise(texts, tokenizer, 5)
    assert list(kept) == ["exact", "long"]
    assert kept["exact"][0] == tokenizer.bos_token_id and len(kept["exact"]) == 5
    with pytest.raises(UserError, match="no document has 10 tokens: the longest, long, has 9"):
        tokenise(texts, tokenizer, 10)
    with pytest.raises(UserError, match="there are none"):
        tokenise({}, tokenizer, 10)


def test_files_without_text_do_not_spoil_a_folder(tmp_path: Path) -> None:
    (tmp_path / "__init__.py").write_text("")
    with pytest.raises(UserError, match="no text"):
        load(tmp_path)
    (tmp_path / "module.py").write_text("x = 1")
    assert list(load(tmp_path).values()) == ["x = 1"]


def test_a_text_longer_than_the_tokenizer_promises_is_no_warning(caplog) -> None:
    tokenizer = byte_level()
    tokenizer.model_max_length = 4
    units = TokenUnits(tokenizer)
    with caplog.at_level("WARNING"):
        assert len(units.ids(" one two three four five")) > 4 and units.answer(" one two three", " four")
    assert not caplog.records
