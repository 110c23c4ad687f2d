"""Benchmarks of real texts, by name; each is a file of this folder and read from files that the user has."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.naming import find

if TYPE_CHECKING:
    from ropewalk.tasks.benchmarks.question import Benchmark

MODULES = {
    "longbench": "longbench",
    "longbench-e": "longbench",
    "longbench-v2": "longbench",
    "infinitebench": "infinitebench",
    "leval": "leval",
    "m4le": "m4le",
    "longreason": "longreason",
    "locomo": "locomo",
    "lcfo": "lcfo",
    "longbio": "longbio",
    "longrewardbench": "longrewardbench",
}


def called(name: str) -> str:
    """The benchmark's name, as people write names.

    Raises:
        UserError: if there is none of that name.
    """
    found = find(name, MODULES)
    if found is None:
        raise UserError(f"no benchmark {name!r}{did_you_mean(name, MODULES)}", f"give one of {', '.join(MODULES)}")
    return found


def benchmark(name: str) -> Benchmark:
    """A benchmark by its name.

    Raises:
        UserError: if there is none of that name.
    """
    name = called(name)
    module = import_module(f"{__name__}.{MODULES[name]}")
    found: Benchmark = getattr(module, name.upper().replace("-", "_"))
    return found
