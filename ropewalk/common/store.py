"""Records of evaluated samples that survive a kill at any moment: one SQLite file, one JSON record per sample.

The key of a record is a hash of everything that the sample depends on, so that a record is right for ever: a run that
finds it need not compute it, whichever run wrote it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from ropewalk.common.errors import UserError
from ropewalk.common.whole import make

APPLICATION_ID = 0x526F7065  # "Rope"; marks the file as ours
WAIT_SECONDS = 60  # for another process that is writing
KEYS_PER_QUERY = 500
ELSEWHERE = "Choose another folder: -o OUT."
TABLE = "CREATE TABLE IF NOT EXISTS samples (key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID"
INSERT = "INSERT OR IGNORE INTO samples VALUES (?, ?)"

Record = dict[str, Any]


class Records(Protocol):
    """What measuring needs of a store."""

    def get(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records that are there, by key."""

    def put(self, records: Mapping[str, Record]) -> None:
        """Keep records."""


def content_key(parts: Mapping[str, object]) -> str:
    """sha256 of the canonical JSON of ``parts``: equal for equal contents, whatever the order of the names."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class SampleStore:
    """Records by key. Several processes may share the file, threads one after another; each ``put`` is one transaction.

    Args:
        path: the file; made, with its folder, by the first record. None keeps the records in memory only.

    Raises:
        UserError: if the file is damaged, is not a store, or cannot be written.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = None if path is None else Path(path)
        self._opened: sqlite3.Connection | None = None
        self._found()

    def get(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records that are there, by key."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Record] = {}
        database = self._found()
        if database is None:
            return found
        with self._explained():
            for first in range(0, len(wanted), KEYS_PER_QUERY):
                some = wanted[first : first + KEYS_PER_QUERY]
                query = f"SELECT key, record FROM samples WHERE key IN ({','.join('?' * len(some))})"
                found |= {key: json.loads(record) for key, record in database.execute(query, some)}
        return found

    def put(self, records: Mapping[str, Record]) -> None:
        """Keep all of ``records`` or, if interrupted, none; a key that is there already keeps its first record."""
        rows = [(key, json.dumps(record, allow_nan=False)) for key, record in records.items()]
        if self._found() is None and self.path is not None and make(self.path, lambda path: self._write(path, rows)):
            return
        database = self._found()
        assert database is not None
        with self._explained(), _transaction(database):
            database.executemany(INSERT, rows)

    def _write(self, path: Path, rows: Sequence[tuple[str, str]]) -> None:
        """A new file with its first records in it: where they find no room, there is no file."""
        with self._explained(), closing(sqlite3.connect(path, isolation_level=None)) as database:
            self._prepare(database)
            with _transaction(database):
                database.executemany(INSERT, rows)

    def __len__(self) -> int:
        database = self._found()
        with self._explained():
            return int(database.execute("SELECT count(*) FROM samples").fetchone()[0]) if database else 0

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def remove(self) -> None:
        """Close the store, and remove its file with what SQLite keeps beside it."""
        self.close()
        self._opened = None
        for end in ("", "-wal", "-shm") if self.path is not None else ():
            Path(f"{self.path}{end}").unlink(missing_ok=True)

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _found(self) -> sqlite3.Connection | None:
        """The database; None as long as nobody has made it."""
        if self._opened is None and (self.path is None or os.path.lexists(self.path)):
            return self._open()
        return self._opened

    def _open(self) -> sqlite3.Connection:
        with self._explained():
            if self.path is not None and not self.path.is_file():
                raise UserError(f"{self.path} is no regular file, expected one for records", ELSEWHERE)
            database = sqlite3.connect(
                self.path or ":memory:", timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
            )  # one thread at a time, which need not be the one that opened it: notebooks run coroutines beside theirs
            try:
                self._prepare(database)
            except BaseException:
                database.close()
                raise
        self._opened = database
        return database

    def _prepare(self, database: sqlite3.Connection) -> None:
        """Make the table in an empty file; refuse a file that is damaged or belongs to something else."""
        if _pragma(database, "quick_check") != "ok":
            raise sqlite3.DatabaseError("the integrity check failed")
        with _transaction(database):
            ours = _pragma(database, "application_id") == APPLICATION_ID
            if not ours and _pragma(database, "schema_version") != 0:
                raise UserError(f"{self.path} is a database of something else", ELSEWHERE)
            database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            database.execute(TABLE)
        _pragma(database, "journal_mode = WAL")
        _pragma(database, "synchronous = NORMAL")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite, JSON and the file system say into what the user can do."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise UserError(
                f"cannot use {self.path}: {error}", "Check that the folder can be written and that its disk has room."
            ) from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise UserError(
                f"{self.path} is damaged: {error}",
                "Move it away (what it held will be computed again), or choose another folder: -o OUT.",
            ) from error


def _pragma(database: sqlite3.Connection, statement: str) -> object:
    row = database.execute(f"PRAGMA {statement}").fetchone()
    return row[0] if row else None


@contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
