"""What a run goes on from: tensors through torch's distributed checkpoints, as safetensors, and a log beside them.

A state is written beside its place and moved there when it is whole, and the one before it goes only then. Nothing in
it is pickled. Tensors have names, so that a state that one layout of processes wrote is read by another.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.common.files import explained, resolved
from ropewalk.common.lengths import said
from ropewalk.common.outside import read_json
from ropewalk.common.whole import write_text
from ropewalk.training.processes import ALONE, Processes

ASKED, NOTES, LOCK, WRITING = "asked.json", "notes.json", "lock", "writing"
CHANCE = "chance "
STATE = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class States:
    """The states of one run, in a folder of their own.

    Attributes:
        folder: where they lie.
        asked: all that decides the run, in plain values.
        processes: that train together.
    """

    folder: Path
    asked: Mapping[str, Any]
    processes: Processes = ALONE

    @contextmanager
    def opened(self, overwrite: bool = False) -> Iterator[None]:
        """Hold the folder for this run.

        Args:
            overwrite: throw away the states of another run.

        Raises:
            UserError: if another run is at it, or its states are of a run that was asked for something else.
        """
        if not self.processes.first:
            self.processes.wait()
            yield
            return
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._refuse_others()  # before a lock is left among them
            lock = FileLock(self.folder / LOCK)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise UserError(f"another run writes to {self.folder}", "Wait for it, or choose another -o.") from None
            try:
                self._begin(overwrite)
                self.processes.wait()
                yield
            finally:
                lock.release()

    def _refuse_others(self) -> None:
        others = [
            path for path in self.folder.iterdir() if path.name not in (ASKED, LOCK, WRITING) and not _is_state(path)
        ]
        if others or (not (self.folder / ASKED).exists() and any(map(_is_state, self.folder.iterdir()))):
            raise UserError(
                f"{self.folder} holds {others[0].name if others else 'states'}, which no run of ours left",
                "Choose another -o, or move it away.",
            )

    def _begin(self, overwrite: bool) -> None:
        shutil.rmtree(self.folder / WRITING, ignore_errors=True)
        if (self.folder / ASKED).exists():
            differ = self._differ(read_json(self.folder / ASKED, mend=self.anew))
            if differ and not overwrite:
                raise UserError(
                    f"{self.folder} holds states of a run that was asked for something else: {'; '.join(differ[:3])}",
                    "Ask for the same to go on, choose another -o, or add --overwrite to begin anew.",
                )
            if not differ:
                return
            for state in self._all():
                shutil.rmtree(state)
        write_text(self.folder / ASKED, json.dumps(self.asked, indent=2) + "\n")

    def _differ(self, before: Mapping[str, Any]) -> list[str]:
        """What was asked for otherwise, in words."""
        was, now = flat(before, "."), flat(self.asked, ".")
        return [
            f"{key} was {said(was.get(key))}, is {said(now.get(key))}"
            for key in {**was, **now}
            if was.get(key) != now.get(key)
        ]

    @property
    def anew(self) -> str:
        """What to do about states that cannot be read."""
        return f"Begin anew: rm -r {shlex.quote(str(self.folder))}"

    def _all(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if _is_state(path)) if self.folder.exists() else []

    @property
    def latest(self) -> int | None:
        """Steps done in the newest state; None if there is none."""
        found = self._all()
        return int(found[-1].name.removeprefix("step-")) if found else None

    def notes(self) -> dict[str, Any]:
        """What was noted with the newest state.

        Raises:
            UserError: if it cannot be read.
        """
        file = self._all()[-1] / NOTES
        if not file.exists():
            raise UserError(f"the state {file.parent} lacks {NOTES}", self.anew)
        return read_json(file, most=MOST, mend=self.anew)

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Read the newest state into tensors, in place, whatever processes wrote it.

        Chance (names that begin with ``CHANCE``) is of a process: what the state lacks of it stays as it is.

        Raises:
            UserError: if its names, shapes or types are others.
        """
        from torch.distributed.checkpoint import load
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

        state = self._all()[-1]
        reader = HuggingFaceStorageReader(str(state))
        try:
            held = reader.read_metadata().state_dict_metadata
        except (SafetensorError, OSError) as error:
            raise UserError(f"the state {state} cannot be read: {error}", self.anew) from None
        tensors = {name: one for name, one in tensors.items() if name in held or not name.startswith(CHANCE)}
        wrong = sorted(name for name in {*held} ^ {*tensors} if not name.startswith(CHANCE))
        if wrong:
            raise UserError(
                f"the state {state} {'lacks' if wrong[0] in tensors else 'has'} {wrong[0]}, and {len(wrong) - 1} more "
                "differ",
                self.anew,
            )
        for name, one in tensors.items():
            found = held[name]
            size, kind = tuple(found.size), found.properties.dtype  # type: ignore[union-attr]
            if (size, kind) != (tuple(one.shape), one.dtype):
                raise UserError(
                    f"the state {state} has {name} as {kind} {list(size)}, expected {one.dtype} {list(one.shape)}",
                    self.anew,
                )
        with quiet():
            load(tensors, storage_reader=reader, no_dist=self.processes.count == 1)

    def save(self, step: int, tensors: Mapping[str, Tensor], notes: Mapping[str, Any]) -> None:
        """Write a state and remove the one before it.

        Args:
            step: steps done.
            tensors: by name; all processes give the same, or their shards.
            notes: plain values.
        """
        from torch.distributed.checkpoint import save
        from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

        writing, place = self.folder / WRITING, self.folder / f"step-{step:09d}"
        with explained(self.folder):
            writer = HuggingFaceStorageWriter(str(writing), save_distributed=self.processes.count > 1)
            with quiet():
                save(dict(tensors), storage_writer=writer, no_dist=self.processes.count == 1)
            if self.processes.first:
                write_text(writing / NOTES, json.dumps(notes))
                before = self._all()
                if place.exists():
                    shutil.rmtree(writing)
                else:
                    os.replace(writing, place)
                for state in before:
                    if state != place:
                        shutil.rmtree(state)
            self.processes.wait()

    def remove(self) -> None:
        """Remove all states, when what they led to is written."""
        if not self.processes.first:
            return
        with explained(self.folder):
            for state in self._all():
                shutil.rmtree(state)
            for name in (ASKED, LOCK):
                (self.folder / name).unlink(missing_ok=True)
            with suppress(OSError):  # somebody's file, or a link to a folder
                self.folder.rmdir()


MOST = 1 << 30  # bytes of notes


def flat(content: Mapping[str, Any], between: str, prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, of names that ``between`` joins."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        whole = prefix + name
        found |= flat(value, between, whole + between) if isinstance(value, Mapping) else {whole: value}
    return found


def _is_state(path: Path) -> bool:
    return STATE.fullmatch(path.name) is not None


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's words on what one process is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def beside(out: Path) -> Path:
    """Where the states of a run to ``out`` lie."""
    place = resolved(out)
    return place.with_name(f"{place.name}.training")
