"""Records of evaluated samples that survive a kill at any moment: one SQLite file, one JSON record per sample.

The key of a record is a hash of everything that the sample depends on, so that a record is right for ever: a run that
finds it need not compute it, whichever run wrote it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from ropewalk.common.errors import UserError

APPLICATION_ID = 0x526F7065  # "Rope"; marks the file as ours
WAIT_SECONDS = 60  # for another process that is writing
KEYS_PER_QUERY = 500
TABLE = "CREATE TABLE IF NOT EXISTS samples (key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID"

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
    """Records by key. Several processes may share the file; each ``put`` is one transaction.

    Args:
        path: the file; made, with its folder, if it is not there. None keeps the records in memory only.

    Raises:
        UserError: if the file is damaged, is not a store, or cannot be written.
    """

    def __init__(self, path: str | Path | None = None):
        self.path = None if path is None else Path(path)
        with self._explained():
            if self.path is not None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path or ":memory:", timeout=WAIT_SECONDS, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    def get(self, keys: Iterable[str]) -> dict[str, Record]:
        """The records that are there, by key."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Record] = {}
        with self._explained():
            for first in range(0, len(wanted), KEYS_PER_QUERY):
                some = wanted[first : first + KEYS_PER_QUERY]
                query = f"SELECT key, record FROM samples WHERE key IN ({','.join('?' * len(some))})"
                found |= {key: json.loads(record) for key, record in self._database.execute(query, some)}
        return found

    def put(self, records: Mapping[str, Record]) -> None:
        """Keep all of ``records`` or, if interrupted, none; a key that is there already keeps its first record."""
        rows = [(key, json.dumps(record, allow_nan=False)) for key, record in records.items()]
        with self._explained(), self._transaction():
            self._database.executemany("INSERT OR IGNORE INTO samples VALUES (?, ?)", rows)

    def __len__(self) -> int:
        with self._explained():
            return int(self._database.execute("SELECT count(*) FROM samples").fetchone()[0])

    def close(self) -> None:
        self._database.close()

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self) -> None:
        """Make the table in an empty file; refuse a file that is damaged or belongs to something else."""
        if self._pragma("quick_check") != "ok":
            raise sqlite3.DatabaseError("the integrity check failed")
        with self._transaction():
            ours = self._pragma("application_id") == APPLICATION_ID
            if not ours and self._pragma("schema_version") != 0:
                raise UserError(f"{self.path} is a database of something else", "choose another folder for records")
            self._database.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            self._database.execute(TABLE)
        self._pragma("journal_mode = WAL")
        self._pragma("synchronous = NORMAL")

    def _pragma(self, statement: str) -> object:
        row = self._database.execute(f"PRAGMA {statement}").fetchone()
        return row[0] if row else None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what SQLite, JSON and the file system say into what the user can do."""
        try:
            yield
        except (sqlite3.OperationalError, OSError) as error:
            raise UserError(
                f"cannot use {self.path}: {error}", "check that the folder can be written and that its disk has room"
            ) from error
        except (sqlite3.DatabaseError, json.JSONDecodeError) as error:
            raise UserError(
                f"{self.path} is damaged: {error}",
                f"rm -f {self.path} {self.path}-wal {self.path}-shm  (what it held will be computed again)",
            ) from error
