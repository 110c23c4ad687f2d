"""An experiment in its folder: results.json, report.html, and answers.jsonl to questions of files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropewalk.common.errors import UserError
from ropewalk.common.files import refuse_results
from ropewalk.common.results import Result
from ropewalk.common.store import SampleStore
from ropewalk.common.whole import write_text
from ropewalk.evaluation.samples import RowCell
from ropewalk.report.schema import Results

if TYPE_CHECKING:
    from rich.console import Console

    from ropewalk.common.progress import Progress
    from ropewalk.evaluation.asking import Answer
    from ropewalk.evaluation.experiment import Experiment


@dataclass(frozen=True, repr=False)
class Outcome(Result):
    """What an experiment found, and where it lies.

    Attributes:
        results: the content of results.json.
        folder: of results.json and report.html.
    """

    results: Results
    folder: Path

    def show(self, console: Console) -> None:
        from ropewalk.report.table import sentences, tables

        for table in tables(self.results, console.width):
            console.print(table)
            console.print()
        for sentence in sentences(self.results):
            console.print(sentence)
        files = {"report": "report.html", "results": "results.json", "answers": "answers.jsonl"}
        for name, file in files.items():
            if name != "answers" or self.results.tables:
                console.print(f"{name:<8} {self.folder / file}", highlight=False)

    def to_dict(self) -> dict[str, Any]:
        return self.results.to_dict()


def conduct(
    experiment: Experiment,
    folder: Path,
    command: str = "",
    on: str = "local",
    workers: int = 1,
    more: Mapping[str, Any] | None = None,
    *,
    store: Path | None = None,
    overwrite: bool = False,
    progress: Callable[[Progress], None] | None = None,
) -> Outcome:
    """Run (or go on with) an experiment in its folder.

    Args:
        experiment: what is measured.
        folder: of the results; made if it is not there.
        command: the line that does the same again.
        on: where workers run, "local" or "ray".
        workers: how many; one is this process, unless on Ray.
        more: what else belongs to the settings.
        store: of finished samples, which are not computed again, whichever experiment they are of; by default
            samples.sqlite in the folder.
        overwrite: replace the results of another experiment.
        progress: called whenever some samples (or jobs) have a result; None shows a bar on standard error.

    Raises:
        UserError: for everything that a user can mend.
    """
    from ropewalk.common.progress import shown

    if progress is None:
        with shown() as update:
            return conduct(
                experiment, folder, command, on, workers, more, store=store, overwrite=overwrite, progress=update
            )
    from ropewalk.checkpoint.checkpoint import local
    from ropewalk.evaluation import workers as hands
    from ropewalk.evaluation.experiment import run

    hands.check(on, workers)
    texts = [experiment.data, experiment.rows, experiment.qa]
    lines: list[str] = []

    def answered(model: str, method: str, length: int, answers: Iterable[Answer]) -> None:
        for one in answers:
            assert one.place is not None and isinstance(one.place[0], RowCell)
            question = one.place[0].question(one.place[1])
            about = {key: getattr(question, key) for key in ("id", "subset", "source", "metric", "references")}
            said = {"length": length, "model": model, "method": method, **about}
            lines.append(json.dumps({**said, "prediction": one.text, "score": one.score}, ensure_ascii=False) + "\n")

    def measure(place: Path) -> Results:
        if workers > 1 or on != "local":
            hands.fill(experiment, place, on=on, workers=workers, progress=progress)
        with SampleStore(place) as records:
            return run(experiment, records, progress, answered=answered)

    sources = [place for text in texts for place in local(experiment.models, text)]
    outcome = kept(folder, experiment.key, measure, sources, command, more, store=store, overwrite=overwrite)
    if lines:
        write_text(folder / "answers.jsonl", "".join(lines))
    return outcome


def kept(
    folder: Path,
    key: str,
    measure: Callable[[Path], Results],
    sources: Sequence[Path],
    command: str = "",
    more: Mapping[str, Any] | None = None,
    *,
    store: Path | None = None,
    overwrite: bool = False,
) -> Outcome:
    """Measure, and write results and page into a folder.

    Args:
        folder: of the results; made if it is not there.
        key: of the experiment.
        measure: with the file of finished samples, to results.
        sources: what results must not be written onto.
        command: the line that does the same again.
        more: what else belongs to the settings.
        store: of finished samples; by default samples.sqlite in the folder.
        overwrite: replace the results of another experiment.

    Raises:
        UserError: for everything that a user can mend.
    """
    from ropewalk.report.experiment_page import write as write_report

    refuse_results(folder, sources)
    if not overwrite:
        _refuse_other(folder / "results.json", key)
    results = measure(store or folder / "samples.sqlite")
    settings = {**(more or {}), **results.settings, "experiment": key}
    results = replace(results, command=command, settings=settings)
    if not overwrite:  # asked again: another experiment may have ended meanwhile
        _refuse_other(folder / "results.json", key)
    results.write(folder / "results.json")
    write_report(results, folder / "report.html")
    return Outcome(results, folder)


def _refuse_other(file: Path, key: str) -> None:
    """Refuse to replace the results of another experiment.

    Raises:
        UserError: naming its command.
    """
    if not file.exists():
        return
    mend = "Choose another folder, or add --overwrite: finished samples stay, and are not computed again."
    try:
        there = Results.read(file)
    except UserError as error:
        raise UserError(f"results that are not read here: {error.message}", mend) from None
    if there.settings.get("experiment") != key:
        what = f"another experiment: {there.command}" if there.command else "another experiment"
        raise UserError(f"{file} holds the results of {what}", mend)
