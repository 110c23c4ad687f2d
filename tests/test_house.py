"""The laws of the house: imports point down, a file's name is said once, every module has its test."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path
from typing import TypeVar

import pytest

from ropewalk import verbs
from ropewalk.encoders.encoder_entries import ENCODER_METHODS
from ropewalk.lab.encoding_entries import ENCODINGS
from ropewalk.methods.catalogue import CATALOGUE
from ropewalk.tasks.registry import TASKS
from ropewalk.training.positions.entries import POSITIONS
from ropewalk.workflows.strategy_entries import STRATEGIES
from tests.durations import LONG

T = TypeVar("T")

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ropewalk"

# From the ground up: a room imports from rooms before it. The package itself (``__init__``) stands on top of all.
FLOORS = (
    "common rope carriers texts report attention tasks methods checkpoint planning engines backends encoders data "
    "training lab serving workflows evaluation fitting demo verbs cli"
).split()

# Lists that name modules -> the test that runs over all of the list.
LISTED = {
    "tests/methods/test_every_method.py": {
        f"methods/{entry.where.split(':')[0].replace('.', '/')}" for entry in CATALOGUE if entry.kind != "memory"
    },
    "tests/methods/memory/test_every_memory.py": {
        f"methods/{entry.where.split(':')[0].replace('.', '/')}" for entry in CATALOGUE if entry.kind == "memory"
    },
    "tests/encoders/test_every_encoder_method.py": {
        f"encoders/encoder_methods/{one.where.split(':')[0]}" for one in ENCODER_METHODS if one.where
    },
    "tests/lab/test_every_encoding.py": {f"lab/encodings/{one.where.split(':')[0]}" for one in ENCODINGS},
    "tests/tasks/test_registry.py": {f"tasks/{task.target.split(':')[0].replace('.', '/')}" for task in TASKS.values()},
    "tests/training/positions/test_entries.py": {f"training/positions/{one.where.split(':')[0]}" for one in POSITIONS},
    "tests/verbs/test_request.py": {f"verbs/{name}" for name in verbs.NAMES},
    "tests/workflows/test_every_strategy.py": {f"workflows/strategies/{one.where.split(':')[0]}" for one in STRATEGIES},
}

# Other modules without a test file of their own -> the test that covers them.
COVERED = {
    "tests/backends/chat/test_answering.py": "backends/chat/chat backends/chat/journal backends/chat/ledger",
    "tests/backends/chat/test_endpoint.py": "backends/chat/sending",
    "tests/data/test_arrangement.py": "data/counts",
    "tests/data/test_tokenising.py": "data/corpus",
    "tests/data/synthesis/test_information_intensive.py": "data/synthesis/synthesis",
    "tests/data/synthesis/test_table_questions.py": "data/synthesis/tables",
    "tests/data/synthesis/test_written_questions.py": "data/synthesis/drawing",
    "tests/data/synthesis/test_retrieved_passages.py": "data/synthesis/similarity",
    "tests/data/mixing/test_mixing.py": "data/mixing/domain",
    "tests/data/test_making.py": "data/arranged data/rows_page data/survey data/surveying data/survey_page",
    "tests/data/packing/test_packings.py": "data/packing/concatenation data/packing/decomposition data/packing/cutting",
    "tests/data/knots/test_knots.py": "data/knots/interleaving data/knots/marks data/knots/row_builder "
    "data/knots/untie_the_knots",
    "tests/training/recipes/test_recipe_entries.py": "training/recipes/continued training/recipes/interpolation "
    "training/recipes/low_rank training/recipes/memories training/recipes/preference training/recipes/recalibration "
    "training/recipes/skipwise",
    "tests/training/test_longpo.py": "data/pairs training/pair_sampler training/references",
    "tests/workflows/test_embedding.py": "backends/text_encoder",
    "tests/encoders/test_every_encoder_method.py": "encoders/encoder_entries encoders/encoder_method "
    "encoders/extended_encoder",
    "tests/lab/test_every_encoding.py": "lab/decoder lab/encoding lab/encoding_entries",
    "tests/lab/test_lab_grid.py": "lab/lab_page",
    "tests/encoders/test_encoder_folder.py": "encoders/families",
    "tests/carriers/test_carrier.py": "checkpoint/carrier_inspection",
    "tests/verbs/test_without_rope.py": "backends/encoder_decoder planning/carrier_plan",
    "tests/methods/memory/test_attendre.py": "attention/memory_cache",
    "tests/methods/carriers/test_alibi_interpolation.py": "methods/carriers/handed_slopes "
    "methods/carriers/plain_carrier",
    "tests/methods/carriers/test_longer_table.py": "checkpoint/carrier_extension carriers/table_rows "
    "methods/carriers/carrier_entries methods/carriers/carrier_method",
    "tests/encoders/retrieval/test_long_retrieval.py": "encoders/retrieval/pairs_of_trivia",
    "tests/workflows/test_every_strategy.py": "workflows/strategy workflows/strategy_entries workflows/selection",
    "tests/verbs/test_read.py": "workflows/answered workflows/trace_page",
    "tests/verbs/test_train.py": "training/preparation training/trained",
    "tests/evaluation/test_long_context_callback.py": "evaluation/long_context",
    "tests/methods/test_every_method.py": "methods/base methods/attention/attention_method "
    "methods/frequencies/frequency_method",
    "tests/methods/memory/test_reader.py": "methods/memory/memory_method",
    "tests/methods/memory/test_landmark.py": "methods/memory/unrotated",
    "tests/methods/attention/test_oracles.py": "attention/forward attention/layer attention/regions",
    "tests/methods/attention/test_retrieval.py": "attention/recall",
    "tests/methods/attention/test_on_models.py": "attention/sink_cache",
    "tests/attention/test_devices.py": "attention/kernels",
    "tests/attention/test_soundness.py": "attention/attending",
    "tests/attention/test_architectures.py": "rope/probe",
    "tests/attention/test_engine.py": "rope/rotation",
    "tests/engines/test_round_trip.py": "rope/formulas",
    "tests/tasks/test_every_task.py": "tasks/assembly tasks/context tasks/names tasks/suites tasks/task "
    "tasks/words tasks/ruler/matching tasks/ruler/qa_files",
    "tests/tasks/test_quoted.py": "tasks/kinds",
    "tests/tasks/benchmarks/test_question.py": "tasks/benchmarks/grading",
    "tests/evaluation/test_asking.py": "backends/backend backends/oracles evaluation/controls",
    "tests/evaluation/test_experiment.py": "backends/local evaluation/contestants evaluation/findings "
    "common/fingerprints",
    "tests/evaluation/test_samples.py": "evaluation/grid texts/pieces",
    "tests/evaluation/test_lm_eval.py": "evaluation/lm_eval_bridge",
    "tests/engines/test_engines.py": "engines/agreement engines/llama_cpp engines/reading engines/sglang "
    "engines/transformers engines/vllm",
    "tests/engines/test_traps.py": "engines/launch",
    "tests/checkpoint/gguf/test_from_gguf.py": "checkpoint/gguf/header checkpoint/gguf/library "
    "checkpoint/gguf/mistakes checkpoint/gguf/rope_keys",
    "tests/engines/gguf/test_to_gguf.py": "engines/gguf/output",
    "tests/verbs/test_fit.py": "fitting/fitter",
    "tests/methods/test_catalogue.py": "methods/typed",
    "tests/training/positions/test_entries.py": "training/positions/training_positions",
    "tests/training/test_training_page.py": "training/readings",
    "tests/fitting/test_rope_factors.py": "fitting/searching fitting/evolution",
    "tests/fitting/test_recommending.py": "fitting/entrants",
    "tests/cli/test_main.py": "common/errors checkpoint/write checkpoint/inspection checkpoint/inspection_view",
    "tests/verbs/test_request.py": "common/lengths",
    "tests/verbs/test_plan.py": "planning/calibrate planning/cost planning/hardware planning/measure "
    "planning/plan_view planning/planner planning/published",
    "tests/demo/test_pretrain.py": "demo/drills texts/builtin",
    "tests/report/test_page.py": "planning/plan_page report/glossary",
    "tests/report/test_table_and_picture.py": "report/picture report/table",
    "tests/serving/test_server.py": "serving/application serving/gate serving/job serving/protocol serving/sampling",
}

FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [path for path in FILES if path.stem not in ("__init__", "__main__")]
TOP = "the public names"


@cache
def parsed(path: Path) -> tuple[ast.Module, str]:
    """A file's code, and the package that it is in."""
    return ast.parse(path.read_text("utf-8")), ".".join(path.parent.relative_to(ROOT).parts)


