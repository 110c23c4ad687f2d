"""Tables of things that nobody knows, written as text and read back, and questions about them that SQL answers."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from ropewalk.data.knots.marks import sign
from ropewalk.tasks.names import FIRST, LAST, TOWN_HEADS, TOWN_TAILS

Value = str | int
WHAT = (  # who, where, what, and two numbers
    ("merchant", "town", "goods", "crates", "price"),
    ("captain", "harbour", "cargo", "barrels", "toll"),
    ("grower", "village", "crop", "sacks", "rent"),
)
THINGS = (
    "amber barley cloth copper flax glass hops honey iron lead linen oats salt silk slate tar tin wax wine wool".split()
)
PLACES = 4  # of a table
ROWS = 8, 20  # of a table
NUMBERS = 10_000, 1_000_000
FORMS = "markdown", "csv", "jsonl"
OTHERS = 2  # tables with the same columns that are not asked about
WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}")


def value_of(cell: object) -> Value:
    """A cell as it is compared: a whole number, or a text."""
    text = str(cell).strip()
    return int(text) if WHOLE.fullmatch(text) else text


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        title: an id that nobody else has.
        columns: their names, which are words.
        rows: whole numbers and texts.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def written(self, form: str) -> str:
        """As text: markdown, csv or jsonl, under its title."""
        if form == "csv":
            file = io.StringIO()
            csv.writer(file, lineterminator="\n").writerows([self.columns, *self.rows])
            body = file.getvalue()
        elif form == "jsonl":
            body = "".join(
                json.dumps(dict(zip(self.columns, row, strict=True)), ensure_ascii=False) + "\n" for row in self.rows
            )
        else:
            lines = [self.columns, ["---"] * len(self.columns), *self.rows]
            body = "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
        return f"\n\nTable {self.title}\n{body}\n"

    @classmethod
    def read(cls, text: str) -> Table:
        """Out of such a text.

        Raises:
            ValueError: if there is none in it; likewise KeyError.
        """
        title, *lines = text.strip().split("\n")
        if not lines:
            raise ValueError("no table")
        cells: list[list[Value]]
        if lines[0].startswith("{"):
            objects = [json.loads(line) for line in lines]
            cells = [list(objects[0]), *([one[name] for name in objects[0]] for one in objects)]
        elif lines[0].startswith("|"):
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line]
        else:
            cells = [list(line) for line in csv.reader(lines)]
        columns, *rows = (tuple(map(value_of, line)) for line in cells)
        return cls(title.removeprefix("Table "), tuple(map(str, columns)), tuple(rows))


@dataclass(frozen=True)
class Query:
    """A question about one table or two.

    Attributes:
        kind: lookup, largest, sum, difference or join.
        words: as a reader is asked; {0} and {1} are the tables' titles.
        sql: as a database is; t0 and t1 are the tables.
        given: what takes the place of its question marks.
        needs: how many tables.
    """

    kind: str
    words: str
    sql: str
    given: tuple[Value, ...] = ()
    needs: int = 1

    def answer(self, tables: Sequence[Table]) -> Value | None:
        """What sqlite says; None if that is not one value, once."""
        with closing(sqlite3.connect(":memory:")) as database:
            for i, table in enumerate(tables):
                names = ", ".join(f'"{name}"' for name in table.columns)
                database.execute(f"CREATE TABLE t{i} ({names})")
                marks = ", ".join("?" * len(table.columns))
                database.executemany(f"INSERT INTO t{i} VALUES ({marks})", table.rows)
            found = database.execute(self.sql, self.given).fetchall()
        return found[0][0] if len(found) == 1 and len(found[0]) == 1 else None


@dataclass(frozen=True)
class Asked:
    """A question about tables.

    Attributes:
        query: the question.
        needed: tables that it is about.
        others: that stand beside them.
        file: that the tables are of; empty if they are invented.
    """

    query: Query
    needed: Sequence[Table]
    others: Sequence[Table]
    file: str = ""


def invented(rng: np.random.Generator) -> Asked:
    """A question about people whom nobody knows."""
    what = WHAT[int(rng.integers(len(WHAT)))]
    table, *others = (table_of(rng, what) for _ in range(1 + OTHERS))
    query = query_of(rng, table)
    return Asked(query, [table, beside(rng, table)][: query.needs], others)


def table_of(rng: np.random.Generator, what: Sequence[str]) -> Table:
    """Who has how much of what, where; no one twice."""
    places = [_town(rng) for _ in range(PLACES)]
    people = rng.choice(len(FIRST) * len(LAST), int(rng.integers(ROWS[0], ROWS[1] + 1)), replace=False)
    rows = [
        (f"{FIRST[one % len(FIRST)]} {LAST[one // len(FIRST)]}", str(rng.choice(places)), str(rng.choice(THINGS)),
         int(rng.integers(*NUMBERS)), int(rng.integers(*NUMBERS)))
        for one in people.tolist()
    ]  # fmt: skip
    return Table(sign(rng), tuple(what), tuple(rows))


def beside(rng: np.random.Generator, table: Table) -> Table:
    """A second table: a seal for every place of a first one."""
    places = sorted({str(row[1]) for row in table.rows})
    return Table(sign(rng), (table.columns[1], "seal"), tuple((place, sign(rng)) for place in places))


def query_of(rng: np.random.Generator, table: Table) -> Query:
    """A question about a table, and for ``join`` the one beside it."""
    who, where, _, *numbers = table.columns
    row = table.rows[int(rng.integers(len(table.rows)))]
    column = int(rng.integers(2))
    number, other = numbers[column], numbers[1 - column]
    kind = str(rng.choice(["lookup", "largest", "sum", "difference", "join"]))
    if kind == "lookup":
        words, given = f"What is the {number} of the {who} {row[0]}?", (row[0],)
        return Query(kind, f"In table {{0}}: {words}", f'SELECT "{number}" FROM t0 WHERE "{who}" = ?', given)
    if kind == "largest":
        sql = f'SELECT "{other}" FROM t0 WHERE "{number}" = (SELECT max("{number}") FROM t0)'
        return Query(kind, f"In table {{0}}: What is the {other} of the {who} with the largest {number}?", sql)
    if kind == "sum":
        words, given = f"What is the sum of {number} over all rows whose {where} is {row[1]}?", (row[1],)
        return Query(kind, f"In table {{0}}: {words}", f'SELECT sum("{number}") FROM t0 WHERE "{where}" = ?', given)
    if kind == "difference":
        sql = f'SELECT max("{number}") - min("{number}") FROM t0'
        return Query(kind, f"In table {{0}}: What is the largest {number} less the smallest?", sql)
    words = f"Take the {where} of the {who} {row[0]} from table {{0}}. Which seal has it in table {{1}}?"
    sql = f'SELECT t1.seal FROM t0 JOIN t1 ON t0."{where}" = t1."{where}" WHERE t0."{who}" = ?'
    return Query(kind, words, sql, (row[0],), needs=2)


def _town(rng: np.random.Generator) -> str:
    return str(rng.choice(TOWN_HEADS)) + str(rng.choice(TOWN_TAILS))
