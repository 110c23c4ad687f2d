"""The ``gguf`` package, or the message that says how to get it."""

from __future__ import annotations

from types import ModuleType

from ropewalk.common.errors import UserError


def gguf() -> ModuleType:
    """The library that reads and writes GGUF.

    Raises:
        UserError: if it is not installed.
    """
    try:
        import gguf as library
    except ImportError:
        raise UserError("GGUF files need the package 'gguf'", "pip install 'ropewalk[gguf]'") from None
    return library
