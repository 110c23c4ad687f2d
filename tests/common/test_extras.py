"""What is missing is said with a line that brings it, whichever way ropewalk came."""

from __future__ import annotations

import re
import shlex
import sys
from importlib import metadata
from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.common.extras import extra, install

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text("utf-8")
NAMED = re.compile(r"""\binstall\(["']([\w-]+)["']\)|\bextra\("[^"]+", "[^"]+", "([\w-]+)"\)""")
SOURCES = "".join(file.read_text("utf-8") for file in (ROOT / "ropewalk").rglob("*.py"))


def declared(group: str) -> set[str]:
    listed = re.search(rf"^{group} = \[(.*?)\]$", PYPROJECT, re.MULTILINE | re.DOTALL)
    return set(re.findall(r'"([^"]+)"', listed[1])) if listed else set()


@pytest.mark.parametrize("group", sorted({"train"} | {a or b for a, b in NAMED.findall(SOURCES)}))
def test_the_line_names_what_the_extra_declares(group):
    words = shlex.split(install(group))
    brings = {word.replace("_", "-") for word in words[words.index("install") + 1 :]}
    assert brings and brings == {word.replace("_", "-") for word in declared(group)}


def test_the_line_is_for_this_python(monkeypatch, tmp_path):
    for beside, begins in ((True, "pip install "), (False, f"{shlex.quote(sys.executable)} -m pip install ")):
        pip = (Path(sys.executable).parent if beside else tmp_path) / "pip"
        monkeypatch.setattr("ropewalk.common.extras.which", lambda _, pip=pip: str(pip))
        assert install("gguf") == f"{begins}gguf"


def test_a_clone_that_was_not_installed_is_named_itself(monkeypatch):
    def absent(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", absent)
    assert shlex.split(install("gguf"))[-2:] == ["--editable", f"{ROOT}[gguf]"]


def test_what_is_missing_is_a_users_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(UserError, match="searches need the package 'cmaes'") as caught:
        extra("cmaes", "searches", "fit")
    assert caught.value.mend == install("fit")


def test_nothing_says_that_an_index_has_ropewalk():
    texts = [file for room in ("ropewalk", "docs", "tests", "claims", "bench") for file in (ROOT / room).rglob("*.*")]
    said = re.compile(r"pip install '?ropewalk\[")
    named = [file for file in texts if file.suffix in (".py", ".md", ".ipynb") and said.search(file.read_text("utf-8"))]
    assert named == []
