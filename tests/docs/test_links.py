"""A dead link in the built site is found, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def looked(site: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, ROOT / "docs/links.py", site], capture_output=True, text=True)


def test_what_leads_nowhere_is_named_with_its_page(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "index.html").write_text(
        '<p id="a b"><a href="in/page.html#there">1</a> <a href="#a%20b">2</a> <a href="https://host/x">3</a>'
        ' <a href="#">4</a> <img src="in/page.html">'
    )
    page = tmp_path / "in" / "page.html"
    page.write_text('<h1 id="there"><a href="../index.html">up</a>')
    assert looked(tmp_path).returncode == 0
    page.write_text('<h1 id="here"><a href="../nowhere.html">up</a>')
    found = looked(tmp_path)
    assert found.returncode == 1
    assert found.stderr.splitlines() == [
        "dead links:",
        "in/page.html: ../nowhere.html",
        "index.html: in/page.html#there",
    ]


def test_an_empty_folder_is_no_site(tmp_path):
    assert "holds no index.html" in looked(tmp_path).stderr
