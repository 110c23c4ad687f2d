"""The notebooks run, and show what they are stored with: kinds of output, for numbers depend on the machine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def kinds(cell) -> list[tuple[str, list[str]]]:
    return [(output["output_type"], sorted(output.get("data", ()))) for output in cell.get("outputs", ())]


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_it_is_stored_with(notebook, tmp_path, monkeypatch):
    import nbformat

    monkeypatch.syspath_prepend(str(notebook.parent))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    from execute import executed

    stored, now = nbformat.read(notebook, as_version=4), executed(notebook, tmp_path)
    assert sys.modules.pop("execute")
    nbformat.validate(stored)
    assert [kinds(cell) for cell in stored.cells] == [kinds(cell) for cell in now.cells]
    assert sum(bool(cell.get("outputs")) for cell in stored.cells) >= 5
