"""Files and folders that appear only when they are whole: a kill leaves the old or the new, and no litter for long.

What is being written lies in a folder beside its place, ``.NAME.ropewalk-XXXX``, and its writer holds a lock in there.
A lock that nobody holds is that of a killed writer: the next one who writes to the same place removes the folder.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from ropewalk import __version__
from ropewalk.common.files import (
    LOCK,
    OLD,
    RECORD,
    beginning,
    explained,
    file_to_write,
    folder_to_write,
    inventory,
    is_litter,
    record_in,
)

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically: what is there stays until the new is complete, and keeps its permissions.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    with explained(path), _aside(path) as temporary:
        temporary.write_text(text, "utf-8")
        if path.is_file():
            shutil.copymode(path, temporary)
        _synced(temporary)
        os.replace(temporary, path)


@contextmanager
def new_file(
    path: Path, written: Callable[[Path], bool], sources: Sequence[Path], overwrite: bool = False
) -> Iterator[Path]:
    """A file that appears at ``path`` only when it is complete; what it replaces stays until then.

    Args:
        path: as the user spells it.
        written: whether ropewalk wrote a file, by a mark inside it.
        sources: what the file is made of.
        overwrite: replace a file that ropewalk wrote.

    Yields:
        A path to write to; what is there is moved to ``path`` on success and removed on failure.

    Raises:
        UserError: as ``file_to_write``, or if it cannot be written, or the disk is full.
    """
    out = file_to_write(path, written, sources, overwrite)
    with explained(out), _aside(out) as temporary:
        yield temporary
        _synced(temporary)
        os.replace(temporary, file_to_write(out, written, sources, overwrite))


@contextmanager
def new_folder(path: Path, sources: Sequence[Path], overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears at ``path`` only when everything in it is written, with a record of its files.

    What it replaces stays until then, and goes at once: a kill leaves the old folder or the new one.

    Args:
        path: as the user spells it.
        sources: what the folder is made of.
        overwrite: replace a folder that ropewalk wrote.

    Yields:
        A folder to write into; it is moved to ``path`` on success and removed on failure.

    Raises:
        UserError: as ``folder_to_write``, or if it cannot be written, or the disk is full.
    """
    out = folder_to_write(path, sources, overwrite)
    with explained(out), _aside(out) as temporary:
        temporary.mkdir()
        yield temporary
        record = {"ropewalk": __version__, **record_in(temporary), "files": inventory(temporary)}
        write_text(temporary / RECORD, json.dumps(record, indent=2) + "\n")
        _as_umask_says(temporary)
        if os.path.lexists(folder_to_write(out, sources, overwrite)):  # asked again: much can happen meanwhile
            _exchange(temporary, out)
        else:
            os.replace(temporary, out)


