"""The page of a run: what every comparison shows, and what the encodings are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ropewalk.common.whole import write_text
from ropewalk.lab.encoding_entries import BY_ID
from ropewalk.lab.lab_grid import FIELDS
from ropewalk.lab.setups import setup
from ropewalk.report import numbers
from ropewalk.report.experiment_page import page_of_results, place
from ropewalk.report.page import Cell, Column, Item, Page, Section, Table, address
from ropewalk.report.schema import Results
from ropewalk.report.view import View

ABOUT = (
    "All were trained from scratch in the same small decoder, on the same rows and for as many steps. What stands "
    "behind a plus changes an encoding beyond the window; of training it takes none, but for the temperatures of heads."
)

FEWEST = 4  # trainings, of which all right and all wrong are told apart on one task
FEW = (
    f" Of fewer than {FEWEST} trainings no two encodings are told apart on one task, whatever they answer: more "
    "--seeds are needed, and those that are there are not trained again."
)

REACH = (
    "Where nothing but the bias decides, 99% of a query's weight lies within this distance; of the heads of all layers "
    "and trainings. A bias whose weights have no finite sum has no end."
)


def page_of_lab(results: Results) -> Page:
    """What is on it."""
    fields = results.settings.get(FIELDS, {})
    page = page_of_results(replace(results, settings={k: v for k, v in results.settings.items() if k != FIELDS}))
    seeds, samples = results.settings["seeds"], results.settings["samples"]
    how = f" Each was trained with {seeds} seeds, and asked {samples} rows at every length."
    alone = " With one seed, intervals say nothing of how trainings differ." if seeds == 1 else FEW * (seeds < FEWEST)
    about = Section("The encodings", ABOUT + how + alone + _setup(results), [encodings(View(results))])
    return replace(page, title="Position encodings", subject="Position encodings, " + page.subject.partition(", ")[2],
                   sections=[*page.sections, *_receptive(fields), about])  # fmt: skip


def _setup(results: Results) -> str:
    """Whose it is, and what differs."""
    name = results.settings.get("setup")
    if name is None:
        return ""
    paper, differs = setup(name).paper, setup(name).differs
    return f" Where nothing else was said, it is the setup of arXiv {paper}, at this size: {differs}."


def _receptive(fields: Mapping[str, Sequence[float | None]]) -> Iterator[Section]:
    """How far back biases reach."""
    if not fields:
        return
    rows = [
        (Item(BY_ID[name].title), [Cell("no end" if one is None else numbers.tokens(one)) for one in some])
        for name, some in fields.items()
    ]
    columns = [Column(name, "receptive field", "tokens") for name in ("Shortest", "Median", "Longest")]
    yield Section("How far biases reach", REACH, [Table("Encoding", columns, rows)])


def encodings(view: View) -> Table:
    """What encodings and their ways are, and where they come from."""
    rows = []
    for line in view.lines:
        name, _, way = line.subject.method.partition(" + ")
        one = BY_ID[name]
        what = f"{one.title}, changed beyond the window alone" if way else one.summary
        cells = [Cell(what, words=True), Cell(one.paper, link=address(one.paper))]
        rows.append((Item(line.title, line.subject.method, anchor=place(view, line)), cells))
    return Table("Encoding", [Column("What it does"), Column("Paper")], rows)


def write(results: Results, path: Path) -> None:
    """Write the page atomically.

    Raises:
        UserError: if it cannot be written.
    """
    write_text(path, page_of_lab(results).render())
