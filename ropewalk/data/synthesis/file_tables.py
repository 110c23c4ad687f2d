"""Tables out of people's own files (.csv, .tsv, .parquet): checked, and asked about in parts."""

from __future__ import annotations

import csv
import io
import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropewalk.common.errors import UserError
from ropewalk.common.outside import read_bytes
from ropewalk.data.knots.marks import sign
from ropewalk.data.synthesis.tables import OTHERS, ROWS, Asked, Query, Table, Value, value_of
from ropewalk.texts.rows import read

SEPARATORS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (*SEPARATORS, ".parquet")
LEAST = 3  # rows of a file
MOST = 1_000_000  # rows of one
COLUMNS = 5  # that are shown of a table at most
CELL = 60  # signs; columns with longer ones are not shown


@dataclass(frozen=True)
class FileTable:
    """A file's table, of the columns that can be shown.

    Attributes:
        name: of the file.
        columns: their names.
        rows: whole numbers and texts.
    """

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]

    def part(self, rows: Sequence[int], columns: Sequence[int], title: str) -> Table:
        """Some of its rows and columns, by number, in the file's order."""
        cells = tuple(tuple(self.rows[row][column] for column in columns) for row in rows)
        return Table(title, tuple(self.columns[column] for column in columns), cells)


def asked_of_files(rng: np.random.Generator, tables: Sequence[FileTable]) -> Asked | str:
    """Some rows and columns of a table, a question about them, and others beside them; or why there is none.

    The others are further rows of the same columns, as far as the file has some; then parts of other files.
    """
    place = int(rng.integers(len(tables)))
    table = tables[place]
    columns = _some(rng, len(table.columns), int(rng.integers(2, COLUMNS + 1)))
    groups = _groups(rng, len(table.rows))
    parts = [table.part(rows, columns, sign(rng)) for rows in groups[: 1 + OTHERS]]
    query = _query(rng, parts[0])
    if query is None:
        return "no column names its rows"
    for other in rng.permutation(len(tables)).tolist():
        if len(parts) <= OTHERS and other != place:
            beside = tables[other]
            rows = _groups(rng, len(beside.rows))[0]
            parts.append(beside.part(rows, _some(rng, len(beside.columns), COLUMNS), sign(rng)))
    return Asked(query, parts[:1], parts[1:], table.name)


def tables_of(place: str | Path) -> list[FileTable]:
    """The table of a file, or of each file of a folder and those in it, by name.

    Raises:
        UserError: naming file and line, if there is none, or one is no table.
    """
    path = Path(place)
    if not path.exists():
        raise UserError(f"{path}: no such file or folder", f"Give {', '.join(SUFFIXES)}, or a folder of them.")
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if _is_table(one, path))
    if not files or not all(one.suffix.lower() in SUFFIXES for one in files):
        raise UserError(f"{path}: no {', '.join(SUFFIXES)} file", f"Give {', '.join(SUFFIXES)}, or a folder of them.")
    return [_table(file, str(file.relative_to(path)) if path.is_dir() else file.name) for file in files]


