"""``ropewalk methods``: the catalogue."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from ropewalk.methods.catalogue import CATALOGUE


def methods(*, as_json: Annotated[bool, Parameter(name="--json", negative="")] = False) -> None:
    """List the methods: what each decides, whether it needs training, how a checkpoint says it, its paper.

    Parameters
    ----------
    as_json: bool
        Print JSON.
    """
    if as_json:
        print(json.dumps([asdict(entry) for entry in CATALOGUE], indent=2))
        return
    console = Console()
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    columns = ["method", "kind", "training-free", "in a checkpoint", "paper"]
    wide = console.width >= 120
    for column in [*columns, "what it does"] if wide else columns:
        table.add_column(column)
    for entry in CATALOGUE:
        cells = [entry.id, entry.kind, entry.training_free, entry.exportable, entry.paper]
        table.add_row(*cells, *([entry.summary] if wide else []))
    console.print(table)
    console.print("\nOptions in brackets, composition with +: [bold]yarn(beta_fast=16)[/]  [bold]resonance+yarn[/]")
