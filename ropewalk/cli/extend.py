"""``ropewalk extend``: a checkpoint with a longer window."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console


def extend(
    model: str,
    /,
    *,
    to: str,
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    method: Annotated[str, Parameter(name=["--method", "-m"])] = "yarn",
    overwrite: Annotated[bool, Parameter(negative="")] = False,
    on_top: bool | None = None,
    trust_remote_code: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Write a checkpoint whose configuration extends the window; weights are linked, not changed.

    Parameters
    ----------
    model: str
        A folder, a hub id, or 'demo'.
    to: str
        Target length in tokens: 4096, 4k, 128K, 1m.
    out: Path
        Folder to write.
    method: str
        As listed by 'ropewalk methods', options in brackets: yarn(beta_fast=16).
    overwrite: bool
        Replace what is there, if ropewalk wrote it.
    on_top: bool | None
        Keep the scaling that the configuration has, as trained in, and extend on top of it. By default llama3 and
        longrope are kept, linear, dynamic and yarn are replaced.
    trust_remote_code: bool
        Run code that comes with the model.
    as_json: bool
        Print JSON.
    """
    from ropewalk.checkpoint.write import extend as write
    from ropewalk.common.lengths import parse
    from ropewalk.methods.catalogue import method as make

    done = write(model, parse(to), make(method), out, overwrite, on_top, trust_remote_code)
    if as_json:
        print(json.dumps(asdict(done) | {"folder": str(done.folder)}, indent=2))
        return
    console = Console(highlight=False)
    console.print(f"[bold]{done.method}[/]: {done.window:,} -> {done.target:,} tokens (s = {done.scale:g})")
    console.print(done.config_diff, markup=False, soft_wrap=True)
    console.print(f"\nwritten to [bold]{done.folder}[/]\n", soft_wrap=True)
    for engine, line in done.launch.items():
        console.print(f"{engine:13s} {line}", markup=False, soft_wrap=True)