def named(tree: ast.AST, package: str, without: Collection[ast.AST] = ()) -> Iterator[tuple[int, str]]:
    """Line and dotted name of all that is named of this package, in whatever way: imports, attributes, strings."""
    for node in ast.walk(tree):
        if node in without:
            continue
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            module = resolve_name("." * node.level + (node.module or ""), package)
            names = [f"{module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ropewalk":
            names = [f"ropewalk.{node.attr}"]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = re.fullmatch(r"(ropewalk\.(\w+)[\w.]*?)\.?", node.value)
            names = [match[1]] if match and match[2] in FLOORS else []
        elif isinstance(node, ast.Call) and last(node.func) == "import_module":
            texts = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
            if texts and texts[0].startswith("."):
                names = [resolve_name(texts[0], texts[1] if len(texts) > 1 else package)]
        yield from ((node.lineno, name) for name in names if name.split(".")[0] == "ropewalk")


def last(node: ast.AST) -> str:
    """The last word of a dotted name in code."""
    return getattr(node, "id", getattr(node, "attr", ""))


def room(name: str) -> str | None:
    """The room of a dotted name; None of the version, which every room may have."""
    _, first, *_ = [*name.split("."), ""]
    return first if first in FLOORS else None if first == "__version__" else TOP


def test_every_room_has_a_floor():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert rooms == set(FLOORS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("floor", FLOORS)
def test_imports_point_down(floor):
    allowed = {*FLOORS[: FLOORS.index(floor) + 1], None}
    upward = [
        f"{path.relative_to(ROOT)}:{line} names {name}"
        for path in (PACKAGE / floor).rglob("*.py")
        for line, name in named(*parsed(path))
        if room(name) not in allowed
    ]
    assert not upward


@pytest.mark.parametrize(("code", "name", "where"), [
    ("from ropewalk.verbs.fit import fit", "ropewalk.verbs.fit.fit", "verbs"),
    ("def f():\n    import ropewalk.verbs.fit as g", "ropewalk.verbs.fit", "verbs"),
    ("from ropewalk import verbs", "ropewalk.verbs", "verbs"),
    ("from ropewalk import compare", "ropewalk.compare", TOP),
    ("import ropewalk", "ropewalk", TOP),
    ("ropewalk.compare('demo')", "ropewalk.compare", TOP),
    ("from ropewalk import __version__", "ropewalk.__version__", None),
    ("from . import write", "ropewalk.checkpoint.write", "checkpoint"),
    ("from ..verbs import fit", "ropewalk.verbs.fit", "verbs"),
    ("from .. import verbs", "ropewalk.verbs", "verbs"),
    ("importlib.import_module('ropewalk.verbs.fit')", "ropewalk.verbs.fit", "verbs"),
    ("HERE = 'ropewalk.verbs.'", "ropewalk.verbs", "verbs"),
    ("load(f'ropewalk.verbs.{name}')", "ropewalk.verbs", "verbs"),
    ("import_module('..verbs', __package__)", "ropewalk.verbs", "verbs"),
    ("import_module('.fit', 'ropewalk.verbs')", "ropewalk.verbs.fit", "verbs"),
])  # fmt: skip
def test_no_way_to_name_a_module_is_overlooked(code, name, where):
    found = {found for _, found in named(ast.parse(code), "ropewalk.checkpoint")}
    assert name in found and {room(one) for one in found} == {where}


@pytest.mark.parametrize(
    "code", ["import torch", "from ropewalking import x", "RECORD = 'ropewalk.json'", "f('.verbs')"]
)
def test_what_is_no_module_of_ours_is_no_import(code):
    assert not list(named(ast.parse(code), "ropewalk.checkpoint"))


def test_relative_imports_are_not_used():
    nodes = ((path, node) for path in FILES for node in ast.walk(parsed(path)[0]))
    assert not [str(path) for path, node in nodes if isinstance(node, ast.ImportFrom) and node.level]


def test_no_files_need_each_other():  # a name for a type checker is no need
    assert circle({path: set(_needed(*parsed(path))) - {path} for path in FILES}) == []


def circle(edges: Mapping[T, set[T]]) -> list[T]:
    """Some that need one another, directly or through others; empty if there are none."""
    try:
        TopologicalSorter(edges).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_circle_of_any_length_is_found():
    assert set(circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == {"a", "b", "c"}
    assert set(circle({"a": {"b"}, "b": {"a"}})) == {"a", "b"} and circle({"a": {"b", "c"}, "b": {"c"}}) == []


def _needed(tree: ast.Module, package: str) -> Iterator[Path]:
    guards = (node for node in ast.walk(tree) if isinstance(node, ast.If) and last(node.test) == "TYPE_CHECKING")
    guarded = {inner for guard in guards for one in guard.body for inner in ast.walk(one)}
    for _, name in named(tree, package, guarded):
        place = ROOT.joinpath(*name.split("."))
        candidates = (one.with_suffix(".py") if one.with_suffix(".py").is_file() else one / "__init__.py"
                      for one in (place, place.parent))  # fmt: skip
        found = next((one for one in candidates if one.is_file()), None)
        if found is not None and room(name) is not None:
            yield found


def test_a_need_is_not_hidden_by_its_guard():
    code = "if TYPE_CHECKING:\n    from ropewalk.verbs import fit\nelse:\n    from ropewalk.verbs.plan import plan\n"
    code += "if not TYPE_CHECKING:\n    from ropewalk import verbs\n"
    assert set(_needed(ast.parse(code), "ropewalk")) == {PACKAGE / "verbs/plan.py", PACKAGE / "verbs/__init__.py"}


def test_a_files_name_is_said_once():
    again = {name for name, n in Counter(path.name for path in MODULES).items() if n > 1}
    assert not again


def test_every_module_has_its_test():
    names = [name for line in COVERED.values() for name in line.split()]
    every = {path.relative_to(PACKAGE).with_suffix("").as_posix() for path in MODULES}
    own = {name for name in every if (ROOT / "tests" / name).with_name(f"test_{name.split('/')[-1]}.py").is_file()}
    driven = set().union(*LISTED.values())
    assert every - own - driven == set(names), "a module without a test, or one listed that has its own or is gone"
    assert len(names) == len(set(names)) and all((ROOT / test).is_file() for test in (*COVERED, *LISTED))


def test_every_guarantee_names_its_test():
    rows = [line for line in (ROOT / "docs/guarantees.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    named = [re.findall(r"`([\w/]+\.py)::(\w+)`", row) for row in rows if not row.startswith(("| ---", "| promise"))]
    assert len(named) > 30 and all(named)
    _are_tests([("tests/" + file, name) for row in named for file, name in row])


def test_every_long_test_is_there():
    _are_tests([line.split("::", 1) for line in LONG.read_text().split()])


def _are_tests(named):
    for file in {file for file, _ in named}:
        tree = ast.parse((ROOT / file).read_text("utf-8"))
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert {name for path, name in named if path == file} <= tests, file
