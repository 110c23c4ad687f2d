"""Rows of files that others made: JSON, JSON lines, parquet or a hub data set, checked while they are read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ropewalk.common.errors import UserError, did_you_mean
from ropewalk.common.extras import install
from ropewalk.common.outside import open_file, parse, parse_at, read_bytes

SUFFIXES = (".jsonl", ".json", ".parquet")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
SHARD = "-00000-of-00001"  # of a hub set's parquet files
SHOWN = 60  # characters of a wrong value in a message
NAMED = 3  # rows that are left out, by file and line
THERE = "Mend it there, or take it out of the file."
Made = TypeVar("Made")


@dataclass(frozen=True)
class Row:
    """One row, or an object inside of one.

    Attributes:
        values: as read.
        where: file and line (row of a parquet file), the number on its line where that is not 1, and the path inside of
            the row; no two rows of a file have the same.
    """

    values: Mapping[str, Any]
    where: str

    def has(self, key: str) -> bool:
        """Whether there is a value that is not null."""
        return self.values.get(key) is not None

    def text(self, key: str, empty: bool = False, mend: str = "") -> str:
        """A string.

        Args:
            key: of the row.
            empty: whether it may be blank.
            mend: what to do where there is none.

        Raises:
            UserError: if it is missing, of another type, or blank and ``empty`` is False.
        """
        value = self.values.get(key)
        if not isinstance(value, str) or not (empty or value.strip()):
            raise self.refuse(key, "a string" if empty else "a string that is not empty", mend)
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of strings, none of them blank; at least one.

        Raises:
            UserError: if it is anything else.
        """
        value = self.values.get(key)
        if not isinstance(value, list) or not value or not all(isinstance(v, str) and v.strip() for v in value):
            raise self.refuse(key, "a list of one or more strings that are not empty")
        return tuple(value)

    def answers(self, key: str) -> tuple[str, ...]:
        """One or more answers, as strings: a string or a number, or a list of them.

        Raises:
            UserError: if there is none, or one is blank or of another type.
        """
        value = self.values.get(key)
        listed = value if isinstance(value, list) else [value]
        right = all(isinstance(v, str | int | float) and not isinstance(v, bool) and str(v).strip() for v in listed)
        if not listed or not right:
            raise self.refuse(key, "a string or a number that is not empty, or a list of them")
        return tuple(str(v) for v in listed)

    def integer(self, key: str) -> int:
        """A whole number.

        Raises:
            UserError: if it is anything else.
        """
        value = self.values.get(key)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.refuse(key, "a whole number")
        return value

    def one_of(self, key: str, allowed: Sequence[str]) -> str:
        """A string out of ``allowed``.

        Raises:
            UserError: if it is anything else.
        """
        value = self.values.get(key)
        if value not in allowed:
            raise self.refuse(key, f"one of {', '.join(allowed)}")
        return str(value)

    def row(self, key: str) -> Row:
        """An object.

        Raises:
            UserError: if it is anything else.
        """
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.refuse(key, "an object")
        return Row(value, f"{self.where}: {key}")

    def rows(self, key: str, empty: bool = False) -> list[Row]:
        """A list of objects.

        Raises:
            UserError: if it is anything else, or has none and ``empty`` is False.
        """
        value = self.values.get(key)
        if not isinstance(value, list) or not (value or empty) or not all(isinstance(v, dict) for v in value):
            raise self.refuse(key, "a list of objects" if empty else "a list of one or more objects")
        return [Row(v, f"{self.where}: {key}[{i}]") for i, v in enumerate(value)]

    def refuse(self, key: str, expected: str, mend: str = "") -> UserError:
        """The error for a bad value: file and line, key, value seen, value expected."""
        if key not in self.values:
            return UserError(f'{self.where}: no "{key}", expected {expected}', mend)
        seen = repr(self.values[key])
        seen = seen if len(seen) <= SHOWN else f"{seen[:SHOWN]}..."
        return UserError(f'{self.where}: "{key}" is {seen}, expected {expected}', mend)


def read(
    source: str | Path, config: str | None = None, split: str = "test", left_out: list[UserError] | None = None
) -> Iterator[Row]:
    """Rows of a local file (.jsonl; .json: a list of objects, or one under "data"; .parquet) or of a hub data set.

    Args:
        source: a path, or a hub id (``owner/name``) where no such path exists.
        config: of the hub data set.
        split: of the hub data set.
        left_out: where the error of each bad row goes; without, the first one is raised.

    Raises:
        UserError: if there is no such source or a row is not an object, naming file and line.
    """
    path = Path(source)
    if is_hub_id(source):
        return _hub(str(source), config, split)
    if not path.is_file():
        raise UserError(f"{source}: no such file", f"give a {', '.join(SUFFIXES)} file, or a hub id")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: cannot read {path.suffix or 'a file without suffix'}", f"give {', '.join(SUFFIXES)}")
    found = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet}[path.suffix.lower()](path)
    return good(_handed_on(found), left_out)


def _handed_on(items: Iterable[Row | UserError]) -> Iterator[Row | UserError]:
    """Rows and errors; that of a file that cannot be read is one of them."""
    try:
        yield from items
    except UserError as error:
        yield error


