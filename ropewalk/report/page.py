"""One page for every verb: a headline, key figures, sections of blocks, and the words that need a line of their own.

A page is a value. Whoever has something to show says what is on it; how it looks stands in ``page.html.j2`` and
``page.css`` alone. It is one file that loads nothing, and reads on light and dark screens, at 400 pixels and on paper.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ropewalk.common.files import is_page
from ropewalk.common.whole import new_file
from ropewalk.report import numbers, svg
from ropewalk.report.glossary import MEANINGS
from ropewalk.report.numbers import Estimate

ARXIV = re.compile(r"\d{4}\.\d{4,5}|[a-z-]+/\d{7}")
SIZES = ((1000, 430), (380, 440))  # every line chart is laid out twice: for a desk and for a hand
WIDEST = 6  # columns that fit on paper
NOT_DRAWN = Markup()
PLAIN_STYLE = svg.Style("plain", "7 4", "circle")
LEADER_STYLES = (
    svg.Style("lead1", None, "square"),
    svg.Style("lead2", "9 3 2 3", "triangle"),
    svg.Style("lead3", "4 3", "diamond"),
    svg.Style("lead4", "2 3", "drop"),
)


@dataclass(frozen=True)
class Cell:
    """A place in a table.

    Attributes:
        text: the number, or words.
        small: below it, its interval say.
        drawing: beside it.
        best: whether it is set in bold.
        words: whether it is text that may break.
        link: an address.
    """

    text: str
    small: str = ""
    drawing: Markup = NOT_DRAWN
    best: bool = False
    words: bool = False
    link: str = ""

    @classmethod
    def of(cls, estimate: Estimate, printer: numbers.Printer, **more: Any) -> Cell:
        """A number above its interval."""
        return cls(printer(estimate.value), numbers.interval(estimate, printer), **more)


@dataclass(frozen=True)
class Column:
    """A heading: a word of the glossary explains it, or a unit stands with it; a column of words needs neither."""

    heading: str
    term: str = ""
    unit: str = ""


@dataclass(frozen=True)
class Item:
    """What a row of a table is about.

    Attributes:
        title: its name.
        small: below the name.
        swatch: its line in the charts.
        key: of its line in the charts.
        anchor: where in the page it stands alone.
        link: where in the page, or at which address, there is more of it.
        quiet: whether it is there for comparison.
    """

    title: str
    small: str = ""
    swatch: Markup = NOT_DRAWN
    key: str = ""
    anchor: str = ""
    link: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Table:
    """Rows of what was found; at 400 pixels every row is a block of its own, with the headings beside its numbers."""

    kind: ClassVar[str] = "table"
    subject: str
    columns: Sequence[Column]
    rows: Sequence[tuple[Item, Sequence[Cell]]]
    note: str = ""

    @classmethod
    def of(cls, subject: str, columns: Sequence[Column], rows: Sequence[Sequence[str]], words: bool = False) -> Table:
        """A table of texts, each row beginning with its name."""
        return cls(subject, columns, [(Item(row[0]), [Cell(one, words=words) for one in row[1:]]) for row in rows])

    def turned(self, term: str) -> Table:
        """Its columns as rows."""
        columns = [Column(item.title, term) for item, _ in self.rows]
        rows = [
            (Item(f"{column.heading} {column.unit}".strip()), [cells[i] for _, cells in self.rows])
            for i, column in enumerate(self.columns)
        ]
        return Table("", columns, rows, self.note)

    @property
    def wide(self) -> bool:
        """Whether paper may be too narrow for it."""
        return len(self.columns) > WIDEST

    @property
    def links(self) -> Iterator[str]:
        yield from (column.term for column in self.columns if column.term)


@dataclass(frozen=True)
class Chart:
    """One line chart in its two layouts."""

    kind: ClassVar[str] = "chart"
    heading: str
    layouts: Sequence[Markup]


@dataclass(frozen=True)
class Tile:
    """A small drawing of one subject."""

    title: str
    drawing: Markup
    swatch: Markup = NOT_DRAWN


@dataclass(frozen=True)
class Tiles:
    """Small drawings side by side."""

    kind: ClassVar[str] = "tiles"
    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Command:
    """A line to copy."""

    kind: ClassVar[str] = "command"
    text: str


@dataclass(frozen=True)
class Code:
    """Lines of a file, each with its kind: added, removed, hunk, same."""

    kind: ClassVar[str] = "code"
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str


@dataclass(frozen=True)
class Folded:
    """Blocks that open at a click, and on paper."""

    kind: ClassVar[str] = "folded"
    title: str
    blocks: Sequence[Block]
    swatch: Markup = NOT_DRAWN


Block: TypeAlias = Table | Chart | Tiles | Facts | Command | Code | Text | Folded


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: its heading; empty where the page's headline is enough.
        text: what it shows, in plain words.
        blocks: what it shows.
        terms: of the glossary, which the text uses.
    """

    title: str
    text: str = ""
    blocks: Sequence[Block] = ()
    terms: Sequence[str] = ()


