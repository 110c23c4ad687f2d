"""A benchmark of real texts on a checkpoint or a server, from what a user types to results.json and answers.jsonl."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk import __version__
from ropewalk.common.errors import UserError
from ropewalk.common.files import explained, refuse_results, write_text
from ropewalk.verbs.evaluate import Request, opened

if TYPE_CHECKING:
    from ropewalk.evaluation.asking import Progress
    from ropewalk.tasks.benchmarks.judge import Judge
    from ropewalk.tasks.benchmarks.question import Question


@dataclass(frozen=True)
class BenchmarkRequest:
    """A benchmark, as asked for.

    Attributes:
        name: of the benchmark.
        of: model, method and lengths (of prompt and answer together); ``data`` is the benchmark's file, folder or hub
            id, by default the id under which it is published.
        subsets: those wanted; every one that is there if empty.
        judge: URL of an OpenAI-compatible endpoint that grades; None means OpenAI's own if ``judge_model`` is given.
        judge_model: the judge's name there; without one nothing is judged.
    """

    name: str
    of: Request
    subsets: tuple[str, ...] = ()
    judge: str | None = None
    judge_model: str = ""


def benchmark(
    request: BenchmarkRequest, out: Path, progress: Callable[[Progress], None] = lambda _: None
) -> dict[str, Any]:
    """Run (or go on with) a benchmark; writes samples.sqlite, results.json and answers.jsonl into ``out``.

    Raises:
        UserError: for everything that a user can mend.
    """
    from ropewalk.checkpoint.checkpoint import local
    from ropewalk.common.store import SampleStore
    from ropewalk.evaluation.asking import Progress
    from ropewalk.evaluation.benchmark_run import measure
    from ropewalk.tasks import benchmarks

    refuse_results(out, local([request.of.model], request.of.data))
    started, wanted = time.monotonic(), benchmarks.benchmark(request.name)
    source, judge = request.of.data or wanted.hub, _judge(request)
    if request.of.is_server and not request.of.lengths:
        raise UserError("a server does not say how much it reads", "Add --lengths, for example --lengths 32k.")
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)
    with SampleStore(out / "samples.sqlite") as store, opened(request.of) as (backend, _, facts):
        done, found, lines = 0, {}, []
        for n_tokens in request.of.lengths or (facts["to"],):

            def advance(question: Question, of: int, n_tokens: int = n_tokens) -> None:
                nonlocal done
                done += 1
                progress(Progress(done, of, request.of.method, question.subset, n_tokens))

            done = 0
            sizes = wanted.sized(n_tokens, lambda text: len(backend.tokenizer(text, verbose=False).input_ids))
            questions = wanted.load(source, request.subsets or None, **sizes)
            result = measure(wanted, questions, backend, n_tokens, store, judge, advance)
            found[str(n_tokens)] = {
                "table": result.table,
                "subsets": {name: asdict(score) for name, score in result.subsets.items()},
                "skipped": result.skipped,
            }
            for one in result.scored:
                asked = one.question
                facts_of = {"id": asked.id, "subset": asked.subset, "source": asked.source, "metric": asked.metric}
                said = {"references": asked.references, "prediction": one.prediction, "score": one.score}
                lines.append(json.dumps({"length": n_tokens, **facts_of, **said}, ensure_ascii=False) + "\n")
        results = {
            "benchmark": {"name": wanted.name, "source": str(source), "licence": wanted.licence},
            "settings": {
                "method": request.of.method, "lengths": [int(n) for n in found], "subsets": list(request.subsets),
                "judge": None if judge is None else {"url": request.judge, "model": judge.name},
            },
            "model": {**backend.describe(), **facts, "name": request.of.model},
            "how": backend.how,
            "tokens": backend.tokens,
            "results": found,
            "command": request.of.command,
            "versions": {"ropewalk": __version__},
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
        }  # fmt: skip
    write_text(out / "results.json", json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    write_text(out / "answers.jsonl", "".join(lines))
    return results


def _judge(request: BenchmarkRequest) -> Judge | None:
    if not request.judge_model:
        if request.judge:
            raise UserError(f"the judge at {request.judge} needs a name", "Add --judge-model NAME.")
        return None
    from ropewalk.tasks.benchmarks.judge import EndpointJudge

    return EndpointJudge(request.judge_model, request.judge)
