"""What is read from outside: regular files only, and JSON that nobody stumbles over."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
from pathlib import Path

import pytest

from ropewalk.common import outside
from ropewalk.common.errors import UserError
from ropewalk.common.outside import open_file, parse, parse_at, read_bytes, read_json, spelled


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (pipe, "is a pipe, socket or device, expected a regular file"),
        (listening, "is a pipe, socket or device, expected a regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is a pipe, socket or device"),
        (Path.mkdir, "is a folder, expected a regular file"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels"),
        (lambda path: None, "does not exist"),
    ],
)
def test_only_regular_files_are_opened(make, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    make(Path("x"))
    with pytest.raises(UserError, match=said) as error:
        open_file(Path("x"))
    assert error.value.mend


def test_what_the_system_forbids_is_said(tmp_path, monkeypatch):
    def forbidden(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "x").write_text("{}")
    monkeypatch.setattr(outside.os, "open", forbidden)
    with pytest.raises(UserError, match="x cannot be read: Permission denied"):
        read_bytes(tmp_path / "x")


def test_a_file_has_an_end(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.truncate(1 << 40)  # takes no room on the disk
    with pytest.raises(UserError, match="has 1,099,511,627,776 bytes, expected at most 8,388,608"):
        read_json(tmp_path / "x")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000, "nested too deep"),
        ("[" * 200_000 + "]" * 200_000, "nested too deep"),
        ("[" * 65 + "]" * 65, "nested too deep, expected at most 64 levels"),
        ('{"a":' * 65 + "{}" + "}" * 65, "nested too deep"),
        ("1" * 5000, "a number of 5,000 digits, expected at most 40"),
        ("-" + "1" * 400, "digits, expected at most 40"),
        (r'"\ud800"', "half of a surrogate pair"),
        (r'{"\udc00": 1}', "half of a surrogate pair"),
        ("{} {}", "Extra data"),
        ("", "Expecting value"),
    ],
)
def test_json_that_is_a_trap(text, said):
    with pytest.raises(ValueError, match=said):
        parse(text)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999", "[Infinity]"])
def test_numbers_may_have_to_be_finite(text):
    assert parse(text) is not None
    with pytest.raises(ValueError, match="is no finite number"):
        parse(text, finite=True)


def test_what_is_no_trap_is_read():
    deep = "[" * 63 + "]" * 63
    assert parse(f' {{"a": {deep}, "b": {10**30}, "c": "\\ud83e\\udea2"}}\n')["c"] == "\U0001faa2"
    assert parse_at("x [1, 2], 3", 2) == ([1, 2], 8)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[]", "holds a JSON list, expected an object"), (b"\xff", "is not valid JSON: 'utf-8'"), (b"{", "valid JSON")],
)
def test_an_object_is_expected(content, said, tmp_path):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_json(tmp_path / "x")


def test_a_byte_order_mark_is_named_and_the_line_cuts_it_off(tmp_path):
    file = tmp_path / "a file.json"
    file.write_text('{"a": 1}', "utf-8-sig")
    with pytest.raises(UserError, match="begins with a byte order mark") as refused:
        read_json(file)
    line = refused.value.mend.removeprefix("Cut it off: ").replace("WITHOUT", shlex.quote(str(tmp_path / "b.json")))
    subprocess.run(line, shell=True, check=True)
    assert read_json(tmp_path / "b.json") == {"a": 1}


@pytest.mark.parametrize("name", ["~nosuchuser/x", "n" * 5000, "a\0b", "d/" * 5000])
def test_a_name_that_no_file_can_have(name):
    with pytest.raises(UserError, match="cannot be a path here: ") as error:
        spelled(name)
    assert len(str(error.value)) < 300


def test_a_name_that_a_file_can_have(tmp_path):
    (tmp_path / "file").touch()
    assert spelled("~") == Path.home() and spelled(tmp_path / "file" / "below") == tmp_path / "file" / "below"


@pytest.mark.parametrize(
    "text", ['{"a": 1, "a": 2}', '{"b": [{"a": 1, "c": 0, "a": true}]}', '{"a": {"x": 1}, "a": {}}']
)
def test_a_key_says_one_thing(text, tmp_path):
    with pytest.raises(ValueError, match="key 'a' stands twice in one object, as "):
        parse(text)
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json is not valid JSON: key 'a' stands twice"):
        read_json(tmp_path / "x.json")


def test_a_key_may_say_it_twice():
    assert parse('{"a": {"x": NaN}, "a": {"x": NaN}}').keys() == {"a"}


def test_long_keys_and_values_are_cut():
    long = "n" * 5000
    with pytest.raises(ValueError) as error:
        parse(f'{{"{long}": "{long}", "{long}": 1}}')
    assert len(str(error.value)) < 300
