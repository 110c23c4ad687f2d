"""The list of problems has every code that is reported, and no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from ropewalk.rope import record
from ropewalk.rope.problem_kinds import KINDS
from tests.rope import test_problems

PACKAGE = Path(__file__).parents[2] / "ropewalk"


def reported() -> Iterator[str]:
    """The codes in calls that make a problem, by their place among the arguments."""
    for file in PACKAGE.rglob("*.py"):
        code = ast.parse(file.read_text("utf-8"))
        names = {ast.unparse(one.targets[0]): one.value for one in code.body if isinstance(one, ast.Assign)}
        for call in (node for node in ast.walk(code) if isinstance(node, ast.Call)):
            name = ast.unparse(call.func)
            if len(call.args) > 3 and (name in ("Problem", "problem") or name.endswith(".problem")):
                said = call.args[1 if name == "problem" else 0]
                said = names.get(ast.unparse(said), said)
                if isinstance(said, ast.Constant):
                    yield said.value
                else:
                    assert ast.unparse(said) == "code", f"{file}: {ast.unparse(call)[:80]}"


def test_every_code_that_is_reported_is_explained():
    assert set(reported()) == set(KINDS) and record.CODE in KINDS


def test_what_is_said_of_each_is_whole():
    for kind in KINDS.values():
        assert all(text[0].isupper() or text[0] in "'" for text in (kind.wrong, kind.mend)), kind.code
        assert all(text.endswith(".") for text in (kind.wrong, kind.why, kind.mend)), kind.code
    assert set(test_problems.WRONG) <= set(KINDS)
