"""Packages that only some trainings need, or the message that says how to get them."""

from __future__ import annotations

import logging
from importlib import import_module
from types import ModuleType

from ropewalk.common.errors import UserError


def extra(package: str, what: str) -> ModuleType:
    """An optional package.

    Args:
        package: "peft" or "bitsandbytes".
        what: needs it, in the plural, for the message.

    Raises:
        UserError: if it is not installed.
    """
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of each kernel that a machine does not have
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"{what} need the package {package!r}", "pip install 'ropewalk[train]'") from None
    finally:
        logger.setLevel(level)
