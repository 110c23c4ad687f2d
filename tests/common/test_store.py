from __future__ import annotations

import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.common.store import SampleStore, content_key

FILE = "samples.sqlite"
ROOT = Path(__file__).parents[2]
WRITER = """
import sys, time
from ropewalk.common.store import SampleStore, content_key
path, log, first = sys.argv[1], open(sys.argv[2], "a"), int(sys.argv[3])
with SampleStore(path) as store:
    keys = [content_key({"i": i}) for i in range(first, first + 3000)]
    for start in range(0, 3000, 5):
        batch = keys[start : start + 5]
        if len(store.get(batch)) == 5:
            continue
        store.put({key: {"i": first + start + j} for j, key in enumerate(batch)})
        print(*batch, file=log, flush=True)
        time.sleep(0.0005)
"""


def write(path: Path, log: Path, first: int = 0) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(log), str(first)], cwd=ROOT)


def test_key_is_of_the_content() -> None:
    assert content_key({"a": 1, "b": [1.5, "ü"]}) == content_key({"b": [1.5, "ü"], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": "1"})
    with pytest.raises(ValueError, match="JSON"):
        content_key({"a": float("nan")})


def test_records_come_back_in_another_run(tmp_path: Path) -> None:
    with SampleStore(tmp_path / "new" / FILE) as store:
        store.put({f"{i}": {"x": i / 3, "text": "é"} for i in range(1200)})
    with SampleStore(tmp_path / "new" / FILE) as store:
        assert len(store) == 1200
        found = store.get([f"{i}" for i in range(1100, 1300)])
        assert sorted(found, key=int) == [f"{i}" for i in range(1100, 1200)]
        assert found["1100"] == {"x": 1100 / 3, "text": "é"}


def test_the_first_record_stays_and_a_batch_is_whole_or_absent() -> None:
    store = SampleStore()
    store.put({"a": {"v": 1}})
    store.put({"a": {"v": 2}, "b": {"v": 2}})
    assert store.get(["a", "b"]) == {"a": {"v": 1}, "b": {"v": 2}}
    with pytest.raises(ValueError, match="JSON"):
        store.put({"c": {"v": 1}, "d": {"v": float("inf")}})
    assert not store.get(["c", "d"])


def test_killed_at_any_moment_nothing_committed_is_lost_or_done_twice(tmp_path: Path) -> None:
    rng, log = random.Random(0), tmp_path / "log"
    for _ in range(6):
        process = write(tmp_path / FILE, log)
        time.sleep(rng.uniform(0.02, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert write(tmp_path / FILE, log).wait() == 0
    written = [key for line in log.read_text().splitlines() for key in line.split()]
    with SampleStore(tmp_path / FILE) as store:
        assert len(store) == 3000
        keys = {content_key({"i": i}): {"i": i} for i in range(3000)}
        assert store.get(keys) == keys
    assert len(written) == len(set(written))


def test_two_processes_share_a_file(tmp_path: Path) -> None:
    processes = [write(tmp_path / FILE, tmp_path / f"log{first}", first) for first in (0, 1500)]
    assert [process.wait() for process in processes] == [0, 0]
    with SampleStore(tmp_path / FILE) as store:
        assert len(store) == 4500


def damaged(path: Path) -> None:
    with SampleStore(path) as store:
        store.put({content_key({"i": i}): {"i": i} for i in range(500)})
    data = bytearray(path.read_bytes())
    data[4096 : len(data)] = random.Random(0).randbytes(len(data) - 4096)
    path.write_bytes(data)


def foreign(path: Path) -> None:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE accounts (name TEXT)")


@pytest.mark.parametrize(
    ("make", "message", "mend"),
    [
        (
            lambda path: path.write_text("not a database, but long enough to be read as one" * 99),
            "damaged",
            "Move it away",
        ),
        (damaged, "damaged", "Move it away"),
        (foreign, "something else", "nother folder"),
        (lambda path: path.mkdir(), "no regular file", "nother folder"),
    ],
    ids=["text", "damaged", "foreign", "folder"],
)
def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path, make, message: str, mend: str) -> None:
    path = tmp_path / FILE
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    with pytest.raises(UserError) as caught:
        SampleStore(tmp_path / FILE)
    assert str(path) in caught.value.message and message in caught.value.message
    assert mend in caught.value.mend
    assert (path.read_bytes() if path.is_file() else b"") == before


def test_a_killed_creation_leaves_a_file_that_works(tmp_path: Path) -> None:
    (tmp_path / FILE).touch()
    with SampleStore(tmp_path / FILE) as store:
        assert len(store) == 0


@pytest.mark.parametrize("room", [0, 4096, 9000, 20_000])
def test_a_first_record_without_room_leaves_no_file_and_no_folder(room: int, tmp_path: Path) -> None:
    store, limits = SampleStore(tmp_path / "out" / FILE), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(UserError, match=r"samples\.sqlite"):
            store.put({"a": {"text": "x" * 30_000}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir()) and not store.get(["a"])
    store.put({"a": {"x": 1}})
    assert SampleStore(store.path).get(["a"]) == {"a": {"x": 1}}