def _is_table(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden and file.suffix.lower() in SUFFIXES


def _table(file: Path, name: str) -> FileTable:
    lines = _parquet(file) if file.suffix.lower() == ".parquet" else _separated(file)
    _, columns = next(lines, ("", []))
    names = [str(one).strip() for one in columns]
    twice = [one for one, count in Counter(one.casefold() for one in names).items() if count > 1]
    if len(names) < 2 or not all(names) or twice or any('"' in one for one in names):
        raise UserError(
            f"{file}: the columns are {names}, expected two at least, each with a name of its own, without quotes",
            "Name them in the first line; cells are separated by commas in .csv, by tabs in .tsv.",
        )
    rows: list[tuple[Value, ...]] = []
    for where, cells in lines:
        if len(cells) != len(names):
            raise UserError(
                f"{where}: {len(cells)} cells, expected {len(names)}: {', '.join(names)}",
                "Mend the line, or leave the file out.",
            )
        rows.append(tuple(value_of(one) for one in cells))
        if len(rows) > MOST:
            raise UserError(f"{file} has more than {MOST:,} rows", "Give a part of it.")
    if len(rows) < LEAST:
        raise UserError(f"{file}: {len(rows)} rows, expected {LEAST} at least", "Leave it out.")
    short = [i for i, one in enumerate(names) if len(one) <= CELL and all(len(str(row[i])) <= CELL for row in rows)]
    if len(short) < 2:
        raise UserError(
            f"{file}: {len(short)} columns whose cells have {CELL} signs at most, expected two", "Leave it out."
        )
    return FileTable(name, tuple(names[i] for i in short), tuple(tuple(row[i] for i in short) for row in rows))


def _separated(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Lines of cells, each with its place; the first has the columns' names."""
    data = read_bytes(file)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{file}:{line}: byte {data[error.start]:#04x} is not UTF-8", "Save the file as UTF-8."
        ) from None
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=SEPARATORS[file.suffix.lower()], strict=True)
    try:
        for cells in lines:
            if cells:
                yield f"{file}:{lines.line_num}", cells
    except csv.Error as error:
        raise UserError(f"{file}:{lines.line_num}: {error}", "Write it as a spreadsheet does.") from None


def _parquet(file: Path) -> Iterator[tuple[str, list[Any]]]:
    """The same of a parquet file."""
    rows = read(file)
    first = next(rows, None)
    if first is not None:
        yield first.where, list(first.values)
        for row in itertools.chain([first], rows):
            for name, cell in row.values.items():
                if isinstance(cell, list | dict | bytes):
                    raise row.refuse(name, "a number, a text or a date")
            yield row.where, ["" if cell is None else cell for cell in row.values.values()]


def _some(rng: np.random.Generator, count: int, most: int) -> list[int]:
    """Numbers below ``count``, as many as there are up to ``most``, in their order."""
    return sorted(rng.choice(count, min(count, most), replace=False).tolist())


def _groups(rng: np.random.Generator, rows: int) -> list[list[int]]:
    """Rows of a table and of those beside it, none twice: 8 to 20 each, or all of them where there are no more."""
    order = rng.permutation(rows).tolist()
    size = int(rng.integers(ROWS[0], ROWS[1] + 1))
    found = [sorted(order[first : first + size]) for first in range(0, size * (1 + OTHERS), size)]
    return [one for i, one in enumerate(found) if i == 0 or len(one) >= ROWS[0]]


def _query(rng: np.random.Generator, table: Table) -> Query | None:
    """A question about a table, by what its columns hold; None if no column tells its rows apart."""
    columns = dict(zip(table.columns, zip(*table.rows, strict=True), strict=True))
    told = [name for name, cells in columns.items() if len(set(cells)) == len(cells) and "" not in cells]
    names = [name for name in told if all(isinstance(one, str) for one in columns[name])] or told
    if not names:
        return None
    who = str(rng.choice(names))
    others = [name for name in columns if name != who]
    numbers = [name for name in others if all(isinstance(one, int) for one in columns[name])]
    groups = {
        name: sorted({one for one in columns[name] if isinstance(one, str) and one and columns[name].count(one) > 1})
        for name in others
    }
    groups = {name: found for name, found in groups.items() if found}
    kinds = ["lookup", *(["largest", "difference"] if numbers else []), *(["sum"] if numbers and groups else [])]
    kind = str(rng.choice(kinds))
    if kind == "lookup":
        row, column = int(rng.integers(len(table.rows))), str(rng.choice(others))
        given = columns[who][row]
        words = f"In table {{0}}: What is the {_plain(column)} where the {_plain(who)} is {_plain(given)}?"
        return Query(kind, words, f'SELECT "{column}" FROM t0 WHERE "{who}" = ?', (given,))
    number = str(rng.choice(numbers))
    if kind == "largest":
        sql = f'SELECT "{who}" FROM t0 WHERE "{number}" = (SELECT max("{number}") FROM t0)'
        return Query(kind, f"In table {{0}}: Which {_plain(who)} has the largest {_plain(number)}?", sql)
    if kind == "difference":
        sql = f'SELECT max("{number}") - min("{number}") FROM t0'
        return Query(kind, f"In table {{0}}: What is the largest {_plain(number)} less the smallest?", sql)
    where = str(rng.choice(list(groups)))
    value = str(rng.choice(groups[where]))
    words = f"What is the sum of {_plain(number)} over all rows whose {_plain(where)} is {_plain(value)}?"
    return Query(kind, f"In table {{0}}: {words}", f'SELECT sum("{number}") FROM t0 WHERE "{where}" = ?', (value,))


def _plain(cell: Value) -> str:
    """A cell as it stands in words that are filled in later."""
    return str(cell).replace("{", "{{").replace("}", "}}")