def good(items: Iterable[Made | UserError], left_out: list[UserError] | None) -> Iterator[Made]:
    """What could be made; errors go to ``left_out``, or are raised where there is none."""
    for item in items:
        if not isinstance(item, UserError):
            yield item
        elif left_out is None:
            raise item
        else:
            left_out.append(item)


def each(rows: Iterable[Row], make: Callable[[Row], Made]) -> Iterator[Made | UserError]:
    """What is made of each row, or the error of one that is bad."""
    return each_numbered(rows, lambda _, row: make(row))


def each_numbered(rows: Iterable[Row], make: Callable[[int, Row], Made]) -> Iterator[Made | UserError]:
    """What is made of each row and its number, from 0, or the error of one that is bad."""
    for number, row in enumerate(rows):
        try:
            yield make(number, row)
        except UserError as error:
            yield error


def told(left_out: Sequence[UserError], total: int, what: str = "rows") -> str:
    """How many were left out, and the first of them with file and line."""
    named = "; ".join(error.message for error in left_out[:NAMED])
    more = f"; and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
    return f"{len(left_out)} of {total} {what} left out: {named}{more}"


def tables(
    source: str | Path,
    known: Sequence[str],
    subsets: Sequence[str] | None = None,
    split: str = "test",
    ending: str = "",
    aliases: Mapping[str, str] | None = None,
    left_out: list[UserError] | None = None,
) -> Iterator[tuple[str, Iterator[Row]]]:
    """The rows of each subset of a benchmark.

    Args:
        source: a file named after its subset, a folder with such files in it or in its subfolders (also a hub set's
            own folders and parquet files), or a hub id whose configurations are subsets.
        known: the names of all subsets.
        subsets: those wanted; every one that is there unless given.
        split: of a hub data set; "{subset}" where its splits, not its configurations, are subsets.
        ending: what follows the subset in the names of files and configurations.
        aliases: further names of files, and their subsets.
        left_out: where the error of each bad row goes; without, the first one is raised.

    Yields:
        A subset and its rows.

    Raises:
        UserError: if a subset is unknown, has no file or several.
    """
    check_known(subsets, known)
    if is_hub_id(source):
        for name in subsets or known:
            if split == "{subset}":
                yield name, read(source, split=name)
            else:
                yield name, read(source, name + ending, split)
        return
    files = _by_subset(Path(source), {**(aliases or {}), **{name + ending: name for name in known}}, split)
    wanted = subsets or [name for name in known if name in files]
    if not wanted:
        raise UserError(
            f"{source}: no file is named after a subset",
            f"name files {known[0]}{ending}.jsonl, and so on: {', '.join(known)}",
        )
    for name in wanted:
        if name not in files:
            raise UserError(f"{source}: no file for the subset {name!r}", f"name it {name}{ending}.jsonl")
        if len(files[name]) > 1:
            several = ", ".join(map(str, files[name][:NAMED]))
            raise UserError(
                f"{source}: {len(files[name])} files for the subset {name!r}: {several}",
                f"Give the folder of one of them, --rows {files[name][0].parent}.",
            )
        yield name, read(files[name][0], left_out=left_out)


def check_known(subsets: Sequence[str] | None, known: Sequence[str]) -> None:
    """Refuse a subset that the benchmark does not have.

    Raises:
        UserError: naming it and all that there are.
    """
    for name in subsets or ():
        if name not in known:
            raise UserError(f"no subset {name!r}{did_you_mean(name, known)}", f"give some of {', '.join(known)}")


def is_hub_id(source: str | Path) -> bool:
    """Whether a source reads ``owner/name`` and is no local path."""
    path = Path(source)
    return not path.exists() and path.suffix.lower() not in SUFFIXES and HUB_ID.fullmatch(str(source)) is not None


def only_file(source: str | Path) -> str | Path:
    """The one data file of a folder; what is no folder is left as it is.

    Raises:
        UserError: if the folder has none, or several.
    """
    if not Path(source).is_dir():
        return source
    found = list(_files(Path(source)))
    if len(found) != 1:
        several = ": " + ", ".join(map(str, found[:NAMED])) if found else ""
        raise UserError(
            f"{source} has {len(found)} data files, expected one{several}", "Give the file itself, --rows FILE."
        )
    return found[0]


