"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ropewalk.common.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically: the old content stays until the new one is complete.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@contextmanager
def new_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A folder that appears at ``path`` only when everything in it is written.

    Yields:
        A temporary folder beside ``path``; it is renamed on success and removed on failure.

    Raises:
        UserError: if ``path`` exists and ``overwrite`` is False, cannot be written, or the disk is full.
    """
    path = path.expanduser().absolute()
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists already", "Choose another folder, or add --overwrite.")
    if path.exists() and not (path.is_dir() and ((path / "config.json").is_file() or not any(path.iterdir()))):
        raise UserError(f"{path} is no checkpoint folder; it will not be overwritten", "Choose another folder.")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        with explained(path):
            yield temporary
            os.chmod(temporary, 0o755)
            if path.exists():
                old = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.old."))
                os.replace(path, old / "old")
                os.replace(temporary, path)
                shutil.rmtree(old)
            else:
                os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_file(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """A file that appears at ``path`` only when it is complete.

    Yields:
        A temporary path beside it; what is written there is renamed on success and removed on failure.

    Raises:
        UserError: if ``path`` exists and ``overwrite`` is False, cannot be written, or the disk is full.
    """
    path = path.expanduser().absolute()
    if path.is_dir() or (path.exists() and not overwrite):
        raise UserError(f"{path} exists already", "Choose another file, or add --overwrite.")
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating-system error about ``path`` into one that says what to do.

    Raises:
        UserError: in place of OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(path)).free
            raise UserError(
                f"no room for {path}: the disk has {free / 1e6:,.1f} MB left", "Free some space, or write elsewhere."
            ) from None
        raise UserError(
            f"cannot write {path}: {error.strerror or error}", "Choose a folder that you may write."
        ) from None


def _existing(path: Path) -> Path:
    return next((p for p in (path, *path.parents) if p.exists()), Path("/"))
