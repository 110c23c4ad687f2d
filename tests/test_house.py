"""The laws of the house: imports point down, a file's name is said once, every module has its test."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ropewalk"

# From the ground up: a room imports from rooms before it. The package itself (``__init__``) stands on top of all.
FLOORS = (
    "common rope texts report attention tasks methods checkpoint planning engines backends serving evaluation fitting "
    "demo verbs cli"
).split()

# Modules without a test file of their own -> the test that covers them.
COVERED = {
    "tests/methods/test_every_method.py": "methods/*/*.py methods/base.py",
    "tests/methods/attention/test_oracles.py": "attention/forward.py attention/layer.py attention/regions.py",
    "tests/methods/attention/test_retrieval.py": "attention/recall.py",
    "tests/methods/attention/test_on_models.py": "attention/sink_cache.py",
    "tests/attention/test_devices.py": "attention/kernels.py",
    "tests/attention/test_soundness.py": "attention/attending.py",
    "tests/attention/test_architectures.py": "rope/probe.py",
    "tests/attention/test_engine.py": "rope/rotation.py",
    "tests/engines/test_round_trip.py": "rope/formulas.py",
    "tests/verbs/test_cases.py": "rope/architecture.py rope/trial.py",
    "tests/tasks/test_every_task.py": "tasks/*.py tasks/ruler/*.py",
    "tests/tasks/benchmarks/test_question.py": "tasks/benchmarks/grading.py",
    "tests/evaluation/test_asking.py": "backends/backend.py backends/oracles.py evaluation/controls.py",
    "tests/evaluation/test_experiment.py": "backends/local.py evaluation/contestants.py evaluation/findings.py "
    "common/fingerprints.py",
    "tests/evaluation/test_samples.py": "evaluation/grid.py texts/pieces.py",
    "tests/evaluation/test_lm_eval.py": "evaluation/lm_eval_bridge.py",
    "tests/engines/test_engines.py": "engines/*.py",
    "tests/engines/test_traps.py": "engines/launch.py",
    "tests/checkpoint/gguf/test_from_gguf.py": "checkpoint/gguf/*.py",
    "tests/engines/gguf/test_to_gguf.py": "engines/gguf/*.py",
    "tests/verbs/test_fit.py": "fitting/*.py",
    "tests/cli/test_main.py": "common/errors.py checkpoint/write.py checkpoint/inspection*.py",
    "tests/verbs/test_request.py": "verbs/*.py common/lengths.py",
    "tests/verbs/test_plan.py": "planning/*.py",
    "tests/demo/test_train.py": "demo/drills.py texts/builtin.py",
    "tests/report/test_table_and_picture.py": "report/*.py",
    "tests/serving/test_server.py": "serving/*.py",
}

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.stem not in ("__init__", "__main__"))


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and room of every import of this package, local and type-checking ones too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module is not None and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, *rest = name.split(".")
            if package == "ropewalk" and rest and (PACKAGE / rest[0]).is_dir():
                yield node.lineno, rest[0]


def test_every_room_has_a_floor():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(FLOORS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor):
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {other}"
        for path in (PACKAGE / floor).rglob("*.py")
        for line, other in imported(path)
        if FLOORS.index(other) > FLOORS.index(floor)
    ]
    assert not upward


def test_relative_imports_are_not_used():
    nodes = ((path, node) for path in MODULES for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    assert not [str(path) for path, node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def test_no_two_files_need_each_other():  # a name for a type checker is no need
    edges = {path: set(_needed(path)) for path in MODULES}
    assert not [(str(a), str(b)) for a in edges for b in edges[a] if a in edges.get(b, ()) and a < b]


def _needed(path: Path) -> Iterator[Path]:
    tree = ast.parse(path.read_text("utf-8"))
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    guarded = {id(inner) for guard in guards for inner in ast.walk(guard)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ropewalk") and id(node) not in guarded:
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                file = ROOT / f"{str(name).replace('.', '/')}.py"
                if file.is_file():
                    yield file


def test_a_files_name_is_said_once():
    again = {name for name, n in Counter(path.name for path in MODULES).items() if n > 1}
    assert not again


def test_every_module_has_its_test():
    listed = {path: test for test, patterns in COVERED.items() for p in patterns.split() for path in PACKAGE.glob(p)}
    own = {path: ROOT / "tests" / path.relative_to(PACKAGE).parent / f"test_{path.name}" for path in MODULES}
    assert not [str(path.relative_to(ROOT)) for path in MODULES if not own[path].is_file() and path not in listed]
    assert all((ROOT / test).is_file() for test in COVERED)
    named = {PACKAGE / p for patterns in COVERED.values() for p in patterns.split() if "*" not in p}
    assert not [str(path.relative_to(ROOT)) for path in named if not path.is_file() or own[path].is_file()]
