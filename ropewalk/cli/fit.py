"""``ropewalk fit``: what a method needs to know of a model, measured on texts."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console


def fit(
    model: str,
    /,
    *,
    method: Annotated[str, Parameter(name=["--method", "-m"])],
    out: Annotated[Path, Parameter(name=["--out", "-o"])],
    to: str = "",
    data: str = "topics",
    settings: str = "",
    samples: int = 8,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure what a method needs to know of a model, and write it to a file: --method 'tca(fitted=FILE)' takes it.

    Parameters
    ----------
    model: str
        A folder, a hub id, or 'demo'.
    method: str
        attention-alignment, tca, squeezed or head-scale; with others that are to be on beside it: yarn+head-scale.
    out: Path
        File to write.
    to: str
        Target length in tokens: 4096, 4k, 128K; by default what the configuration promises, or four times the window.
    data: str
        Texts: topics (English), stdlib (held-out Python modules), or a file or folder of yours.
    settings: str
        Of the search, by keyword: "by='max'", tolerance=0.1, percentile=0.5, steps=200.
    samples: int
        At most so many texts.
    dtype: str
        auto, float32, bfloat16 or float16; as the method will be used.
    device: str
        auto, cpu or cuda.
    trust_remote_code: bool
        Run code that comes with the model.
    as_json: bool
        Print JSON.
    """
    from rich.progress import Progress

    from ropewalk.common.lengths import parse
    from ropewalk.methods.base import spelled
    from ropewalk.verbs.fit import Request
    from ropewalk.verbs.fit import fit as run

    request = Request(
        model, method, out, parse(to) if to else None, data, settings, samples, dtype, device, trust_remote_code
    )
    with Progress(console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("fitting", total=None)
        found = run(request, lambda done, total: bar.update(line, completed=done, total=total))
    if as_json:
        print(json.dumps(asdict(found)))
        return
    console = Console(highlight=False)
    texts, tokens = found.data["texts"], found.data["tokens"]
    console.print(f"[bold]{found.method}[/] for {found.to:,} tokens, on {texts} texts, {tokens:,} tokens")
    for words, value in found.seen.items():
        console.print(f"{words}: {value:{',' if isinstance(value, int) else '.5g'}}", markup=False)
    short = {key: value for key, value in found.found.items() if not isinstance(value, tuple)}
    if short:
        console.print(spelled(found.method, short), markup=False)
    use = f"{found.method}(fitted={out})" + (f"+{found.beside}" if found.beside else "")
    console.print(f"written to {out}; compare it:", markup=False, soft_wrap=True)
    line_of = ["ropewalk", "compare", model, "--to", str(found.to), "--methods", f"none,{use}"]
    console.print(shlex.join(line_of), markup=False, soft_wrap=True)
