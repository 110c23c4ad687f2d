"""The package as a whole: what importing it costs, which names it has, and what the built wheel carries."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ropewalk
from ropewalk.methods.catalogue import CATALOGUE
from ropewalk.verbs import NAMES

ROOT = Path(__file__).parent.parent
HEAVY = {"torch", "transformers", "numpy", "matplotlib", "safetensors", "jinja2", "huggingface_hub"}
SHELL = {"cyclopts", "rich"}


@pytest.mark.parametrize(("code", "absent"), [
    ("import ropewalk", HEAVY | SHELL | {"ropewalk.verbs", "ropewalk.methods"}),
    ("import ropewalk; dir(ropewalk)", HEAVY | SHELL),
    ("import ropewalk.verbs; [getattr(ropewalk, name) for name in ropewalk.verbs.NAMES]", HEAVY | SHELL),
    ("import ropewalk; ropewalk.plan.verb.request('demo', to='4k').command", HEAVY | SHELL),
    ("import ropewalk.cli.main as shell; shell.run(['--help'])", HEAVY),
    ("import ropewalk.cli.main as shell; shell.run(['plan', '--help'])", HEAVY),
    ("import ropewalk.cli.main as shell; shell.run(['methods'])", HEAVY),
])  # fmt: skip
def test_what_need_not_load_models_loads_nothing_heavy(code, absent):
    loaded = f"import sys; print(sorted({absent!r} & set(sys.modules)))"
    command = [sys.executable, "-c", f"{code}; {loaded}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1] == "[]"


def test_names_follow_from_the_verbs_and_the_catalogue():
    names = dir(ropewalk)
    assert sorted(names) == sorted(ropewalk.__all__)
    assert {*NAMES, "UserError", "method", "compose", "__version__"} <= set(names) and len(names) == len(set(names))
    for entry in CATALOGUE:
        assert getattr(ropewalk, entry.where.partition(":")[2]) is entry.load()
    with pytest.raises(AttributeError, match="no attribute 'YaNR'"):
        ropewalk.YaNR  # noqa: B018


@pytest.mark.slow
def test_the_wheel_carries_what_the_demo_needs(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("ropewalk-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    model = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert {f"ropewalk/demo/model/{name}" for name in model} | {"ropewalk/report/page.html.j2"} <= names
    assert not any(name.startswith(("tests/", "docs/", "benchmarks/")) for name in names)
