"""Where ropewalk may write: nothing is lost that it did not write itself.

Every verb asks here first, ``common.whole`` writes. An output lies apart from what it is made of, under whatever names
(links, ``..``, another case, the same file twice), and takes the place of nothing but what ropewalk wrote: folders are
known by the record in them, files by a mark inside.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ropewalk.common.errors import UserError
from ropewalk.common.outside import read_json

RECORD = "ropewalk.json"  # in every folder that ropewalk writes: what it did, and which files are its own
AWAY = "Choose another place, or move what is there away first."
SHOWN = 3  # names in a message
RECORDS = 1 << 30  # bytes of results that may be read
LOCK, OLD = "lock", "old"  # in a folder in which something is being written
LITTER = re.compile(r"\.(.{1,40})\.ropewalk-[0-9a-f]{8}", re.DOTALL)  # such a folder; the name begins as what it makes


def resolved(path: Path) -> Path:
    """Where ``path`` lies when ``~``, links and ``..`` are followed as the system follows them.

    Raises:
        UserError: if no file can have this path.
    """
    try:
        return Path(os.path.realpath(path.expanduser()))
    except (OSError, ValueError, RuntimeError) as error:  # a null byte, an unknown user
        raise UserError(f"{str(path)!r} cannot be a path: {error}", "Choose another path.") from None


def refuse_onto(out: Path, sources: Iterable[Path], around: bool = False) -> None:
    """Refuse a resolved output that would change a source: a file, or a folder with all that its links lead to.

    Args:
        out: need not exist.
        sources: that exist or not.
        around: allow a folder that contains a source.

    Raises:
        UserError: if ``out`` is a source, lies inside one, or contains one.
    """
    with explained(out):
        for source in sources:
            for place, link in _places(resolved(source)):
                named = f"the source {source}" if link is None else f"{place}, to which {link} in the source leads"
                mend = "Choose a place apart from the source" + (", or take the link away." if link else ".")
                if _within(out, place):
                    itself = "the source itself" if link is None else named
                    what = f"is {itself}" if _within(place, out) else f"lies inside {named}"
                elif not around and _within(place, out):
                    what = f"contains {named}"
                else:
                    continue
                raise UserError(f"{out} {what}", mend)


def _places(source: Path) -> Iterator[tuple[Path, str | None]]:
    """A source and all that its links lead to, each with the link; what lies around it is not looked through."""
    waiting: list[tuple[Path, str | None]] = [(source, None)]
    seen: set[Path] = set()
    while waiting:
        place, link = waiting.pop()
        if place in seen:
            continue
        seen.add(place)
        yield place, link
        if link is not None and source.is_relative_to(place):
            continue
        for root, folders, names in os.walk(place):
            links = [os.path.join(root, name) for name in (*folders, *names)]
            waiting += [(Path(os.path.realpath(one)), one) for one in links if os.path.islink(one)]


def _within(inner: Path, outer: Path) -> bool:
    """Whether ``inner`` is ``outer`` or below it; device and inode decide, where both exist."""
    if not outer.exists():
        return inner.is_relative_to(outer)
    return any(path.exists() and path.samefile(outer) for path in (inner, *inner.parents))


def folder_to_write(path: Path, sources: Iterable[Path] = (), overwrite: bool = False) -> Path:
    """Where a folder will be written; resolved, and safe to replace if it is there.

    Raises:
        UserError: if it touches a source, or exists; with ``overwrite``, if ropewalk did not write all that is in it.
    """
    out = resolved(path)
    refuse_onto(out, sources)
    with explained(out):
        if not os.path.lexists(out):
            return out
        strange = _strange(out)
    if strange:
        raise UserError(f"{out} exists already, and {strange}; ropewalk replaces only what it wrote", AWAY)
    if not overwrite:
        raise UserError(f"{out} exists already", "Choose another folder, or add --overwrite.")
    return out


def _strange(folder: Path) -> str:
    """What in a folder ropewalk did not write; empty if there is nothing.

    The record names every file with its size and time, so that trained weights saved under an old name, and a
    configuration that somebody edited, count as another's; ropewalk's own edits are noted there.
    """
    while True:
        record = record_in(folder)
        with suppress(FileNotFoundError):
            strange = _besides(folder, record.get("files"))
            if record_in(folder) == record:  # else another run put a new folder there meanwhile
                return strange


def _besides(folder: Path, known: Any) -> str:
    if not folder.is_dir():
        return "is no folder"
    if not any(folder.iterdir()):
        return ""
    if not isinstance(known, dict):
        return f"has no {RECORD} that lists its files"
    names = [
        f"{name} (changed since)" if name in known else name
        for name, stamp in inventory(folder).items()
        if known.get(name) != stamp
    ]
    return f"holds {listed(names)}" if names else ""


def record_in(folder: Path) -> dict[str, Any]:
    """The record in a folder; empty if there is none that can be read."""
    return _json(folder / RECORD)


def _json(file: Path) -> dict[str, Any]:
    """The JSON object in a file; empty if there is none."""
    try:
        return read_json(file, most=RECORDS)
    except UserError:
        return {}


def inventory(folder: Path) -> dict[str, list[int]]:
    """Relative name -> size in bytes, time of the last change in ns; without the record and what killed runs left.

    Folders stand for what is in them; empty ones are named too (``NAME/``), so that nobody's is replaced unseen.
    """
    found = {}
    for root, folders, names in os.walk(folder):
        if not folders and not names:
            found[f"{Path(root).relative_to(folder).as_posix()}/"] = [0, 0]
        folders[:] = [name for name in folders if not is_litter(Path(root, name))]
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for file in (Path(root, name) for name in (*names, *links)):
            stat = file.lstat()
            found[file.relative_to(folder).as_posix()] = [stat.st_size, stat.st_mtime_ns]
    found.pop(RECORD, None)
    found.pop("./", None)
    return dict(sorted(found.items()))


def beginning(name: str) -> str:
    """What the names of the folders begin with in which ``name`` is written."""
    return f".{name[:40]}.ropewalk-"


def is_litter(folder: Path) -> bool:
    """Whether a folder is one in which ropewalk writes or was writing, with nothing of anybody else's in it."""
    name = LITTER.fullmatch(folder.name)
    if name is None or folder.is_symlink() or not folder.is_dir():
        return False
    try:
        inside = set(os.listdir(folder))
    except OSError as error:  # its writer was ready meanwhile, or it is not ours
        return isinstance(error, FileNotFoundError)
    return not inside or (LOCK in inside and all(one.startswith(name[1]) for one in inside - {LOCK, OLD}))


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:SHOWN]) + (f" and {len(every) - SHOWN} more" if len(every) > SHOWN else "")


