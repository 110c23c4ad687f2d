"""The guides do what they say: their blocks run as they stand, in order, and print what is shown.

In a guide a block of ``sh`` or ``python`` is run; of ``text``, what the block before it prints, with ``...`` for what
differs or is left out. The words in front of a block may make it another thing:

- "Not run here, ...:" leaves it out;
- "... `path/of/a/file.py`:" is that file, which has to be like it, or is written if there is none;
- "... into `NAME` in `path/of/a/file.py`:" adds lines to the end of a list or dict of that file.
"""

from __future__ import annotations

import ast
import doctest
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
IN_A_CLONE = {"add-a-method"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEW_FILE = re.compile(r"`([\w/-]+\.py)`:$")
MORE_LINES = re.compile(r"into `(\w+)` in `([\w/]+\.py)`:$")


@dataclass(frozen=True)
class Block:
    """One block of a guide; ``before`` is the paragraph in front of it, ``shown`` what it prints, if that is shown."""

    language: str
    text: str
    before: str
    shown: str | None = None


def blocks(guide: str) -> Iterator[Block]:
    found, end = [], 0
    for match in FENCE.finditer(guide):
        before = " ".join(guide[end : match.start()].strip().split("\n\n")[-1].split())
        if match[1] == "text":
            assert found and found[-1].shown is None, "an output of nothing"
            found[-1] = Block(found[-1].language, found[-1].text, found[-1].before, match[2])
        else:
            found.append(Block(match[1], match[2], before))
        end = match.end()
    yield from found


class Reader:
    """Somebody who does what a guide says, in one folder."""

    def __init__(self, folder: Path, package: Path) -> None:
        self.folder = folder
        self.names: dict[str, Any] = {}
        paths = {"PYTHONPATH": str(package), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        self.environment = {**os.environ, **paths, "COLUMNS": "80"}

    def does(self, block: Block, capsys: pytest.CaptureFixture[str]) -> None:
        if block.before.startswith("Not run here, "):
            return
        if more := MORE_LINES.search(block.before):
            self.adds(block.text, more[1], self.folder / more[2])
        elif new := NEW_FILE.search(block.before):
            self.writes(block.text, self.folder / new[1])
        elif block.language == "sh":
            self.types(block)
        else:
            assert block.language == "python", f"nobody knows what to do with {block.language!r}"
            capsys.readouterr()
            exec(compile(block.text, "a block", "exec"), self.names)
            prints(block, capsys.readouterr().out)

    def types(self, block: Block) -> None:
        command = ["bash", "-euo", "pipefail", "-c", block.text]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True)
        fine = (0,) if block.shown is None else (0, 1)  # 1: what is shown is a problem that was found
        assert done.returncode in fine, f"{block.text}\n{done.stdout}\n{done.stderr}"
        prints(block, done.stdout)

    @staticmethod
    def writes(text: str, file: Path) -> None:
        if not file.exists():
            file.write_text(text, "utf-8")
        assert file.read_text("utf-8") == text

    @staticmethod
    def adds(text: str, name: str, file: Path) -> None:
        """Puts lines before the bracket that closes the value of ``name``."""
        lines = file.read_text("utf-8").splitlines(keepends=True)
        (value,) = (
            node.value
            for node in ast.parse("".join(lines)).body
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name and node.value
        )
        assert value.end_lineno
        lines.insert(value.end_lineno - 1, textwrap.indent(text.rstrip(",\n") + ",\n", "    "))
        file.write_text("".join(lines), "utf-8")


def prints(block: Block, out: str) -> None:
    """What a block shows is what it prints; how wide a space is and where a line ends does not matter."""
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    if block.shown is not None:
        same = doctest.OutputChecker().check_output(block.shown, out, options)
        assert same, f"{block.text}\nshows\n{block.shown}\nand prints\n{out}"


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide_does_what_it_says(guide, tmp_path, monkeypatch, capsys):
    folder, package = tmp_path, ROOT
    if guide.stem in IN_A_CLONE:
        folder = package = tmp_path / "ropewalk"
        folder.mkdir()
        for name in ("ropewalk", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
    monkeypatch.chdir(folder)
    reader = Reader(folder, package)
    for block in blocks(guide.read_text("utf-8")):
        reader.does(block, capsys)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_most_of_a_guide_is_run(guide):
    found = list(blocks(guide.read_text("utf-8")))
    left_out = [block for block in found if block.before.startswith("Not run here, ")]
    assert len(found) >= 3 and len(left_out) < len(found) / 2
    assert any(block.shown for block in found)


def test_what_a_guide_shows_must_be_what_it_prints(tmp_path, capsys):
    (block,) = blocks("Say it:\n\n```sh\necho one; echo two\n```\n\n```text\none\n...\nthree\n```\n")
    assert (block.before, block.shown) == ("Say it:", "one\n...\nthree\n")
    with pytest.raises(AssertionError, match="and prints"):
        Reader(tmp_path, ROOT).does(block, capsys)
    Reader(tmp_path, ROOT).does(Block("sh", block.text, "", "one\n...\n"), capsys)


def test_a_block_that_fails_fails(tmp_path, capsys):
    with pytest.raises(AssertionError, match="No such file"):
        Reader(tmp_path, ROOT).does(Block("sh", "cat nothing\necho done\n", ""), capsys)
    with pytest.raises(AssertionError, match="nobody knows"):
        Reader(tmp_path, ROOT).does(Block("yaml", "a: 1\n", ""), capsys)
    Reader(tmp_path, ROOT).does(Block("sh", "exit 1\n", "Not run here, for want of time:"), capsys)


def test_files_are_written_compared_and_added_to(tmp_path, capsys):
    reader = Reader(tmp_path, ROOT)
    block = Block("python", "LIST: list = [\n    1,\n]\n", "This is `a.py`:")
    reader.does(block, capsys)
    reader.does(block, capsys)
    reader.does(Block("python", "2,\n", "Another, into `LIST` in `a.py`:"), capsys)
    assert (tmp_path / "a.py").read_text() == "LIST: list = [\n    1,\n    2,\n]\n"
    with pytest.raises(AssertionError):
        reader.does(block, capsys)
