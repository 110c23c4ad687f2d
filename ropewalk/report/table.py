"""The summary of a comparison as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from ropewalk.report import numbers
from ropewalk.report.comparison import Comparison


def summary_table(comparison: Mapping[str, Any], intervals: bool = True) -> Table:
    """One row per method, the best value of each column bold; with intervals it wants 100 columns, without 80.

    Raises:
        UserError: The comparison lacks a key that the table needs.
    """
    read = Comparison.read(comparison)
    at_target = numbers.short_tokens(read.target)
    columns: tuple[tuple[str, str, numbers.Printer], ...] = (
        ("effective_length", "Effective\nlength", numbers.short_tokens),
        ("retrieval", f"Retrieval\nat {at_target}", numbers.percent),
        ("perplexity", f"Perplexity\nat {at_target}", numbers.quantity),
        ("short_tax", "Short-\ntext tax", numbers.tax),
    )
    table = Table(
        box=box.SIMPLE,
        show_edge=False,
        pad_edge=False,
        caption=read.verdict(),
        caption_justify="left",
        caption_style="",
    )
    table.add_column("\nMethod", overflow="fold", min_width=12)
    for _, heading, _ in columns:
        table.add_column(heading, no_wrap=True, min_width=max(map(len, heading.split("\n"))))
    for method in read.methods:
        cells = []
        for key, _, printer in columns:
            estimate = getattr(method, key)
            value, spread = (
                printer(estimate.value),
                numbers.interval(estimate, printer, between="…") if intervals else "",
            )
            cells.append(
                Text.assemble(
                    (value, "bold" if read.leads(method, key, printer) else ""),
                    (f" {spread}", "dim") if spread else "",
                )
            )
        table.add_row(Text(method.title, style="italic" if method.is_plain else ""), *cells)
    return table
