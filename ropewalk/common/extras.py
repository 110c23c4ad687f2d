"""Packages that only some verbs need, or the message that says how to get them."""

from __future__ import annotations

import logging
from importlib import import_module
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
        raise UserError(f"{what} need the package {package!r}", f"pip install 'ropewalk[{group}]'") from None
    finally:
        logger.setLevel(level)
