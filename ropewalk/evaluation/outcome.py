"""An experiment in its folder: samples.sqlite, results.json, report.html, and answers.jsonl to questions of files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.files import explained, refuse_results, write_text
from ropewalk.common.results import Result
from ropewalk.evaluation.samples import RowCell
from ropewalk.report.schema import Results

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.evaluation.asking import Answer, Progress
    from ropewalk.evaluation.experiment import Experiment


@dataclass(frozen=True, repr=False)
class Outcome(Result):
    """What an experiment found, and where it lies.

    Attributes:
        results: the content of results.json.
        folder: of samples.sqlite, results.json and report.html.
    """

    results: Results
    folder: Path

    def show(self, console: Console) -> None:
        from ropewalk.report.table import tables

        for table in tables(self.results, intervals=console.width >= 100):
            console.print(table)
        files = {"report": "report.html", "results": "results.json", "answers": "answers.jsonl"}
        for name, file in files.items():
            if name != "answers" or self.results.tables:
                console.print(f"{name:<8} {self.folder / file}", soft_wrap=True, highlight=False)

    def to_dict(self) -> dict[str, Any]:
        return self.results.to_dict()


def conduct(
    experiment: Experiment,
    folder: Path,
    command: str = "",
    on: str = "local",
    workers: int = 1,
    more: Mapping[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Run (or go on with) an experiment in its folder.

    Args:
        experiment: what is measured.
        folder: made if it is not there; finished samples in it are not computed again.
        command: the line that does the same again.
        on: where workers run, "local" or "ray".
        workers: how many; one is this process, unless on Ray.
        more: what else belongs to the settings.
        progress: called whenever some samples (or jobs) have a result; None shows a bar on standard error.

    Raises:
        UserError: for everything that a user can mend.
    """
    from ropewalk.evaluation.progress import shown

    if progress is None:
        with shown() as update:
            return conduct(experiment, folder, command, on, workers, more, update)
    from ropewalk.checkpoint.checkpoint import local
    from ropewalk.common.store import SampleStore
    from ropewalk.evaluation import workers as hands
    from ropewalk.evaluation.experiment import run
    from ropewalk.report.page import write as write_report

    hands.check(on, workers)
    texts = [experiment.data, experiment.rows, experiment.qa]
    refuse_results(folder, [place for text in texts for place in local(experiment.models, text)])
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if workers > 1 or on != "local":
        hands.fill(experiment, folder / "samples.sqlite", on=on, workers=workers, progress=progress)
    lines: list[str] = []

    def answered(model: str, method: str, length: int, answers: Iterable[Answer]) -> None:
        for one in answers:
            assert one.place is not None and isinstance(one.place[0], RowCell)
            question = one.place[0].question(one.place[1])
            about = {key: getattr(question, key) for key in ("id", "subset", "source", "metric", "references")}
            said = {"length": length, "model": model, "method": method, **about}
            lines.append(json.dumps({**said, "prediction": one.text, "score": one.score}, ensure_ascii=False) + "\n")

    with SampleStore(folder / "samples.sqlite") as store:
        results = run(experiment, store, progress, answered=answered)
    results = replace(results, command=command, settings={**(more or {}), **results.settings})
    results.write(folder / "results.json")
    write_report(results, folder / "report.html")
    if lines:
        write_text(folder / "answers.jsonl", "".join(lines))
    return Outcome(results, folder)