def make(path: Path, write: Callable[[Path], object]) -> bool:
    """Make a file that appears only when it is whole, and never takes the place of another.

    Args:
        path: need not be free.
        write: writes a file to the path that it is given.

    Returns:
        False if ``path`` is taken; what is there stays.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    with explained(path), _aside(path) as temporary:
        write(temporary)
        _synced(temporary)
        try:
            os.link(temporary, path)
        except OSError:  # it is taken, or the disk has no links
            if os.path.lexists(path):
                return False
            os.replace(temporary, path)
    return True


@contextmanager
def edits(folder: Path) -> Iterator[Callable[[Path, str], Path]]:
    """Changes of files in a folder: all or none. In a folder of ropewalk's own, files that were its own stay so.

    A file that changes stays beside as NAME.bak, or as the first of NAME.bak.1, NAME.bak.2, ... that is free; that copy
    is whole before the file is touched. After a failure it goes back to its place, which needs no room on the disk.

    Yields:
        A function that writes the text of a file, and returns where the old one is kept.

    Raises:
        UserError: if a file cannot be written, or the disk is full.
    """
    known = record_in(folder).get("files")
    known = known if isinstance(known, dict) else {}
    own = {name for name, stamp in inventory(folder).items() if known.get(name) == stamp}
    kept: dict[Path, Path] = {}

    def write(file: Path, text: str) -> Path:
        if file not in kept:
            with explained(file):
                kept[file] = _backup(file)
        write_text(file, text)
        return kept[file]

    try:
        yield write
        pairs = [[one.relative_to(folder).as_posix() for one in pair] for pair in kept.items()]
        ours = [name for pair in pairs if pair[0] in own for name in pair]
        if ours:
            stamps = inventory(folder)
            record = record_in(folder) | {"files": known | {name: stamps[name] for name in ours}}
            write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
    except BaseException:
        for file, copy in kept.items():
            with explained(file):
                if file.is_file() and file.read_bytes() == copy.read_bytes():
                    copy.unlink()
                else:
                    os.replace(copy, file)
        raise


def _backup(file: Path) -> Path:
    """Copy a file to a free name beside it, with its time, by which a record knows it."""
    for n in itertools.count():
        copy = file.with_name(f"{file.name}.bak" + (f".{n}" if n else ""))
        if not os.path.lexists(copy) and make(copy, lambda path: shutil.copy2(file, path)):
            return copy
    raise AssertionError


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A free path of the same name on the disk of ``out``; what is left there in the end goes, with all around it."""
    made = [folder for folder in (out.parent, *out.parent.parents) if not folder.exists()]
    folder = (
        out.parent / f"{beginning(out.name)}{secrets.token_hex(4)}"
    )  # known before it is there: a signal leaves nothing
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out)
        _lock(folder, lock)
        yield folder / out.name
    finally:
        try:
            remove_litter(folder)
        finally:  # a signal in the middle of it: the rest
            remove_litter(folder)
        lock.release()
        with suppress(OSError):  # they are not empty, as they should
            for parent in made:
                parent.rmdir()


def _lock(folder: Path, lock: FileLock) -> None:
    """Make a folder, and hold the lock in it."""
    while True:
        try:
            folder.mkdir(0o700, exist_ok=True)
            lock.acquire()
        except NotImplementedError:  # a disk without locks: nobody removes the folder, not even when it is litter
            return
        except (Timeout, FileNotFoundError, FileExistsError):  # taken for litter before it was locked
            time.sleep(0.1)
            continue
        if (folder / LOCK).exists():
            return
        lock.release(force=True)


def remove_litter(folder: Path) -> None:
    """Remove a folder in which something was written, the lock last: what a kill leaves of it is known as ours."""
    with suppress(OSError):
        for path in [one for one in folder.iterdir() if one.name != LOCK]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        (folder / LOCK).unlink(missing_ok=True)
        folder.rmdir()


def sweep(out: Path) -> None:
    """Remove what killed writers of a place left, and put back the folder that one was about to replace."""
    for name in os.listdir(out.parent):
        folder = out.parent / name
        if not name.startswith(beginning(out.name)) or not is_litter(folder):
            continue
        if not (folder / LOCK).exists():
            with suppress(OSError):  # something came into it meanwhile
                folder.rmdir()
            continue
        lock = FileLock(folder / LOCK, timeout=0)
        with suppress(Timeout, NotImplementedError, FileNotFoundError), lock:  # its writer may just have removed it
            if (folder / OLD / out.name).exists() and not os.path.lexists(out):
                os.replace(folder / OLD / out.name, out)
            remove_litter(folder)


def _exchange(one: Path, other: Path) -> None:
    """Swap two folders in one step, where the system can (Linux); else in three, undone if one fails."""
    try:
        swap = ctypes.CDLL(None).renameat2
        if swap(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
            return
    except (AttributeError, TypeError, OSError):  # no such call
        pass
    old = one.parent / OLD / other.name
    old.parent.mkdir()
    os.replace(other, old)
    try:
        os.replace(one, other)
    except BaseException:
        os.replace(old, other)
        raise


def _as_umask_says(folder: Path) -> None:
    """Let all files be as readable as files are that are simply made: some writers make theirs for their user alone."""
    mode = folder.stat().st_mode & 0o666
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and file.stat().st_nlink == 1:  # links are the source's
            os.chmod(file, mode)


def _synced(file: Path) -> None:
    with open(file, "rb") as stream:
        os.fsync(stream.fileno())