def file_to_write(
    path: Path, written: Callable[[Path], bool], sources: Iterable[Path] = (), overwrite: bool = False
) -> Path:
    """Where a single file will be written; resolved, and safe to replace if it is there.

    Args:
        path: as the user spells it.
        written: whether ropewalk wrote a regular file, by a mark inside it.
        sources: what the file is made of.
        overwrite: replace a file that ropewalk wrote.

    Raises:
        UserError: if it touches a source, or exists; with ``overwrite``, if ropewalk did not write it.
    """
    out = resolved(path)
    refuse_onto(out, sources)
    with explained(out):
        if not os.path.lexists(out):
            return out
        if not (out.is_file() and written(out)):
            raise UserError(
                f"{out} exists already, and ropewalk did not write it; it replaces only what it wrote", AWAY
            )
    if not overwrite:
        raise UserError(f"{out} exists already", "Choose another file, or add --overwrite.")
    return out


def _has_version(file: Path) -> bool:
    """Whether a results.json is ropewalk's."""
    versions = _json(file).get("versions")
    return isinstance(versions, dict) and "ropewalk" in versions


def is_page(file: Path) -> bool:
    """Whether a page is ropewalk's."""
    with open(file, "rb") as stream:
        return "· ropewalk</title>".encode() in stream.read(1 << 16)


def _has_answers(file: Path) -> bool:
    """Whether an answers.jsonl is ropewalk's."""
    with open(file, "rb") as stream:
        first = stream.readline(1 << 24)
    return not first or (first.startswith(b'{"length": ') and b'"prediction": ' in first)


RESULTS: dict[str, Callable[[Path], bool]] = {  # file -> whether ropewalk wrote it
    "results.json": _has_version,
    "report.html": is_page,
    "answers.jsonl": _has_answers,
}


def refuse_results(folder: Path, sources: Iterable[Path] = ()) -> None:
    """Refuse a folder for results where they would replace or join what is not theirs.

    A folder that contains a source is fine, since only ropewalk's own results are replaced in it.

    Raises:
        UserError: if it is a checkpoint, lies inside a source, cannot be written, or holds a file of the same name that
            ropewalk did not write.
    """
    out = resolved(folder)
    sources = list(sources)
    for name, ours in RESULTS.items():
        file = out / name
        refuse_onto(file, sources, around=True)
        with explained(file):
            if os.path.lexists(file) and not (file.is_file() and ours(file)):
                raise UserError(f"{file} was not written by ropewalk, and results would replace it", AWAY)
    with explained(out):
        if any(out.glob("*.safetensors")) or "model_type" in _json(out / "config.json"):
            raise UserError(f"{out} is a checkpoint, expected a folder for results", "Choose another folder: -o OUT.")
    require_writable(out)


def require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be written, or made, before there is something to write.

    Raises:
        UserError: saying why.
    """
    with explained(folder):
        place = _existing(resolved(folder))
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(place, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an operating-system error about ``path`` into one that says what to do.

    Raises:
        UserError: in place of OSError.
    """
    try:
        yield
    except UserError:
        raise
    except BaseException as caught:
        error = _failed(caught)
        if not isinstance(error, Exception):  # a stop
            raise error from None
        number = _number(error)
        if number is None and not isinstance(error, OSError):
            raise
        if number in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(_existing(path)).free
            raise UserError(
                f"no room for {path}: the disk has {free / 1e6:,.1f} MB left", "Free some space, or write elsewhere."
            ) from None
        said = os.strerror(number) if number else error
        raise UserError(f"cannot write {path}: {said}", "Choose a folder that you may write.") from None


def _failed(error: BaseException) -> BaseException:
    """What failed: torch's distributed checkpoints raise one error for those of all processes; a stop goes first."""
    failures = getattr(error, "failures", None)
    found = [one for one, _ in failures.values()] if isinstance(failures, dict) else []
    return min(found, key=lambda one: isinstance(one, Exception), default=error)


def _number(error: Exception) -> int | None:
    """The system's number of an error, also of one that only tells it: of safetensors, and of numpy, in bytes."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    told = re.search(r"\(os error (\d+)\)$", str(error))
    if told:
        return int(told[1])
    return errno.ENOSPC if re.search(r"\d requested and \d+ written$", str(error)) else None


def _existing(path: Path) -> Path:
    return next((p for p in (path, *path.parents) if p.exists()), Path("/"))