def _files(path: Path) -> Iterator[Path]:
    """A data file, or all of a folder, without what archives and systems put beside them."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder", "give a file, a folder of them, or a hub id")
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        hidden = any(part.startswith((".", "__MACOSX")) for part in file.relative_to(path).parts)
        if not hidden and file.suffix in SUFFIXES and file.is_file():
            yield file


def _by_subset(path: Path, names: Mapping[str, str], split: str) -> dict[str, list[Path]]:
    """Data files by subset: named after it or, as hub sets lie on disk, after a split in a folder of its name."""
    found: dict[str, list[Path]] = {}
    for file in _files(path):
        stem = file.stem.removesuffix(SHARD)
        name = names.get(stem) or (names.get(file.parent.name) if stem == split else None)
        if name is not None:
            found.setdefault(name, []).append(file)
    return found


def _jsonl(file: Path) -> Iterator[Row | UserError]:
    number = 0
    with open_file(file) as stream:
        try:
            for number, line in enumerate(stream, 1):
                yield from _line(file, number, line)
        except OSError as error:
            yield UserError(
                f"{file}:{number + 1}: cannot be read ({error.strerror}), nor is what follows",
                "Put the file there anew.",
            )


def _line(file: Path, number: int, line: bytes) -> Iterator[Row | UserError]:
    where = f"{file}:{number}"
    try:
        text = _decode(line, where)
        if text.strip():
            yield _row(_parse(text, where), where)
    except UserError as error:
        yield error


def _json(file: Path) -> Iterator[Row | UserError]:
    """Items of a list, each with the line on which it begins, or of the list under "data", each with its place.

    Several objects behind each other are taken for JSON lines.
    """
    data = read_bytes(file)
    text = _decode(data, str(file))
    if text.lstrip().startswith("["):
        yield from _items(file, text)
        return
    try:
        document = _parse(text, str(file))
    except UserError:
        if "\n" not in text.strip() or not text.strip().split("\n")[0].rstrip().endswith("}"):
            raise
        for number, line in enumerate(data.splitlines(), 1):
            yield from _line(file, number, line)
        return
    items = document.get("data") if isinstance(document, dict) else None
    if not isinstance(items, list):
        raise UserError(f'{file}: neither a list nor an object with a list under "data"', THERE)
    for i, item in enumerate(items):
        yield _row(item, f"{file}:data[{i}]")


def _items(file: Path, text: str) -> Iterator[Row | UserError]:
    """Items of a JSON list, one at a time."""
    if re.fullmatch(r"\s*\[\s*\]\s*", text):
        return
    between, line, end, before, on_line = re.compile(r"\s*([\[,\]])\s*"), 1, 0, 0, 0
    while True:
        mark = between.match(text, end)
        if mark is None or mark[1] not in ("[" if end == 0 else ",]"):
            yield UserError(
                f"{file}:{line}: not JSON (no comma or end of the list after an item); the rest is not read", THERE
            )
            return
        if mark[1] == "]":
            if mark.end() < len(text):
                yield UserError(f"{file}:{line}: not JSON (there is more behind the list); the rest is not read", THERE)
            return
        line += text.count("\n", end, mark.end())
        try:
            item, stop = parse_at(text, mark.end())
        except json.JSONDecodeError as error:
            yield UserError(
                f"{file}:{error.lineno}: not JSON ({error.msg} at column {error.colno}); the rest is not read", THERE
            )
            return
        except ValueError as error:
            yield UserError(f"{file}:{line}: not JSON ({error}); the rest is not read", THERE)
            return
        on_line = on_line + 1 if line == before else 1
        where = f"{file}:{line}" if on_line == 1 else f"{file}:{line}#{on_line}"
        yield _row(item, where)
        before, line, end = line, line + text.count("\n", mark.end(), stop), stop


def _parquet(file: Path) -> Iterator[Row | UserError]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(f"{file}: reading parquet needs pyarrow", install("parquet")) from error
    return _row_groups(file, parquet)


def _row_groups(file: Path, parquet: Any) -> Iterator[Row | UserError]:
    """Rows of a parquet file; what is damaged in one of its groups is lost up to the end of that group alone."""
    from pyarrow import ArrowException

    broken = ArrowException, OSError, ValueError  # what is no UTF-8 is a ValueError
    try:
        table = parquet.ParquetFile(open_file(file))
        sizes = [table.metadata.row_group(i).num_rows for i in range(table.num_row_groups)]
    except broken as error:
        raise UserError(f"{file}: not a parquet file ({error})", "Put the file there anew.") from error
    end = 0
    for group, size in enumerate(sizes):
        number, end = end, end + size
        try:
            for batch in table.iter_batches(batch_size=64, row_groups=[group]):
                for row in batch.to_pylist():
                    number += 1
                    yield Row(row, f"{file}:{number}")
        except broken as error:
            yield UserError(
                f"{file}:{number + 1}: rows {number + 1:,} to {end:,} cannot be read ({error})",
                "Put the file there anew.",
            )


def _hub(name: str, config: str | None, split: str) -> Iterator[Row]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise UserError(f"{name}: reading from the hub needs datasets", install("data")) from error
    try:
        rows = load_dataset(name, config, split=split)
    except Exception as error:  # the hub client raises many kinds
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the hub did not give {name} ({config or 'default'}, {split}): {reason}",
            "Download its files (data sets with a loading script have them in a zip) and give the folder.",
        ) from None
    for number, row in enumerate(rows, 1):
        yield Row(row, f"{name}/{config or split}:{number}")


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {data[error.start]:#04x} is not UTF-8", "save the file as UTF-8") from error


def _parse(text: str, where: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})", THERE) from error


def _row(value: Any, where: str) -> Row | UserError:
    """The row that a value is, if it is an object."""
    if not isinstance(value, dict):
        return UserError(f"{where}: a row is an object, not {type(value).__name__}", THERE)
    return Row(value, where)
