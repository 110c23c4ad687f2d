"""``ropewalk evaluate``: how much of its context a model or a server uses."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from rich.console import Console

if TYPE_CHECKING:
    from ropewalk.verbs.evaluate import Request


def evaluate(
    model: str,
    /,
    *,
    suite: Annotated[str, Parameter(name=["--suite", "-s"])] = "smoke",
    tasks: str = "",
    lengths: Annotated[str, Parameter(name=["--lengths", "-l"])] = "",
    method: Annotated[str, Parameter(name=["--method", "-m"])] = "none",
    to: str = "",
    samples: int | None = None,
    data: str = "",
    qa: Path | None = None,
    seed: int = 0,
    benchmark: str = "",
    subsets: str = "",
    judge: str | None = None,
    judge_model: str = "",
    sequential: Annotated[bool, Parameter(negative="")] = False,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"])] = None,
    tokenizer: str = "",
    served: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: Annotated[bool, Parameter(negative="")] = False,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Measure a model, or a server, on a suite of tasks; can be stopped at any moment and goes on where it was.

    Parameters
    ----------
    model: str
        A folder, a hub id, 'demo', or a server's URL (http://host:8000/v1).
    suite: str
        smoke, standard or publication (10, 55 or 198 samples of each task and length), ruler-lite (RULER's tasks on 50
        contexts each), or a family of tasks such as ruler, longbio or babilong.
    tasks: str
        Comma-separated tasks in place of the suite's.
    lengths: str
        Context lengths: 512..8k doubles, commas separate; by default half the window, doubling.
    method: str
        Applied to the model for the evaluation, as listed by 'ropewalk methods'.
    to: str
        Target length of the method; by default the longest of the lengths.
    samples: int | None
        Of each task at each length; by default the suite's.
    data: str
        Texts for perplexity: stdlib (held-out Python modules, by default), topics (English), or a file or folder. With
        --benchmark: its file, folder or hub id; by default the id under which it is published.
    qa: Path | None
        Folder with SQuAD's dev-v2.0.json as qa_1.json and HotpotQA's hotpot_dev_distractor_v1.json as qa_2.json, for
        RULER's question tasks; without it made-up documents stand in.
    seed: int
        Of prompts and intervals.
    benchmark: str
        Ask a benchmark of real texts in place of a suite: longbench, longbench-e, longbench-v2, helmet, infinitebench,
        leval, m4le, longreason, locomo, lcfo, longbio, longrewardbench or ruler-qa. Prompts are cut to each of the
        lengths, by default the model's.
    subsets: str
        Comma-separated, of the benchmark; by default all that are there.
    judge: str | None
        URL of an OpenAI-compatible endpoint that grades answers which no rule can score.
    judge_model: str
        The judge's name there (without --judge: at OpenAI); by default nothing is judged.
    sequential: bool
        Stop asking where the outcome is clear, and bisect over the lengths.
    out: Path | None
        Folder for samples.sqlite, results.json and report.html; by default runs/evaluate-MODEL-SUITE.
    tokenizer: str
        Of a server: the folder or hub id of its tokenizer.
    served: str | None
        Of a server: the model's name there; by default the only one.
    dtype: str
        auto, float32, bfloat16 or float16.
    device: str
        auto, cpu or cuda.
    trust_remote_code: bool
        Run code that comes with the model.
    as_json: bool
        Print JSON.
    """
    from ropewalk.cli.compare import shown
    from ropewalk.common.errors import UserError
    from ropewalk.common.lengths import parse, span
    from ropewalk.verbs.evaluate import Request, default_out
    from ropewalk.verbs.evaluate import evaluate as run

    request = Request(
        model=model,
        suite=suite,
        tasks=_listed(tasks),
        lengths=tuple(span(lengths)) if lengths else None,
        method=method,
        to=parse(to) if to else None,
        samples=samples,
        data=data,
        qa=qa,
        seed=seed,
        sequential=sequential,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        tokenizer=tokenizer,
        served=served,
        command=shlex.join(["ropewalk", *sys.argv[1:]]) if sys.argv[1:] else "",
    )
    if benchmark:
        if tasks or qa or sequential:
            raise UserError("--tasks, --qa and --sequential belong to suites, not to a benchmark")
        _benchmark(benchmark, request, _listed(subsets), judge, judge_model, out, as_json)
        return
    if subsets or judge or judge_model:
        raise UserError("--subsets, --judge and --judge-model belong to a benchmark", "Add --benchmark NAME.")
    folder = default_out(request) if out is None else out
    with shown() as progress:
        results = run(request, folder, progress)
    if as_json:
        print(json.dumps(results))
        return
    from ropewalk.report.evaluation import table

    console = Console()
    console.print(table(results))
    console.print(
        f"report   {folder / 'report.html'}\nresults  {folder / 'results.json'}", soft_wrap=True, highlight=False
    )


def _listed(words: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for word in words.split(",") if word.strip()))


def _benchmark(
    name: str,
    request: Request,
    subsets: tuple[str, ...],
    judge: str | None,
    judge_model: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Run a benchmark and print its table."""
    from ropewalk.cli.compare import shown
    from ropewalk.report.benchmark import skipped, table
    from ropewalk.verbs.benchmark import BenchmarkRequest
    from ropewalk.verbs.benchmark import benchmark as run
    from ropewalk.verbs.evaluate import default_out

    folder = default_out(replace(request, suite=name)) if out is None else out
    with shown() as progress:
        results = run(BenchmarkRequest(name, request, subsets, judge, judge_model), folder, progress)
    if as_json:
        print(json.dumps(results))
        return
    console = Console()
    console.print(table(results))
    for line in (*skipped(results), f"results  {folder / 'results.json'}", f"answers  {folder / 'answers.jsonl'}"):
        console.print(line, soft_wrap=True, highlight=False)
