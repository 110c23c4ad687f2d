"""Command lines that are printed to be run: names of models and values of keys may hold spaces, quotes and brackets."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def command(*words: str | Path | int) -> str:
    """The line that runs ropewalk with these words, as a shell reads it."""
    return shlex.join(["ropewalk", *map(str, words)])


def settings(changes: Mapping[str, Any]) -> list[str]:
    """The words that set keys (``[FILE:]dotted.key``) to values; None removes one."""
    return [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]


def setting(model: str | Path, changes: Mapping[str, Any]) -> str:
    """The line that sets keys of a model's files."""
    return command("inspect", model, *settings(changes))
