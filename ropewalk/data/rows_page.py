"""Rows as a page: every document a colour, positions under it, marks and what is not learnt as such."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropewalk.common.naming import counted
from ropewalk.data.arranged import Arranged
from ropewalk.data.making import Made
from ropewalk.data.synthesis.synthesis import PLAIN
from ropewalk.report import svg
from ropewalk.report.page import SIZES, Chart, Column, Folded, KeyFigure, Page, Section, Table, facts

if TYPE_CHECKING:
    from rich.console import Console

PIECES = 40  # of a row in its table


@dataclass(frozen=True, repr=False)
class Shown(Made):
    """Rows in a folder, and their page.

    Attributes:
        page: where it lies; None if none was asked for.
    """

    page: Path | None = None

    @classmethod
    def of(cls, folder: Path, arranged: Arranged, page: Path | None, rows: int, overwrite: bool) -> Shown:  # type: ignore[override]
        """Draw what lies in a folder."""
        made = Made.of(folder, arranged)
        if page:
            page_of_rows(made, arranged, rows).write(page, overwrite)
        return cls(**vars(made), page=page)

    def show(self, console: Console) -> None:
        super().show(console)
        if self.page:
            console.print(f"page: {self.page}")


def page_of_rows(made: Made, arranged: Arranged, rows: int) -> Page:
    """What is on the page."""
    about, counts = made.about, made.counts
    count = min(rows, len(arranged))
    chosen = np.unique(np.linspace(0, len(arranged) - 1, count).round().astype(int)).tolist()
    stripes = [_stripe(arranged, row) for row in chosen]
    return Page(
        title=f"{made.folder.name}: rows of training",
        subject=f"{about.source}, {counted(counts.documents, 'document')}, tokens of {made.tokenizer}",
        headline=f"{counted(counts.rows, 'row')} of up to {about.length:,} tokens, {about.how}: "
        + (
            f"{counts.learnt:,} tokens are learnt."
            if about.asks
            else f"{counts.cut:,} documents are cut, {counts.cut_in_vain or 'none'} of which would have fitted a row."
        ),
        notes=[
            f"Documents {made.sight}." if about.apart else "All of a row sees what stands before it.",
            *made.notes,
        ],
        figures=list(_figures(made)),
        command=made.training,
        sections=[
            Section(
                f"{len(chosen)} of {counted(counts.rows, 'row')}",
                "Evidence is orange, what is learnt (the answer) blue, all else pale; questions are dark. Numbers are "
                "positions."
                if arranged.provenance
                else "Each document has one colour in a row, which begins again after six; marks are dark, and so is "
                "what has no loss. Numbers are positions.",
                [Chart("", [svg.stripes(stripes, about.length, "rows of training", width) for width, _ in SIZES])],
            ),
            Section("What they hold", "", [Folded(_title(arranged, row), [_pieces(arranged, row)]) for row in chosen]),
            *([Section("Domains", "", [_domains(made)])] if made.domains else []),
            Section(
                "How", "", [facts({"arranged": about.how, **_plain(about.options), "seed": about.seed, **about.told})]
            ),
        ],
    )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options but for those that have a table of their own."""
    return {name: value for name, value in options.items() if name != "domains"}


def _domains(made: Made) -> Table:
    rows = [
        (one.name, f"{one.share:.2%}", f"{one.came:.2%}", f"{one.tokens:,}", f"{one.rows:,}", f"{one.epochs:.3g}",
         f"{one.documents:,}", f"{one.unused:,}")
        for one in made.domains
    ]  # fmt: skip
    columns = ["share asked", "share that came", "tokens", "rows", "epochs", "documents", "in no row"]
    return Table.of("domain", [Column(name) for name in columns], rows)


def _title(arranged: Arranged, row: int) -> str:
    return f"Row {row:,}, {arranged.domain(row)}" if arranged.domains else f"Row {row:,}"


def _figures(made: Made) -> Iterator[KeyFigure]:
    counts = made.counts
    whole = max(counts.tokens, 1)
    yield KeyFigure("Tokens", f"{counts.tokens:,}", f"{counts.marks / whole:.1%} marks")
    yield KeyFigure("Padding", f"{counts.padding / (whole + counts.padding):.2%}", f"{counts.dropped:,} tokens dropped")
    yield KeyFigure("Tokens that see another document", f"{counts.crossing / whole:.1%}")


def _stripe(arranged: Arranged, row: int) -> tuple[str, list[svg.Span]]:
    """A row as a stripe, every document of it in a colour of its own."""
    some, spans, inks = arranged.arrangement, [], {}  # type: ignore[var-annotated]
    first = arranged.pieces(row)[0]
    asks = bool(arranged.provenance) and arranged.provenance[row] != PLAIN
    known = {first + piece for piece in arranged.provenance[row].pieces} if asks else set()
    for i, tokens in _sized(arranged, row):
        document = int(some.document[i])
        name, evidence = arranged.corpus.name(document).strip(), i in known
        if asks:  # what answers a question, the answer, and all else
            ink = 1 if evidence else 0 if some.loss[i] else 4 if document < arranged.about.documents else None
        else:
            ink = inks.setdefault(document, len(inks)) if some.loss[i] else None
        name = f"evidence: {name}" if evidence else name
        title = f"{name}, its tokens {some.start[i]:,} to {some.stop[i]:,}"
        spans.append(svg.Span(tokens, ink, title, seen=asks and ink != 4))
    label = f"{row:,} {arranged.domain(row)}" if arranged.domains else f"{row:,}"
    return label, spans


def _sized(arranged: Arranged, row: int) -> Iterator[tuple[int, int]]:
    """Number of each piece of a row, and tokens that it takes there."""
    some, begin = arranged.arrangement, len(arranged.corpus.manifest.begin)
    for i in arranged.pieces(row):
        yield i, int(some.stop[i] - some.start[i]) + begin * bool(some.begun[i])


def _pieces(arranged: Arranged, row: int) -> Table:
    """The pieces of a row, the first of them where they are many."""
    some, at, found = arranged.arrangement, 0, []
    for i, tokens in _sized(arranged, row):
        name = arranged.corpus.name(int(some.document[i])).strip()
        learnt = "yes" if some.loss[i] else "no"
        found.append((f"{at:,}", name, f"{some.start[i]:,} to {some.stop[i]:,}", f"{some.scope[i]}", learnt))
        at += tokens
    columns = [Column("document"), Column("its tokens"), Column("scope"), Column("learnt")]
    table = Table.of("position", columns, found[:PIECES], words=True)
    return replace(table, note=f"and {len(found) - PIECES:,} more" if len(found) > PIECES else "")
