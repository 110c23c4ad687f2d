"""Evaluating a checkpoint or a server, from what a user types to results.json and report.html."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk import __version__
from ropewalk.common.errors import UserError
from ropewalk.common.files import explained, refuse_results, write_text
from ropewalk.methods import catalogue

if TYPE_CHECKING:
    from ropewalk.backends.backend import Backend
    from ropewalk.common.store import Records
    from ropewalk.evaluation.asking import Progress
    from ropewalk.tasks.suites import Suite

LENGTHS = 5  # of a server, whose window is not known: this many, doubling
SHORTEST = 1024


@dataclass(frozen=True)
class Request:
    """One evaluation, as asked for.

    Attributes:
        model: folder, hub id, ``demo``, or the URL of a server that speaks OpenAI's protocol ("http://host:8000/v1").
        suite: a size or a family of tasks.
        tasks: in place of the suite's.
        lengths: context lengths in tokens; None means half the window, doubling to the target.
        method: what is applied to the model.
        to: target length of the method, at least the window; None means the longest of the lengths.
        samples: of each task at each length; None means the suite's.
        data: texts for perplexity: "stdlib" (where it is empty), "topics", or a file or folder.
        qa: folder with ``qa_1.json`` (SQuAD) and ``qa_2.json`` (HotpotQA), for tasks that ask about these; without it
            made-up documents stand in.
        seed: of prompts and intervals.
        sequential: stop asking where the outcome is clear.
        controls: measure the controls too.
        dtype: "auto", "float32", "bfloat16" or "float16".
        device: "auto", "cpu", "cuda".
        trust_remote_code: run code that comes with the model.
        tokenizer: of a server: folder or hub id.
        served: of a server: the model's name there; None means the only one.
        command: the line that makes this evaluation again.
    """

    model: str
    suite: str = "smoke"
    tasks: tuple[str, ...] = ()
    lengths: tuple[int, ...] | None = None
    method: str = "none"
    to: int | None = None
    samples: int | None = None
    data: str = ""
    qa: Path | None = None
    seed: int = 0
    sequential: bool = False
    controls: bool = True
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    tokenizer: str = ""
    served: str | None = None
    command: str = ""

    @property
    def is_server(self) -> bool:
        return self.model.startswith(("http://", "https://"))


def evaluate(request: Request, out: Path, progress: Callable[[Progress], None] = lambda _: None) -> dict[str, Any]:
    """Run (or go on with) an evaluation; writes samples.sqlite, results.json and report.html into ``out``.

    Raises:
        UserError: for everything that a user can mend.
    """
    from ropewalk.checkpoint.checkpoint import local
    from ropewalk.common.store import SampleStore
    from ropewalk.report.evaluation import write as write_report

    refuse_results(out, local([request.model], request.data))
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    with SampleStore(out / "samples.sqlite") as store:
        results = measure(request, store, progress)
    write_text(out / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    write_report(results, out / "report.html")
    return results


def measure(request: Request, store: Records, progress: Callable[[Progress], None] = lambda _: None) -> dict[str, Any]:
    """The content of results.json; finished samples are taken from ``store`` and put there.

    Raises:
        UserError: for everything that a user can mend.
    """
    from ropewalk.evaluation.evaluate import evaluate as run
    from ropewalk.evaluation.sequential import Sprt
    from ropewalk.tasks.registry import PPL
    from ropewalk.texts.documents import load as load_documents

    started = time.monotonic()
    suite, instead, given = asked(request)
    documents = load_documents(request.data or "stdlib") if PPL in suite.tasks else {}
    with opened(request) as (backend, lengths, facts):
        found = run(
            backend,
            method=catalogue.method(request.method).id,
            tasks=suite.tasks,
            lengths=lengths,
            documents=documents,
            given=given,
            max_documents=suite.documents,
            samples=suite.samples if request.samples is None else request.samples,
            contexts=suite.contexts,
            depths=[i / (suite.depths - 1) for i in range(suite.depths)],
            seed=request.seed,
            sequential=Sprt() if request.sequential else None,
            with_controls=request.controls,
            store=store,
            progress_callback=progress,
        ).to_dict()
    return {
        **found,
        "model": {**found["model"], **facts, "name": request.model},
        "settings": {"suite": request.suite, **found["settings"], "data": request.data or "stdlib"},
        "instead": instead,
        "command": request.command,
        "versions": {"ropewalk": __version__},
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - started, 1),
    }


def asked(request: Request) -> tuple[Suite, dict[str, str], dict[str, Any]]:
    """The suite with the tasks to ask, what takes the place of others, and the material that the user has.

    Raises:
        UserError: if there is no such suite or task, or the material of a named task is not there.
    """
    from ropewalk.tasks import registry, suites

    given = {}
    if request.qa is not None:
        from ropewalk.tasks.benchmarks.ruler_qa import material

        given = material(request.qa)
    suite = suites.suite(request.suite)
    if not request.tasks:
        return *suites.possible(suite, given), given
    for name in request.tasks:
        if name != registry.PPL:
            registry.refuse_without(name, given)
    return replace(suite, tasks=request.tasks), {}, given


@contextmanager
def opened(request: Request) -> Iterator[tuple[Backend, list[int], dict[str, Any]]]:
    """The backend of a request, the lengths to test, and what is known of the model's window.

    Raises:
        UserError: if the model, the server, the method or their combination cannot be used.
    """
    method = catalogue.method(request.method)
    if request.is_server:
        if method.id != "none":
            raise UserError(
                f"{method.id} cannot be applied to a server", "Extend the checkpoint (ropewalk extend), and serve that."
            )
        from ropewalk.backends.openai import connect

        server = connect(request.model, request.tokenizer, request.served, request.trust_remote_code)
        yield server, list(request.lengths or (SHORTEST << i for i in range(LENGTHS))), {}
        return
    from ropewalk.backends.local import live
    from ropewalk.checkpoint.checkpoint import Checkpoint
    from ropewalk.evaluation.compare import default_lengths

    checkpoint = Checkpoint.open(request.model, request.trust_remote_code)
    tokenizer, window, promised = checkpoint.tokenizer(), checkpoint.window, checkpoint.promised
    model = checkpoint.load(request.dtype, request.device)
    to = max(request.to or max(request.lengths or [promised]), window)
    lengths = list(request.lengths or default_lengths(window, to))
    with live(model, tokenizer, method, to) as backend:
        yield backend, lengths, {"window": window, "length": promised, "to": to}


def default_out(request: Request) -> Path:
    """Where an evaluation goes if the user names no folder; the same command finds its finished samples there."""
    return Path("runs") / f"evaluate-{folder_name(request)}"


def folder_name(request: Request) -> str:
    """Model, method and suite as a name for a folder."""
    model = request.served or request.model.split("//")[-1]
    parts = [Path(model).name, *([] if request.method == "none" else [request.method]), request.suite]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in "-".join(parts))
