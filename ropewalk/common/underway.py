"""A folder of work that is under way: one run at a time, and only of what was asked for when it began."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from re import Pattern
from typing import Any

from filelock import FileLock, Timeout

from ropewalk.common.errors import UserError
from ropewalk.common.files import explained, is_litter, resolved
from ropewalk.common.lengths import said
from ropewalk.common.outside import read_json
from ropewalk.common.whole import remove_litter, write_text

ASKED, LOCK, WRITING = "asked.json", "lock", "writing"


@dataclass(frozen=True)
class Underway:
    """Where a run keeps what it has done, until all of it is.

    Attributes:
        folder: its own.
        asked: all that decides the run, in plain values.
        kept: names of what is kept there; what is not yet kept lies under ``WRITING``.
        what: a word for that, in the plural, for messages.
    """

    folder: Path
    asked: Mapping[str, Any]
    kept: Pattern[str]
    what: str

    @contextmanager
    def opened(self, overwrite: bool = False) -> Iterator[None]:
        """Hold the folder for this run; it goes on leaving, if nothing is kept that a further run could go on with.

        Args:
            overwrite: throw away what another run left.

        Raises:
            UserError: if another run is at it, or left what was asked for otherwise.
        """
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._refuse_others()  # before a lock is left among them
            lock = FileLock(self.folder / LOCK)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise UserError(f"another run writes to {self.folder}", "Wait for it, or choose another -o.") from None
            try:
                self._sweep()
                self._begin(overwrite)
                try:
                    yield
                finally:
                    if self.folder.exists() and not self.all():
                        shutil.rmtree(self.folder / WRITING, ignore_errors=True)
                        self.remove()
            finally:
                lock.release()

    def all(self) -> list[Path]:
        """What is kept, by name."""
        found = self.folder.iterdir() if self.folder.exists() else ()
        return sorted(path for path in found if self.kept.fullmatch(path.name))

    @property
    def anew(self) -> str:
        """What to do about something that cannot be read."""
        return f"Begin anew: rm -r {shlex.quote(str(self.folder))}"

    def remove(self) -> None:
        """Remove all of it, when what it led to is written."""
        with explained(self.folder):
            for path in sorted(self.all(), key=lambda path: path.suffix != ".json"):  # what says that others are whole
                _removed(path)
            for name in (ASKED, LOCK):
                (self.folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # somebody's file, or a link to a folder
                self.folder.rmdir()

    def _refuse_others(self) -> None:
        kept, began = self.all(), (self.folder / ASKED).exists()
        ours = {ASKED, WRITING, *(path.name for path in kept)} if began else set()
        if not (self.folder / LOCK).exists() or (self.folder / LOCK).stat().st_size == 0:
            ours.add(LOCK)
        others = [path for path in self.folder.iterdir() if path.name not in ours and not is_litter(path)]
        if others:
            raise UserError(
                f"{self.folder} holds {others[0].name}, which no run of ours left",
                "Choose another -o, or move it away.",
            )

    def _sweep(self) -> None:
        """Remove what a killed run had begun to write; the folder is held, so that nobody is at it."""
        for path in self.folder.iterdir():
            if is_litter(path):
                remove_litter(path)

    def _begin(self, overwrite: bool) -> None:
        shutil.rmtree(self.folder / WRITING, ignore_errors=True)
        if (self.folder / ASKED).exists():
            differ = differences(read_json(self.folder / ASKED, mend=self.anew), self.asked)
            if differ and not overwrite:
                raise UserError(
                    f"{self.folder} holds {self.what} of a run that was asked for something else: "
                    f"{'; '.join(differ[:3])}",
                    "Ask for the same to go on, choose another -o, or add --overwrite to begin anew.",
                )
            if not differ:
                return
            for path in self.all():
                _removed(path)
        write_text(self.folder / ASKED, json.dumps(self.asked, indent=2) + "\n")


def differences(before: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """What was asked for otherwise, in words."""
    was, now = flat(before, "."), flat(asked, ".")
    return [
        f"{key} was {said(was.get(key))}, is {said(now.get(key))}"
        for key in {**was, **now}
        if was.get(key) != now.get(key)
    ]


def _removed(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def flat(content: Mapping[str, Any], between: str, prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, of names that ``between`` joins."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        whole = prefix + name
        found |= flat(value, between, whole + between) if isinstance(value, Mapping) else {whole: value}
    return found


def aside(out: Path, what: str) -> Path:
    """Where what a run to ``out`` keeps until it is done lies: ``OUT.what``."""
    place = resolved(out)
    return place.with_name(f"{place.name}.{what}")
