"""Packages that only some verbs need, or the message that says how to get them."""

from __future__ import annotations

import logging
import re
import shlex
import sys
from importlib import import_module, metadata
from pathlib import Path
from shutil import which
from types import ModuleType

from ropewalk.common.errors import UserError


def extra(package: str, what: str, group: str = "train") -> ModuleType:
    """An optional package.

    Args:
        package: "peft", "bitsandbytes" or "cmaes".
        what: needs it, in the plural, for the message.
        group: of ropewalk's extras, that brings it.

    Raises:
        UserError: if it is not installed.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of each kernel that a machine does not have
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"{what} need the package {package!r}", install(group)) from None
    finally:
        logger.setLevel(level)


def install(group: str) -> str:
    """The line that brings the packages of an extra to this Python; no index has ropewalk itself."""
    try:
        needed = metadata.requires("ropewalk") or []
        words = [one.partition(";")[0].strip() for one in needed if re.search(rf"extra == ['\"]{group}['\"]$", one)]
    except metadata.PackageNotFoundError:
        words = []
    if not words:  # it runs in a clone, and was not installed, or long ago
        words = ["--editable", f"{Path(__file__).parents[2]}[{group}]"]
    pip = which("pip")
    ours = pip is not None and Path(pip).parent == Path(sys.executable).parent
    return shlex.join([*(["pip"] if ours else [sys.executable, "-m", "pip"]), "install", *words])
