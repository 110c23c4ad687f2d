"""The API pages have every public name once, for they are filled from the lists."""

from __future__ import annotations

import re
import runpy
from collections import Counter
from pathlib import Path

import ropewalk

DOCS = Path(__file__).parent.parent.parent / "docs"
PARTS = runpy.run_path(str(DOCS / "conf.py"))["PARTS"]


def test_every_public_name_is_documented_once():
    text = "\n".join("\n".join(part()) for part in PARTS.values())
    names = Counter(re.findall(r"^\.\. auto\w+:: ropewalk\.(\w+)$", text, re.MULTILINE))
    assert names == Counter(set(dir(ropewalk)) - {"__version__"})


def test_every_part_has_its_page():
    pages = sorted((DOCS / "api").glob("*.md"))
    asked = [name for page in pages for name in re.findall(r"<!-- api: (\w+) -->", page.read_text("utf-8"))]
    assert sorted(asked) == sorted(PARTS)
    assert all(f"api/{page.stem}" in (DOCS / "index.md").read_text("utf-8") for page in pages)
