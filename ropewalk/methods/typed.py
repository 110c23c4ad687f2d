"""Values of options as their defaults suggest, whether a user or a file says them."""

from __future__ import annotations

import re
from dataclasses import MISSING
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.common.lengths import said

LARGEST_OPTION = 1e18  # of a number


def typed(method_name: str, name: str, field: Any, value: Any) -> Any:
    """``value`` as the option's default suggests: numbers for numbers, tuples for lists.

    Raises:
        UserError: for a value of another type.
    """
    default = None if field.default is MISSING else field.default
    if isinstance(value, list):
        value = tuple(value)
    real = isinstance(value, (int, float)) and not isinstance(value, bool)
    number = real and abs(value) <= LARGEST_OPTION
    whole = isinstance(value, int) and number
    expected: dict[type, bool] = {kind: isinstance(value, kind) for kind in (bool, str, tuple)} | {int: whole}
    if "int | None" in str(field.type):
        expected[type(None)] = whole or value is None
    fits = expected.get(type(default), number or (default is None and value is None))
    choices = re.findall(r"'([^']+)'|\"([^\"]+)\"", str(field.type)) if "Literal" in str(field.type) else []
    allowed = [a or b for a, b in choices]
    if not fits or (allowed and value not in allowed):
        endless = real and not number and isinstance(default, (int, float, type(None)))
        want = " or ".join(map(repr, allowed)) or ("a finite number" if endless else _wanted(default, str(field.type)))
        raise UserError(f"{method_name}: option {name} is {said(value)}, expected {want}")
    return float(value) if number and "float" in str(field.type) else value


def _wanted(default: Any, kind: str) -> str:
    """The values of an option in words, by its default and its annotation."""
    if default is None:
        return "a whole number, or none" if "int" in kind else "a number, or none"
    if isinstance(default, bool):
        return "true or false"
    such = f" such as {default!r}"
    return {int: f"a whole number{such}", float: f"a number{such}", tuple: "a list"}.get(type(default), "a word")
