"""``ropewalk compare``: methods side by side on one model."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.console import Console

if TYPE_CHECKING:
    from ropewalk.evaluation.asking import Progress

DEFAULT = "none,pi,ntk-aware,ntk-aware(stretch=2),dynamic-ntk,ntk-by-parts,yarn,resonance+yarn"


def compare(
    model: str,
    /,
    *,
    to: str,
    methods: Annotated[str, Parameter(name=["--methods", "-m"])] = DEFAULT,
    tasks: str = "ppl,passkey,niah",
    lengths: str = "",
    data: str = "stdlib",
    samples: int = 4,
    depths: int = 5,
    max_documents: int = 24,
    seed: int = 0,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Compare methods on the same documents and prompts; can be stopped at any moment and goes on where it was.

    Parameters
    ----------
    model: str
        A folder, a hub id, or 'demo'.
    to: str
        Target length in tokens: 4096, 4k, 128K.
    methods: str
        Comma-separated, as listed by 'ropewalk methods'.
    tasks: str
        Of ppl, passkey, niah.
    lengths: str
        Comma-separated context lengths; by default half the window, doubling to the target.
    data: str
        Texts for perplexity: stdlib (held-out Python modules), topics (English), or a file or folder.
    samples: int
        Retrieval samples per depth and length.
    depths: int
        Needle depths, spread from start to end.
    max_documents: int
        At most so many documents.
    seed: int
        Of prompts and intervals.
    out: Path | None
        Folder for samples.sqlite, results.json and report.html; by default runs/compare-MODEL-LENGTH.
    dtype: str
        auto, float32, bfloat16 or float16.
    device: str
        auto, cpu or cuda.
    trust_remote_code: bool
        Run code that comes with the model.
    as_json: bool
        Print JSON.
    """
    from ropewalk.common.lengths import parse
    from ropewalk.verbs.compare import TASKS, Request, default_out, selected
    from ropewalk.verbs.compare import compare as run

    target = parse(to)
    request = Request(
        model=model,
        to=target,
        methods=methods,
        tasks=selected(tasks, TASKS),
        lengths=tuple(parse(part) for part in lengths.split(",")) if lengths else None,
        data=data,
        samples=samples,
        depths=depths,
        max_documents=max_documents,
        seed=seed,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        command=shlex.join(["ropewalk", *sys.argv[1:]]) if sys.argv[1:] else "",
    )
    folder = default_out(model, target) if out is None else out
    with shown() as progress:
        results = run(request, folder, progress)
    if as_json:
        print(json.dumps(results))
    else:
        conclude(results, folder, Console())


def conclude(results: dict[str, Any], folder: Path, console: Console) -> None:
    """The table and where the report is."""
    from ropewalk.report.table import summary_table

    console.print(summary_table(results, intervals=console.width >= 100))
    console.print(
        f"report   {folder / 'report.html'}\nresults  {folder / 'results.json'}", soft_wrap=True, highlight=False
    )


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """A progress bar on standard error; yields what to call after each batch."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("loading", total=None)

        def update(progress: Progress) -> None:
            words = f"{progress.method}  {progress.task} at {progress.length:,}"
            bar.update(line, completed=progress.done, total=progress.total, description=words)

        yield update
