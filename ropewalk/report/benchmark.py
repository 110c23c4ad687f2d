"""The results of a benchmark as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table

from ropewalk.report import numbers


def table(raw: Mapping[str, Any]) -> Table:
    """One row per line of the benchmark's table, in points, with a subset's 95 % interval; one column per length."""
    shown = Table(box=box.SIMPLE, show_edge=False, pad_edge=False)
    shown.add_column(raw["benchmark"]["name"])
    for length in raw["results"]:
        shown.add_column(numbers.short_tokens(int(length)), justify="right", no_wrap=True)
    for name in dict.fromkeys(name for found in raw["results"].values() for name in found["table"]):
        shown.add_row(name, *(_points(found, name) for found in raw["results"].values()))
    return shown


def skipped(raw: Mapping[str, Any]) -> list[str]:
    """What was left out at each length, and why."""
    return [
        f"skipped  {name} at {numbers.short_tokens(int(length))}: {why}"
        for length, found in raw["results"].items()
        for name, why in found["skipped"].items()
    ]


def _points(found: Mapping[str, Any], name: str) -> str:
    if name not in found["table"]:
        return ""
    subset = found["subsets"].get(name)
    bounds = f" ({100 * subset['low']:.0f} to {100 * subset['high']:.0f}, n = {subset['n']})" if subset else ""
    return f"{found['table'][name]:.1f}{bounds}"
