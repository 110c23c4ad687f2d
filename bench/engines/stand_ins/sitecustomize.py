"""Lets SGLang's server start on a CPU: on PYTHONPATH, Python runs this before anything else, in every process.

Whatever it serves, SGLang imports torchvision, and without a GPU its rotary class imports a compiled kernel of vLLM's.
Text models call neither, so empty modules stand in where the packages are not installed.
"""

from __future__ import annotations

import re
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

NAMES = re.compile(r"torchvision(\..+)?|vllm(\._custom_ops)?")


class Empty(ModuleType):
    """A module, and whatever is taken out of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Empty(f"{self.__name__}.{name}")


class StandIns:
    """Finds modules of the packages that stand in, after everybody else."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if NAMES.fullmatch(name) else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__version__"] = "0"


sys.meta_path.append(StandIns())