@dataclass(frozen=True)
class KeyFigure:
    """One number that a reader takes along.

    Attributes:
        what: it is.
        value: as it is printed.
        small: its interval, and what to compare it with.
        term: of the glossary.
    """

    what: str
    value: str
    small: str = ""
    term: str = ""


@dataclass(frozen=True)
class Page:
    """What is on a page.

    Attributes:
        title: of the window.
        subject: what was looked at, in a line.
        headline: what was found, as far as the samples bear it.
        notes: what a reader must know beside it.
        figures: key figures.
        command: that puts what was found to use; empty if there is none.
        sections: all else.
    """

    title: str
    subject: str
    headline: str
    notes: Sequence[str] = ()
    figures: Sequence[KeyFigure] = ()
    command: str = ""
    sections: Sequence[Section] = field(default=())

    def render(self) -> str:
        """The HTML."""
        return _ENVIRONMENT.get_template("page.html.j2").render(page=self, meanings=MEANINGS, words=self._words())

    def write(self, path: Path, overwrite: bool = False) -> None:
        """Write the page as a file of its own, atomically.

        Raises:
            UserError: if something is there already (with ``overwrite``, if it is no page), or it cannot be written.
        """
        with new_file(path, is_page, [], overwrite) as file:
            file.write_text(self.render(), "utf-8")

    def _words(self) -> list[tuple[str, str]]:
        """The words that the page uses and what they mean, in the order of the glossary."""
        used = {figure.term for figure in self.figures}
        for section in self.sections:
            used.update(section.terms, *(one.links for one in _tables(section.blocks)))
        return [(word, meaning) for word, meaning in MEANINGS.items() if word in used]


def _tables(blocks: Sequence[Block]) -> Iterator[Table]:
    for block in blocks:
        if isinstance(block, Table):
            yield block
        elif isinstance(block, Folded):
            yield from _tables(block.blocks)


def anchor(text: str) -> str:
    """A text as the name of a place in the page."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def address(paper: str) -> str:
    """Where a paper lies: of an arXiv id or an address without https://; empty for anything else."""
    if ARXIV.fullmatch(paper):
        return f"https://arxiv.org/abs/{paper}"
    return f"https://{paper}" if re.fullmatch(r"[\w.-]+\.[a-z]+/[\w./#~-]+", paper) else ""


def lengths(values: Sequence[int]) -> list[Column]:
    """A column for every length."""
    return [Column(numbers.tokens(value), unit="tokens") for value in values]


def chart(
    heading: str,
    series: Sequence[svg.Series],
    x: svg.Axis,
    y: svg.Axis,
    title: str,
    marks: Sequence[svg.Mark] = (),
    **how: bool,
) -> list[Chart]:
    """A line chart in both layouts; none where fewer than two places have a number, which a table says better."""
    if len({point.x for s in series for point in s.points if point.estimate.value is not None}) < 2:
        return []
    layouts = [svg.line_chart(series, x, y, title, marks, width=width, height=height, **how) for width, height in SIZES]
    return [Chart(heading, layouts)]


def with_numbers(charts: Sequence[Chart], table: Table, term: str) -> list[Block]:
    """Charts, and the numbers behind them at a click; without a chart the numbers.

    A table with more columns than fit on paper, and than it has rows, is turned: ``term`` explains its numbers.
    """
    if len(table.columns) > max(WIDEST, len(table.rows)):
        table = table.turned(term)
    return [*charts, Folded("The numbers", [table])] if charts else [table] if table.rows else []


def facts(values: Mapping[str, Any]) -> Facts:
    """Settings by name, without those that say nothing."""
    return Facts([(name, _plain(value)) for name, value in values.items() if value not in (None, "", [], {}, ())])


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ("; " if any(isinstance(one, dict) for one in value) else ", ").join(map(_plain, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items() if one not in ("", None))
    return str(value)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["anchor"] = anchor
    return made


_ENVIRONMENT = _environment()
