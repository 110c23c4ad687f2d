"""The package as a whole: what importing it costs, which names it has, and what the built wheel carries."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
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


def built(source: Path, folder: Path) -> set[str]:
    """The names in the wheel that is made of ``source``; it and the source distribution lie in ``folder``."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


@pytest.mark.slow
def test_the_wheel_has_the_package_whole_and_nothing_else(tmp_path):
    names = built(ROOT, tmp_path)
    files = {f.relative_to(ROOT).as_posix() for f in (ROOT / "ropewalk").rglob("*") if f.is_file()}
    assert {name for name in names if ".dist-info/" not in name} == {f for f in files if "__pycache__" not in f}
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    (source,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(tmp_path, filter="data")
    assert built(tmp_path / source.name.removesuffix(".tar.gz"), tmp_path / "again") == names


@pytest.mark.slow
def test_the_wheel_works_where_nothing_of_the_sources_is(tmp_path):
    """In an environment of its own; what ropewalk depends on is taken from the running one, through a .pth file."""
    built(ROOT, tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=False)
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "venv")}))
    (own / "dependencies.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")))
    python = tmp_path / "venv" / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", str(wheel)]
    subprocess.run(install, check=True)
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def said(*command: str) -> str:
        words = [str(python.parent / command[0]), *command[1:]]
        return subprocess.run(words, cwd=tmp_path, env=clean, capture_output=True, text=True, check=True).stdout

    assert Path(said("python", "-c", "import ropewalk; print(ropewalk.__file__)").strip()).is_relative_to(own)
    assert len(said("ropewalk", "methods").splitlines()) > len(CATALOGUE)
    assert "no problems found" in said("ropewalk", "inspect", "demo")
