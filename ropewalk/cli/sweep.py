"""``ropewalk sweep``: many evaluations on many workers."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console


def sweep(
    *models: str,
    lengths: Annotated[str, Parameter(name=["--lengths", "-l"])],
    methods: Annotated[str, Parameter(name=["--methods", "-m"])] = "none",
    suite: Annotated[str, Parameter(name=["--suite", "-s"])] = "smoke",
    tasks: str = "",
    seeds: str = "0",
    to: str = "",
    samples: int | None = None,
    data: str = "stdlib",
    qa: Path | None = None,
    on: str = "local",
    workers: int = 2,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("runs/sweep"),
    dtype: str = "auto",
    device: str = "auto",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Evaluate every model with every method and seed; can be stopped at any moment and goes on where it was.

    Parameters
    ----------
    models: str
        Folders, hub ids, or 'demo'.
    lengths: str
        Context lengths: 512..8k doubles, commas separate.
    methods: str
        Comma-separated, as listed by 'ropewalk methods'.
    suite: str
        As for 'ropewalk evaluate'.
    tasks: str
        Comma-separated tasks in place of the suite's.
    seeds: str
        Comma-separated.
    to: str
        Target length of the methods; by default the longest of the lengths.
    samples: int | None
        Of each task at each length; by default the suite's.
    data: str
        Texts for perplexity: stdlib, topics, or a file or folder.
    qa: Path | None
        As for 'ropewalk evaluate'.
    on: str
        local (processes of this machine) or ray (a Ray cluster, or a local one if none runs).
    workers: int
        How many jobs run at the same time.
    out: Path
        Folder for samples.sqlite, and for results.json and report.html of every evaluation.
    dtype: str
        auto, float32, bfloat16 or float16.
    device: str
        auto, cpu or cuda.
    as_json: bool
        Print JSON.
    """
    from rich.progress import Progress

    from ropewalk.checkpoint.checkpoint import local
    from ropewalk.common.errors import UserError
    from ropewalk.common.files import refuse_results, write_text
    from ropewalk.common.lengths import parse, span
    from ropewalk.evaluation import workers as engine
    from ropewalk.methods.catalogue import split
    from ropewalk.report.evaluation import write as write_report
    from ropewalk.verbs.evaluate import Request, folder_name

    if not models:
        raise UserError("no model to evaluate", "ropewalk sweep MODEL --lengths 512..8k")
    if not all(seed.strip().isdigit() for seed in seeds.split(",")):
        raise UserError(f"seeds are {seeds!r}, expected numbers such as 0,1,2")
    pattern = Request(
        model="",
        suite=suite,
        tasks=tuple(word.strip() for word in tasks.split(",") if word.strip()),
        lengths=tuple(span(lengths)),
        to=parse(to) if to else None,
        samples=samples,
        data=data,
        qa=qa,
        dtype=dtype,
        device=device,
        command=shlex.join(["ropewalk", *sys.argv[1:]]) if sys.argv[1:] else "",
    )
    wanted = engine.requests(models, split(methods, ","), [int(seed) for seed in seeds.split(",")], pattern)
    folders = [out / f"{folder_name(request)}-seed{request.seed}" for request in wanted]
    for folder in (out, *folders):
        refuse_results(folder, local(models, data))
    errors = Console(stderr=True)
    with Progress(console=errors, transient=True) as bar:
        line = bar.add_task("starting", total=None)

        def update(done: engine.Done) -> None:
            bar.update(line, completed=done.done, total=done.total, description=done.name)

        found = engine.sweep(wanted, out / "samples.sqlite", on=on, workers=workers, progress=update)
    for folder, results in zip(folders, found, strict=True):
        write_text(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
        write_report(results, folder / "report.html")
    if as_json:
        print(json.dumps(found))
    else:
        Console().print(_table(found))
        Console().print(f"reports  {out}", soft_wrap=True, highlight=False)


def _table(found: list[dict[str, Any]]) -> Any:
    """One row per evaluation, one column per length."""
    from rich import box
    from rich.table import Table

    from ropewalk.report.numbers import percent, short_tokens

    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, caption="Average over tasks", caption_justify="left")
    for column in ("Model", "Method", "Seed"):
        table.add_column(column, no_wrap=True)
    lengths = found[0]["settings"]["lengths"]
    for column in (*(short_tokens(length) for length in lengths), "Effective"):
        table.add_column(column, justify="right")
    for one in found:
        settings, effective = one["settings"], one["effective_length"]
        scores = [percent(one["average"].get(str(length), {}).get("value")) for length in lengths]
        name = [str(one["model"]["name"]), settings["method"], str(settings["seed"])]
        table.add_row(*name, *scores, short_tokens(effective["value"] if effective else None))
    return table
