from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from ropewalk.common.errors import UserError
from ropewalk.texts.documents import load, stream, tokenise
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
