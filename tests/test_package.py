"""The built wheel: whoever installs it, away from the clone, has the bundled model and the report's template."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_carries_what_the_demo_needs(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("ropewalk-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert {f"ropewalk/demo/model/{name}" for name in model} | {"ropewalk/report/page.html.j2"} <= names
    assert not any(name.startswith(("tests/", "docs/", "benchmarks/")) for name in names)
