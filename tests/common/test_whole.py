"""What is written appears whole or not at all, and a kill leaves nothing for long."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ropewalk import UserError
from ropewalk.cli.main import run
from ropewalk.common import whole
from ropewalk.common.files import LOCK, OLD, RECORD
from tests.cli.test_main import refused
from tests.common.test_files import content, made, source

__all__ = ["made", "source"]  # fixtures
MARK = ".ropewalk-"
ROOT = Path(__file__).parents[2]
WRITER = """
import sys, time
from pathlib import Path
from ropewalk.common.whole import new_file, new_folder, write_text
kind, out = sys.argv[1], Path(sys.argv[2])
def pause(path):
    path.write_bytes(b"x" * 1_000_000)
    print("writing", flush=True)
    time.sleep(60)
if kind == "folder":
    with new_folder(out, [], True) as folder:
        pause(folder / "model.safetensors")
else:
    with new_file(out, lambda _: True, [], True) as file:
        pause(file)
"""


def killed(kind: str, out: Path) -> None:
    """A writer that is killed in the middle."""
    process = subprocess.Popen([sys.executable, "-c", WRITER, kind, str(out)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"writing\n"
    process.kill()
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "a long name.d"
    for _ in range(2):
        killed(kind, out)
    other = tmp_path / "a long name.d.other"
    killed(kind, other)
    litter = [file.name for file in tmp_path.iterdir()]
    assert len(litter) == 2 and all(MARK in name for name in litter), "the second kill came after a sweep"
    if kind == "file":
        with whole.new_file(out, lambda _: True, []) as file:
            file.write_text("new")
    else:
        with whole.new_folder(out, []) as folder:
            (folder / "config.json").write_text("{}")
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names[1:] == ["a long name.d"] and names[0].startswith(f".{other.name}{MARK}"), "others are left alone"


def test_a_writer_at_work_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with whole.new_file(out, lambda _: True, [], True) as slow:
        slow.write_text("slow")
        with whole.new_file(out, lambda _: True, [], True) as quick:
            quick.write_text("quick")
        assert out.read_text() == "quick" and slow.read_text() == "slow"
    assert out.read_text() == "slow" and os.listdir(tmp_path) == ["out"]


def test_litter_is_not_somebody_elses_file(source: Path) -> None:
    killed("file", source / "config.json")
    assert any(MARK in name for name in os.listdir(source))
    with whole.new_folder(source, [], overwrite=True) as folder:
        (folder / "config.json").write_text("{}")
    assert sorted(os.listdir(source)) == ["config.json", RECORD]


MINE = {  # a folder of the user's -> what is in it
    f".out{MARK}notes": ("thesis.txt",), f".out{MARK}notes2": ("thesis.txt", LOCK), f".out{MARK}01234567": ("thesis",),
    f".out{MARK}0123456789": ("out", LOCK), f"out{MARK}01234567": ("out", LOCK), f".out{MARK}0123456g": ("out", LOCK),
    f"sub{MARK}x": ("thesis.txt",), f"x{MARK}": (LOCK,), f".out{MARK}89abcdef": ("thesis", "out", LOCK),
}  # fmt: skip


@pytest.mark.parametrize("name", MINE)
@pytest.mark.parametrize("deep", [False, True])
def test_what_is_no_litter_stays(name: str, deep: bool, source: Path) -> None:
    mine = (source / "runs" if deep else source) / name
    mine.mkdir(parents=True)
    for file in MINE[name]:
        (mine / file).write_text("years of work")
    whole.write_text(mine.parent / "out", "x")
    with pytest.raises(UserError, match="ropewalk replaces only"), whole.new_folder(source, [], True):
        pass
    (mine.parent / "out").unlink()
    with pytest.raises(UserError, match="ropewalk replaces only"), whole.new_folder(source, [], True):
        pass
    assert {file.name for file in mine.iterdir()} == set(MINE[name])


def test_nor_a_link_that_is_named_so(source: Path, tmp_path: Path) -> None:
    (tmp_path / "away").mkdir()
    (source / f".out{MARK}01234567").symlink_to(tmp_path / "away", target_is_directory=True)
    with pytest.raises(UserError, match="ropewalk replaces only"), whole.new_folder(source, [], True):
        pass


def test_an_old_folder_that_was_set_aside_comes_back(tmp_path: Path) -> None:
    """Where a system cannot swap folders, a kill between the steps leaves the old one aside."""
    out, aside = tmp_path / "out", tmp_path / f".out{MARK}0123abcd"
    (aside / OLD / "out").mkdir(parents=True)
    (aside / OLD / "out" / "model.safetensors").write_text("old")
    (aside / LOCK).touch()
    with pytest.raises(UserError, match="exists already"), whole.new_folder(out, []) as folder:
        (folder / "model.safetensors").write_text("new")
    assert (out / "model.safetensors").read_text() == "old" and os.listdir(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("mask", "folder", "file"), [(0o077, 0o700, 0o600), (0o022, 0o755, 0o644), (0o002, 0o775, 0o664)]
)
def test_the_umask_is_honoured(mask: int, folder: int, file: int, made: Path, tmp_path: Path) -> None:
    before = os.umask(mask)
    try:
        assert run(["extend", str(made / "plain"), "--to", "1k", "-o", str(tmp_path / "out")]) == 0
        whole.write_text(tmp_path / "text", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "out").stat().st_mode & 0o777 == folder
    own = [one for one in (tmp_path / "out").iterdir() if one.stat().st_nlink == 1]
    assert {one.stat().st_mode & 0o777 for one in (*own, tmp_path / "text")} == {file} and len(own) > 2


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("old")
    file.chmod(0o640)
    whole.write_text(file, "new")
    assert file.read_text() == "new" and file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("at", ["mkdir", "acquire"])
def test_a_signal_between_any_two_steps_leaves_nothing(
    at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Path if at == "mkdir" else whole.FileLock
    real = getattr(owner, at)

    def interrupted(*arguments: object, **named: object) -> None:
        real(*arguments, **named)
        if at == "acquire" or MARK in str(arguments[0]):
            raise KeyboardInterrupt

    monkeypatch.setattr(owner, at, interrupted)
    with pytest.raises(KeyboardInterrupt), whole.new_folder(tmp_path / "a" / "out", []):
        pass
    assert not list(tmp_path.iterdir())


def test_a_signal_while_it_is_cleaned_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = Path.unlink, []

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        calls.append(path)
        if len(calls) == 1:
            raise KeyboardInterrupt
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", interrupted)
    with pytest.raises(KeyboardInterrupt):
        whole.make(tmp_path / "out", lambda file: file.write_text("x"))
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_what_fails_leaves_no_folder(made: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole.new_folder(tmp_path / "a" / "b" / "out", []) as folder:
        (folder / "x").write_text(str(1 / 0))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "workers"),
    [(signal.SIGTERM, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        (signal.SIGINT, 1), (signal.SIGHUP, 1), (signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGHUP, 2)))],
)  # fmt: skip
def test_signals_end_a_run_cleanly_and_the_same_command_goes_on(number, workers, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["evaluate", str(made / "plain"), "--tasks", "niah", "--lengths", "256..2k", "--samples", "40"]
    command = [sys.executable, "-m", "ropewalk", *arguments, "--workers", str(workers), "-o", str(out)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not (out / "samples.sqlite").is_file() and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert "stopped: nothing is half written; what was finished is kept" in said and "Traceback" not in said
    left = {file.name.partition("-")[0] for file in out.iterdir()}
    if workers > 1:  # one of them may be ended while it makes the file, too late; the next run removes that
        left -= {".samples.sqlite.ropewalk"}
    assert left == {"samples.sqlite"}


WRITERS = {
    "safetensors": lambda file: save_file({"a": torch.zeros(100_000)}, file),
    "numpy": lambda file: np.zeros(100_000).tofile(file),
    "python": lambda file: file.write_bytes(bytes(400_000)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_writes_a_disk_that_takes_no_more_is_one_sentence(writer: str, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with (
            pytest.raises(UserError, match=r"(cannot write|no room for) .*out: (File too large|the disk has)"),
            whole.new_folder(tmp_path / "out", []) as stage,
        ):
            WRITERS[writer](stage / "file")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list(tmp_path.iterdir())


def test_a_failure_at_the_end_leaves_the_old_folder(made, source, monkeypatch, capsys):
    before = content(source)
    monkeypatch.setattr(whole, "_exchange", lambda *_: (_ for _ in ()).throw(OSError(5, "broken disk")))
    refused(capsys, "extend", made / "plain", "--to", "1k", "-o", source, "--overwrite")
    assert content(source) == before and sorted(source.parent.iterdir()) == [source]


def test_old_or_new_is_there_at_every_moment(made, source, monkeypatch):
    """Between any two calls that rename or remove, a kill finds a whole checkpoint."""
    for module, name in ((os, "replace"), (os, "rename"), (shutil, "rmtree")):
        real = getattr(module, name)

        def watched(*arguments, real=real, **more):
            real(*arguments, **more)
            assert (source / "config.json").is_file() and (source / "model.safetensors").is_file(), arguments

        monkeypatch.setattr(module, name, watched)
    assert run(["extend", str(made / "plain"), "--to", "1k", "-o", str(source), "--overwrite"]) == 0
    assert json.loads((source / RECORD).read_text())["target"] == 1024


@pytest.mark.parametrize("fails", [False, True])
def test_without_a_call_that_exchanges_a_failure_is_undone(fails, made, source, monkeypatch, capsys):
    before, real = content(source), os.replace

    def replace(one, other):
        if fails and Path(other) == source and (Path(one) / RECORD).is_file() and "old" not in str(one):
            raise OSError(5, "broken disk")
        real(one, other)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    monkeypatch.setattr(os, "replace", replace)
    code = run(["extend", str(made / "plain"), "--to", "1k", "-o", str(source), "--overwrite"])
    assert code == (2 if fails else 0) and (content(source) == before) == fails
    assert sorted(source.parent.iterdir()) == [source]


def test_what_comes_in_meanwhile_is_not_lost(source):
    with pytest.raises(UserError, match=r"holds thesis.txt"), whole.new_folder(source, [], True) as stage:
        (stage / "config.json").write_text("{}")
        (source / "thesis.txt").write_text("years of work")
    assert (source / "thesis.txt").is_file() and (source / "model.safetensors").is_file()


def test_three_runs_for_one_target_at_once_all_end_well(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys\nfrom pathlib import Path\nfrom ropewalk.common.whole import new_folder\nout = Path(sys.argv[1])\n"
        "for i in range(15):\n    with new_folder(out, [], True) as stage:\n"
        "        for j in range(30): (stage / f'{sys.argv[2]}-{j}').write_text('x' * i)\n"
    )
    with whole.new_folder(out, []) as stage:
        (stage / "first").touch()
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(out), str(n)], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    said = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0], "".join(said)
    assert os.listdir(tmp_path) == ["out"] and len(list(out.iterdir())) == 31
