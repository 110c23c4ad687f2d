"""The ``gguf`` package, or the message that says how to get it."""

from __future__ import annotations

from types import ModuleType

from ropewalk.common.extras import extra


def gguf() -> ModuleType:
    """The library that reads and writes GGUF.

    Raises:
        UserError: if it is not installed.
    """
    return extra("gguf", "GGUF files", "gguf")
