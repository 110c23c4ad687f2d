"""Executes the notebooks and stores what they show: ``make notebook``."""

from __future__ import annotations

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted(Path(__file__).parent.glob("*.ipynb"))


def executed(notebook: Path, folder: Path) -> nbformat.NotebookNode:
    """A notebook with the outputs that it has now, run in ``folder``; warnings and progress are not kept."""
    found = nbformat.read(notebook, as_version=4)
    client = NotebookClient(found, kernel_name="python3", timeout=None, record_timing=False)
    client.execute(cwd=str(folder))
    for cell in found.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return found


def main() -> None:
    for notebook in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(executed(notebook, Path(folder)), notebook)


if __name__ == "__main__":
    main()
