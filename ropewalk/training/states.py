"""What a run goes on from: tensors through torch's distributed checkpoints, as safetensors, and a log beside them.

A state is written beside its place and moved there when it is whole, and the one before it goes only then. Nothing in
it is pickled. Tensors have names, so that a state that one layout of processes wrote is read by another.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from ropewalk.common.errors import UserError
from ropewalk.common.files import explained
from ropewalk.common.outside import read_json
from ropewalk.common.underway import WRITING, Underway, aside
from ropewalk.common.whole import write_text
from ropewalk.training.processes import ALONE, Processes

NOTES = "notes.json"
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

    @property
    def _underway(self) -> Underway:
        return Underway(self.folder, self.asked, STATE, "states")

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
        with self._underway.opened(overwrite):
            self.processes.wait()
            yield

    @property
    def anew(self) -> str:
        """What to do about states that cannot be read."""
        return self._underway.anew

    def _all(self) -> list[Path]:
        return self._underway.all()

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
        self._underway.remove()


MOST = 1 << 30  # bytes of notes


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's words on what one process is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield


def beside(out: Path) -> Path:
    """Where the states of a run to ``out`` lie."""
    return aside(out, "training")
