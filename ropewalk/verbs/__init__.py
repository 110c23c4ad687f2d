"""One file per verb, of the name that the verb has in Python; imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# `methods`, `tasks`, `demo` and `lab` are rooms of the package, so these verbs have longer names in Python.
NAMES = (
    "inspect",
    "plan",
    "extend",
    "merge_adapter",
    "export",
    "check_export",
    "fit",
    "train",
    "survey_data",
    "pack_data",
    "mix_data",
    "order_data",
    "knot_data",
    "synth_data",
    "show_data",
    "compare",
    "evaluate",
    "serve",
    "read",
    "list_methods",
    "list_tasks",
    "list_recipes",
    "list_strategies",
    "run_demo",
    "run_lab",
    "report_lab",
    "load",
)


def public(name: str) -> Callable[..., Any]:
    """The function that a Python user calls; what a command line needs is its ``verb``."""
    function: Callable[..., Any] = getattr(import_module(f"{__name__}.{name}"), name)
    return function
