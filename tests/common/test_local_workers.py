"""Parts of work on processes: all of them are done, whoever dies, and a part that fails says why."""

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from ropewalk.common.errors import UserError
from ropewalk.common.local_workers import on_processes


def note(folder: Path, one: int) -> None:
    (folder / f"{one}-{os.getpid()}").touch()


def note_or_die(folder: Path, one: int) -> None:
    died = folder / "died"
    if one == 3 and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    note(folder, one)


def fail(one: int) -> None:
    raise UserError(f"{one} is none", "Give another.")


def die(one: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_all_parts_are_done_on_other_processes(tmp_path):
    assert sorted(on_processes(partial(note, tmp_path), range(5), 2)) == [0, 1, 2, 3, 4]
    done = [one.name.split("-") for one in tmp_path.iterdir()]
    assert sorted(int(one) for one, _ in done) == [0, 1, 2, 3, 4]
    assert str(os.getpid()) not in {process for _, process in done}


def test_what_a_worker_that_died_had_is_done_by_another(tmp_path):
    assert sorted(on_processes(partial(note_or_die, tmp_path), range(5), 1)) == [0, 1, 2, 3, 4]
    assert sorted(int(one.name.split("-")[0]) for one in tmp_path.glob("*-*")) == [0, 1, 2, 3, 4]


def test_what_fails_and_workers_that_die_again_are_told():
    with pytest.raises(UserError, match="7 is none"):
        list(on_processes(fail, [7], 1))
    with pytest.raises(UserError, match=r"a worker died 3 times; 1 jobs are left, the first is part 7"):
        list(on_processes(die, [7], 1, "part {}".format))
